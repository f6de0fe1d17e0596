"""Files of weights to arrays, arrays to a model's variables, and back."""

from keras_mixer.weights.files import written_whole

__all__ = ["written_whole"]
