"""One way from a file's bytes to the model's crop, and from scores to labels."""

from keras_mixer.images.preprocess import (
    decode_predictions,
    imagenet_labels,
    load_image,
    preprocess_input,
    preprocessing_layer,
    transform_for,
    weights_labels,
)

__all__ = [
    "decode_predictions",
    "imagenet_labels",
    "load_image",
    "preprocess_input",
    "preprocessing_layer",
    "transform_for",
    "weights_labels",
]
