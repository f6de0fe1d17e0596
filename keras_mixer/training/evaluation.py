"""Measure a model on a split: accuracy, loss, speed."""

import dataclasses
import pathlib
import re
import time

import keras
import numpy as np
from keras import ops

from keras_mixer.catalog import ENTRIES
from keras_mixer.data import batches
from keras_mixer.data.splits import IndexedSplit, StreamSplit

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
        images_per_second: Speed from file to score, without the first batch.
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


def published_figures(model_name, tag, dataset):
    """Return what is published about weights on a data set.

    Args:
        model_name: Name of the model, such as `MlpMixerB16`.
        tag: Tag of its weights, or `None`.
        dataset: Name of the data set.

    Returns:
        A dict of `top1` and `top5`, as shares; empty where nothing is known.
    """
    entry = ENTRIES.get((model_name, tag))
    if entry is None or not _is_dataset(dataset, entry.accuracy_dataset):
        return {}
    figures = {"top1": entry.top1, "top5": entry.top5}
    return {name: value / 100 for name, value in figures.items() if value is not None}


def _is_dataset(name, known):
    """Whether `--dataset=name` is a known one: under its name, or in its folder."""
    if name.startswith("folder:"):
        return pathlib.PurePath(name.removeprefix("folder:")).name == known
    return re.split("[/:]", name)[0] == known


def check_classes(model, source):
    """Raise a ValueError unless a model has the classes of a data set."""
    classes = model.output_shape[-1]
    if classes != len(source.class_names):
        raise ValueError(
            "The model and the data set must have the same classes. Received: "
            f"{classes} of the model {model.name}, {len(source.class_names)} of "
            f"{source.name}. Fine-tune first: keras-mixer train --weights=..."
        )


def evaluate(
    model: keras.Model,
    split: IndexedSplit | StreamSplit,
    *,
    batch_size: int = 64,
    verbose: int = 0,
) -> Evaluation:
    """Evaluate a model on a split of a data set.

    Images are cropped as the model's layer `preprocessing` says.

    Args:
        model: A classifier of this package, which returns softmax scores.
        split: A split of a `sources.Source`, of as many classes.
        batch_size: Images in a batch.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        An `Evaluation`.
    """
    classes = model.output_shape[-1]
    stream = batches.evaluation_batches(
        split,
        transform=model.get_layer("preprocessing"),
        image_size=model.input_shape[1:3],
        classes=classes,
        batch_size=batch_size,
    )
    bar = keras.utils.Progbar(-(-split.size // batch_size), verbose=verbose)
    truths, found, in_top5, losses = [], [], [], []
    shown: dict[bool, list] = {True: [], False: []}
    started, warm = 0.0, 0
    for number, (images, one_hot, weights) in enumerate(stream, 1):
        count = int(np.count_nonzero(weights))
        images = np.asarray(images)[:count]
        truth = np.argmax(one_hot, -1)[:count]
        scores = ops.convert_to_numpy(model.predict_on_batch(images))
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
        if number == 1:
            started, warm = time.monotonic(), count
    seconds = time.monotonic() - started
    labels, predictions = np.concatenate(truths), np.concatenate(found)
    sheet = shown[False] + shown[True][: _SHOWN - len(shown[False])]
    return Evaluation(
        top1=float(np.mean(labels == predictions)),
        top5=float(np.mean(np.concatenate(in_top5))),
        loss=float(np.mean(np.concatenate(losses))),
        examples=len(labels),
        images_per_second=(len(labels) - warm) / seconds if seconds else 0.0,
        labels=labels,
        predictions=predictions,
        shown=tuple(example for _, example in sorted(sheet, key=lambda pair: pair[0])),
    )
