"""Predictors that crop images here: Keras models, and files for other runtimes."""

import os
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_mixer.catalog import ImageTransform
from keras_mixer.images import (
    best_classes,
    class_names,
    load_image,
    preprocess_input,
)
from keras_mixer.models import VARIANTS, default_labels, open_model
from keras_mixer.serving import runtimes
from keras_mixer.serving.answers import Answer
from keras_mixer.serving.classifier import (
    check_features,
    check_shapes,
    gives_logits,
    transform_of_model,
)


class CropPredictor:
    """Crops images here, by Pillow, and names the classes of the scores.

    Args:
        scores_of: From crops, float32 `(batch, size, size, 3)`, pixels in [0, 255], to
            scores `(batch, classes)`, and features `(batch, channels)` or None.
        size: Side of the crops, in pixels.
        transform: How the weights expect images.
        names: A pair `(class, label)` for each class.
        top_k: How many classes to name.
    """

    def __init__(
        self,
        scores_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]],
        size: int,
        transform: ImageTransform,
        names: Sequence[tuple[str, str]],
        top_k: int,
    ) -> None:
        self._scores_of = scores_of
        self._size = size
        self._transform = transform
        self._names = names
        self._top_k = top_k

    def prepare(self, file: bytes) -> np.ndarray:
        return load_image(file, self._size, weights=self._transform)

    def predict(self, prepared: Sequence[np.ndarray]) -> list[Answer]:
        scores, features = self._scores_of(np.stack(prepared))
        ranked = best_classes(scores, self._names, self._top_k)
        rows = [None] * len(ranked) if features is None else features
        return [
            Answer(tuple(guesses), features=row)
            for guesses, row in zip(ranked, rows, strict=True)
        ]


def open_file(path, labels, top_k):
    """Open an exported file, as `open_predictor` says."""
    card = runtimes.read_card(path)
    names = class_names(labels or runtimes.labels_path(path), card["classes"])
    probabilities_of = runtimes.load(path)
    return CropPredictor(
        lambda images: (probabilities_of(images), None),
        card["image_size"],
        card["preprocessing"],
        names,
        top_k,
    )


def open_keras(model, weights, labels, top_k, features, precision):
    """Open a Keras model, as `open_predictor` says."""
    name = "" if isinstance(model, keras.Model) else os.fspath(model)
    is_named = name in VARIANTS
    if is_named:
        weights = weights or "imagenet"
    if name:
        model = open_model(name, weights)
    classes = check_shapes(model)
    if labels is None:
        labels = default_labels(name, weights, classes)
    transform, normalise = transform_of_model(model, None if is_named else weights)
    return CropPredictor(
        _keras_scores(model, transform if normalise else None, features, precision),
        model.input_shape[1],
        transform,
        class_names(labels, classes),
        top_k,
    )


def _keras_scores(model, transform, features, precision):
    """Return a function from crops to a Keras model's scores, and its features."""
    if precision != "float32":
        # TensorFlow's, which other backends do without.
        from keras_mixer.serving import fused, served

        model = served.served_model(model, precision, fused.served_layer)
    from_logits = gives_logits(model)
    if features:
        pooled = model.get_layer(check_features(model)).output
        model = keras.Model(model.inputs, [model.output, pooled])

    def scores_of(images):
        if transform is not None:
            images = preprocess_input(images, weights=transform)
        outputs = model.predict_on_batch(images)
        scores, pooled = outputs if features else (outputs, None)
        scores = np.asarray(scores, "float32")
        if from_logits:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        return scores, None if pooled is None else np.asarray(pooled, "float32")

    return scores_of
