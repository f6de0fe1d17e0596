"""How well a model does on labelled images."""

import dataclasses
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_mixer import data
from keras_mixer.catalog import ImageTransform
from keras_mixer.data import IndexedSplit, StreamSplit

# Examples kept for a sheet of predictions, and how many of them may be wrong ones.
_SHOWN, _SHOWN_WRONG = 48, 12


@dataclasses.dataclass(frozen=True)
class Example:
    """An image, and what the model made of it.

    Attributes:
        image: uint8 pixels, `(height, width, 3)`.
        label: Number of the true class.
        prediction: Number of the best class.
        score: The score of the best class, in [0, 1].
    """

    image: np.ndarray
    label: int
    prediction: int
    score: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        top1: Share of the examples whose class has the best score.
        top5: Share of the examples whose class is among the best five.
        loss: Mean cross-entropy, in nats.
        examples: Number of examples.
        images_per_second: Speed from file to score.
        labels: Class numbers, `(examples,)`.
        predictions: Numbers of the best classes, `(examples,)`.
        shown: Some `Example`s, right and wrong, in stored order.
    """

    top1: float
    top5: float
    loss: float
    examples: int
    images_per_second: float
    labels: np.ndarray
    predictions: np.ndarray
    shown: tuple[Example, ...]


def evaluate(
    model: keras.Model,
    examples: IndexedSplit | StreamSplit | tf.data.Dataset | tuple[Any, Any],
    *,
    batch_size: int = 64,
    verbose: int = 0,
    transform: ImageTransform | None = None,
    among: np.ndarray | None = None,
) -> Evaluation:
    """Evaluate a model on labelled images.

    Args:
        model: A classifier of this package, which returns softmax scores.
        examples: A split of a `keras_mixer.data.Source`, whose images are cropped as
            the model's layer `preprocessing` says; or images as the model takes them,
            `(height, width, 3)` each, and their labels, class numbers or one-hot: a
            `tf.data.Dataset` of batches of both, or a pair of arrays.
        batch_size: Images in a batch, where they don't come in batches.
        verbose: 1 for a progress bar, 0 for none.
        transform: How to crop the images of a split instead.
        among: Numbers of the classes that may be answered, `None` for all; the scores
            of the others count as 0.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If the images or labels do not fit the model, or there are none.
    """
    size = batch_size
    if isinstance(examples, (IndexedSplit, StreamSplit)):
        size = min(batch_size, examples.size)
        batches = _of_split(
            examples,
            model,
            batch_size=size,
            transform=transform or model.get_layer("preprocessing"),
        )
        steps = -(-examples.size // size)
    else:
        batches = _of_pixels(examples, model, batch_size)
        steps = None
    bar = keras.utils.Progbar(steps, verbose=verbose)
    truths, found, in_top5, losses = [], [], [], []
    shown: dict[bool, list] = {True: [], False: []}
    # The first call compiles, which is not counted.
    model.predict_on_batch(np.zeros((size, *model.input_shape[1:])))
    started = time.monotonic()
    for number, (images, truth) in enumerate(batches, 1):
        count = len(truth)
        scores = ops.convert_to_numpy(model.predict_on_batch(images))[:count]
        if among is not None:
            scores = np.where(np.isin(np.arange(scores.shape[1]), among), scores, 0)
        best = np.argsort(-scores, axis=-1, kind="stable")[:, :5]
        truths.append(truth)
        found.append(best[:, 0])
        in_top5.append((best == truth[:, None]).any(-1))
        losses.append(-np.log(np.maximum(scores[np.arange(count), truth], 1e-12)))
        for i in range(count):
            right = bool(best[i, 0] == truth[i])
            if len(shown[right]) < (_SHOWN if right else _SHOWN_WRONG):
                position = (number, i)
                pixels = np.round(images[i]).astype("uint8")
                score = float(scores[i, best[i, 0]])
                example = Example(pixels, int(truth[i]), int(best[i, 0]), score)
                shown[right].append((position, example))
        bar.update(number)
    seconds = time.monotonic() - started
    if not truths:
        raise ValueError("There must be examples to evaluate on. Received: none.")
    labels, predictions = np.concatenate(truths), np.concatenate(found)
    sheet = shown[False] + shown[True][: _SHOWN - len(shown[False])]
    return Evaluation(
        top1=float(np.mean(labels == predictions)),
        top5=float(np.mean(np.concatenate(in_top5))),
        loss=float(np.mean(np.concatenate(losses))),
        examples=len(labels),
        images_per_second=len(labels) / seconds,
        labels=labels,
        predictions=predictions,
        shown=tuple(example for _, example in sorted(sheet, key=lambda pair: pair[0])),
    )


def _of_split(split, model, **batching):
    """Yield pixels and class numbers of a split; the last pixels may be filled up."""
    for images, one_hot, weights in data.evaluation_batches(
        split,
        image_size=model.input_shape[1:3],
        classes=model.output_shape[-1],
        **batching,
    ):
        count = int(np.count_nonzero(weights))
        yield images.numpy(), np.argmax(one_hot, -1)[:count]


def _of_pixels(examples, model, batch_size):
    """Yield pixels and class numbers of a `tf.data.Dataset` or a pair of arrays."""
    if isinstance(examples, (tuple, list)) and len(examples) == 2:
        pair = tuple(map(ops.convert_to_numpy, examples))
        if len(pair[0]) != len(pair[1]):
            raise ValueError(
                "Each image must have a label. Received: "
                f"{len(pair[0])} images, {len(pair[1])} labels."
            )
        examples = tf.data.Dataset.from_tensor_slices(pair).batch(batch_size)
    if not isinstance(examples, tf.data.Dataset):
        raise ValueError(
            "Examples must be a split of a data set, a tf.data.Dataset of batches, or "
            f"a pair of images and labels. Received: {type(examples).__name__}."
        )
    classes = model.output_shape[-1]
    for batch in examples:
        if not isinstance(batch, tuple) or len(batch) != 2:
            raise ValueError(
                "A batch must be a pair of images and labels. Received: "
                f"{type(batch).__name__} of {len(batch)}."
            )
        images, labels = (ops.convert_to_numpy(part) for part in batch)
        if images.shape[1:] != model.input_shape[1:]:
            raise ValueError(
                "Images must be as the model takes them, in batches of "
                f"{model.input_shape}. Received: {images.shape}. Crop them first, as "
                "keras_mixer.load_image does."
            )
        if labels.ndim == 2 and labels.shape[1] == classes:
            labels = labels.argmax(-1)
        if labels.shape != images.shape[:1] or not (
            labels.min() >= 0 and labels.max() < classes
        ):
            raise ValueError(
                f"Labels must be class numbers in [0, {classes}), or one-hot. "
                f"Received: labels of shape {labels.shape} for {len(images)} images, "
                f"from {labels.min()} to {labels.max()}."
            )
        yield images.astype("float32"), labels.astype("int64")
