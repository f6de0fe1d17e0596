"""From a model to a server's answer: export, signatures, publishing."""

from keras_mixer.serving.export import export_saved_model

__all__ = ["export_saved_model"]
