"""A model server for a developer's machine, with TensorFlow Serving's API."""
