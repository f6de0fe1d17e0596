"""One way from a file's bytes to the model's crop, and from scores to labels."""

from keras_mixer.images.labels import (
    best_classes,
    class_names,
    decode_predictions,
    imagenet_labels,
    weights_labels,
)
from keras_mixer.images.preprocess import (
    load_image,
    preprocess_input,
    preprocessing_layer,
    transform_for,
)

__all__ = [
    "best_classes",
    "class_names",
    "decode_predictions",
    "imagenet_labels",
    "load_image",
    "preprocess_input",
    "preprocessing_layer",
    "transform_for",
    "weights_labels",
]
