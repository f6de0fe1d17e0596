"""Scores to names of classes, on every Keras backend."""

import functools
import importlib.resources
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mixer.catalog import CLASS_LISTS, TAGS, labels_of


def decode_predictions(
    predictions: Any,
    top: int = 5,
    *,
    weights: str | None = None,
    class_names: Sequence[str] | None = None,
) -> list[list[tuple[str, str, float]]]:
    """Name the best classes of each image, as `keras.applications` does.

    Args:
        predictions: Array or tensor of shape `(batch, classes)`: probabilities, or
            logits, which come back as they are.
        top: How many classes to name for each image, at least 1; all of them if there
            are fewer.
        weights: Tag of the weights whose classes these are, such as `"cifar10"`.
            `None` means ImageNet: its 1000 classes, or the 21,843 or 11,221 of
            ImageNet-21k, by the number of columns.
        class_names: Instead, for a model of other classes, their names in the order of
            its outputs.

    Returns:
        A list per image of tuples `(synset, label, score)`, best first, equal scores
        in the order of their classes. For classes without WordNet synsets the tuples
        are `(name, name, score)`.

    Raises:
        ValueError: If the shape, the number of classes or `top` does not fit, a score
            is NaN, or there is no such tag.
    """
    if keras.ops.is_tensor(predictions):
        # Cast first: NumPy knows bfloat16 only by an extension.
        predictions = keras.ops.convert_to_numpy(keras.ops.cast(predictions, "float32"))
    scores = np.asarray(predictions, dtype="float32")
    if scores.ndim != 2:
        raise ValueError(
            "predictions must have the shape (batch, classes). Received: shape "
            f"{scores.shape}. For a single image pass predictions[None]."
        )
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
        raise ValueError(f"top must be a positive integer. Received: top={top!r}.")
    if weights is not None and class_names is not None:
        raise ValueError(
            "weights and class_names exclude each other. Received: both. Pass the one "
            "that the model was trained with."
        )
    if weights is not None:
        labels = weights_labels(weights)
        rule = f"predictions must be over the classes of {weights!r}"
        way_out = f"These weights have {len(labels)} classes."
    elif class_names is None:
        known = scores.shape[1] in CLASS_LISTS
        labels = imagenet_labels(scores.shape[1]) if known else ()
        rule = (
            "predictions must be over the classes of ImageNet "
            f"({', '.join(map(str, CLASS_LISTS))})"
        )
        way_out = (
            'For other weights name their tag, as in weights="cifar10"; for a model '
            "of other classes pass their names as class_names=[...]."
        )
    else:
        if isinstance(class_names, str):
            raise ValueError(
                "class_names must be a sequence of names. Received: the string "
                f"{class_names!r}. Put it in a list."
            )
        labels = tuple((str(name), str(name)) for name in class_names)
        rule = "predictions must have one column for each name in class_names"
        way_out = f"Received {len(labels)} names."
    if scores.shape[1] != len(labels):
        raise ValueError(f"{rule}. Received: shape {scores.shape}. {way_out}")
    return best_classes(scores, labels, top)


def best_classes(scores, names, top):
    """Name the best classes of each image.

    Args:
        scores: Array `(batch, classes)`.
        names: A pair `(synset, label)` for each class, as `class_names` returns.
        top: How many classes to name; all of them if there are fewer.

    Returns:
        What `decode_predictions` returns.

    Raises:
        ValueError: If a score is NaN.
    """
    if np.isnan(scores).any():
        rows = np.flatnonzero(np.isnan(scores).any(axis=1)).tolist()
        raise ValueError(
            f"predictions must be numbers. Received: NaN for image(s) {rows[:10]}. "
            "Look for NaN in the model's input or in its weights."
        )
    # A stable sort of the negated scores leaves ties in the order of the classes.
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*names[index], float(row[index])) for index in indices]
        for row, indices in zip(scores, best, strict=True)
    ]


def class_names(labels, classes):
    """Return the names of a model's classes, in the order of its outputs.

    Args:
        labels: A list, the path of a text file with one name a line, a tag of the
            catalogue, or `"imagenet"` for the list of so many classes. `None` names
            classes by their index.
        classes: Their number.

    Returns:
        A tuple of tuples `(synset, label)`; `(label, label)` where there is no synset.

    Raises:
        ValueError: If there is no such file, or it does not name each class.
    """
    source = "labels"
    if labels is None:
        labels = [str(index) for index in range(classes)]
    elif isinstance(labels, str) and labels in TAGS:
        source = f'labels="{labels}"'
        is_imagenet = labels == "imagenet"
        labels = imagenet_labels(classes) if is_imagenet else weights_labels(labels)
    elif isinstance(labels, (str, os.PathLike)):
        source = f"the file {os.fspath(labels)!r}"
        labels = _read_labels(labels)
    names = [
        label if isinstance(label, tuple) else (str(label), str(label))
        for label in labels
    ]
    if len(names) != classes:
        raise ValueError(
            "labels must name each class of the model, in the order of its outputs. "
            f"Received: {source} with {len(names)} names, and a model of {classes} "
            "classes."
        )
    for index, (_, label) in enumerate(names):
        if not label or "\n" in label:
            raise ValueError(
                "A label must be a line of text that is not empty. Received: "
                f"{label!r} for class {index} in {source}."
            )
    return tuple(names)


def _read_labels(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            "labels must be a list, the path of a UTF-8 text file with one name a "
            'line, or a tag of the catalogue such as "imagenet". Received: '
            f"{os.fspath(path)!r} ({error})."
        ) from error


def imagenet_labels(classes: int = 1000) -> tuple[tuple[str, str], ...]:
    """Return the classes of ImageNet as tuples `(synset, label)`, in output order.

    The labels are those of `keras.applications`: the first WordNet lemma, with
    underscores. Several classes can have one label: of the 1000, two are a `crane` and
    two a `maillot`.

    Args:
        classes: 1000, 21843 (ImageNet-21k in Google's order) or 11221 (MIIL's part of
            it).

    Returns:
        A tuple of tuples `(synset, label)`.

    Raises:
        ValueError: For another number.
    """
    if classes not in CLASS_LISTS:
        raise ValueError(
            f"ImageNet comes with {', '.join(map(str, CLASS_LISTS))} classes. "
            f"Received: {classes}."
        )
    return _read_class_list(CLASS_LISTS[classes])


def weights_labels(tag: str) -> tuple[tuple[str, str], ...]:
    """Return the classes of published weights as `imagenet_labels` does.

    Args:
        tag: A tag of the catalogue.

    Returns:
        A tuple of tuples `(synset, label)`; `(label, label)` for classes without
        WordNet synsets, as CIFAR-10's.

    Raises:
        ValueError: If there is no such tag.
    """
    return _read_class_list(labels_of(tag))


@functools.cache
def _read_class_list(name):
    assets = importlib.resources.files("keras_mixer.catalog").joinpath("assets")
    text = assets.joinpath(name).read_text(encoding="utf-8")
    pairs = (line.partition(" ") for line in text.splitlines())
    return tuple((first, rest or first) for first, _, rest in pairs)
