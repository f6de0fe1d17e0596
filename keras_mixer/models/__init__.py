"""The layers of MLP-Mixer, the named models, and porting files to new ones."""
