"""Pictures of predictions: bars, sheets of images, the confusion of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_mixer.visualize import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_predictions(
    images: Sequence[npt.ArrayLike],
    predictions: Sequence[Sequence[tuple[str, str, float]]],
    *,
    title: str = "Predictions",
) -> Figure:
    """Draw images with their best classes as bars beside them.

    Args:
        images: uint8 or float pixels in [0, 255], each `(height, width, 3)`.
        predictions: What `keras_mixer.decode_predictions` returns for them: a list
            per image of tuples `(synset, label, score)`, best first.
        title: Heading of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are not as many predictions as images, or matplotlib is
            not installed.
    """
    figures.check_same_length("predictions", predictions, images)
    columns = min(2, len(images))
    rows = math.ceil(len(images) / columns)
    bars = max(len(ranked) for ranked in predictions)
    figure = figures.new_figure(
        (5.4 * columns, max(1.8, 0.34 * bars + 0.7) * rows + 0.5)
    )
    figures.add_heading(figure, title)
    grid = figure.subplots(
        rows, 2 * columns, squeeze=False, width_ratios=[1, 1.3] * columns
    ).reshape(-1, 2)
    for left, right in grid[len(images) :]:
        left.set_axis_off()
        right.set_axis_off()
    for (left, right), image, ranked in zip(grid, images, predictions, strict=False):
        left.imshow(np.asarray(image).astype("uint8"), interpolation="nearest")
        figures.hide_axes(left)
        names = [label.replace("_", " ") for _, label, _ in ranked]
        scores = [100 * score for *_, score in ranked]
        places = range(len(names))
        colors = [figures.BLUE, *[figures.GREY] * (len(names) - 1)]
        right.barh(places, scores, color=colors, height=0.7)
        for place, score in zip(places, scores, strict=True):
            right.annotate(
                f"{score:.1f}",
                (score, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        right.set_yticks(places, names, fontsize=9)
        right.tick_params(length=0, labelsize=9)
        right.invert_yaxis()
        right.set_xlim(0, 118)
        right.set_xticks([0, 50, 100])
        right.set_xlabel("score (%)", fontsize=9)
        right.spines[["top", "right"]].set_visible(False)
    return figure


def plot_examples(
    examples: Sequence[Any],
    class_names: Sequence[str],
    *,
    title: str = "Predictions",
) -> Figure:
    """Draw test images with the class that the model saw; wrong ones in red.

    Args:
        examples: Things with `image`, `label`, `prediction` and `score`, as the
            `Example`s that `keras_mixer.evaluate` returns in `shown`.
        class_names: Names of the classes, in the order of their numbers.
        title: Heading of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    captions = []
    for example in examples:
        seen = f"{class_names[example.prediction]}  {100 * example.score:.0f} %"
        right = example.prediction == example.label
        truth = "" if right else f"\nis {class_names[example.label]}"
        captions.append((seen + truth, figures.RIGHT if right else figures.WRONG))
    return _sheet([example.image for example in examples], captions, title)


def plot_evaluation(
    evaluation: Any, class_names: Sequence[str], *, title: str = "Evaluation"
) -> Figure:
    """Draw the examples that an evaluation kept, and say how many errors they hold.

    Args:
        evaluation: What `keras_mixer.evaluate` returns. It keeps errors first, so that
            the sheet has more of them than the data: a line says which share is right.
        class_names: Names of the classes, in the order of their numbers.
        title: Heading of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    errors = int(np.sum(evaluation.labels != evaluation.predictions))
    drawn = sum(e.label != e.prediction for e in evaluation.shown)
    note = (
        f"{len(evaluation.shown)} of {evaluation.examples} images, with {drawn} of the "
        f"{errors} errors; {evaluation.top1:.1%} of all are right"
    )
    return plot_examples(evaluation.shown, class_names, title=f"{title}\n{note}")


def plot_images(
    images: Sequence[npt.ArrayLike], captions: Sequence[str], *, title: str
) -> Figure:
    """Draw images with a line of text under each.

    Args:
        images: uint8 or float pixels in [0, 255], each `(height, width, 3)`.
        captions: A text for each.
        title: Heading of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are not as many captions as images, or matplotlib is not
            installed.
    """
    figures.check_same_length("captions", captions, images)
    return _sheet(images, [(caption, "black") for caption in captions], title)


def plot_confusion(
    labels: npt.NDArray[np.integer],
    predictions: npt.NDArray[np.integer],
    class_names: Sequence[str],
    *,
    title: str = "Confusion",
) -> Figure:
    """Draw how often each class was taken for which.

    Args:
        labels: True class numbers, `(examples,)`.
        predictions: Predicted class numbers, `(examples,)`.
        class_names: Names of the classes, in the order of their numbers.
        title: Heading of the picture; the accuracy stands below it.

    Returns:
        A `matplotlib.figure.Figure`. Up to 40 classes have their names and counts.

    Raises:
        ValueError: If there are not as many predictions as labels, or matplotlib is
            not installed.
    """
    figures.check_same_length("predictions", predictions, labels)
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = int(np.trace(counts))
    side = min(max(4.5, 0.55 * classes + 1.5), 16)
    figure = figures.new_figure((side, side + 0.4))
    figures.add_heading(figure, title)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    accuracy = f"{right} of {counts.sum()} right, {right / counts.sum():.1%}"
    axes.set_title(accuracy, loc="left", fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    if classes > 40:
        return figure
    long_names = max(len(name) for name in class_names) > 3
    axes.set_xticks(range(classes), class_names, rotation=90 if long_names else 0)
    axes.set_yticks(range(classes), class_names)
    axes.tick_params(length=0)
    for row, column in zip(*np.nonzero(counts), strict=True):
        if row == column:
            color = "white" if shares[row, column] > 0.5 else "black"
        else:
            color = figures.WRONG
        axes.text(
            column,
            row,
            counts[row, column],
            ha="center",
            va="center",
            color=color,
            fontsize=9,
            fontweight="normal" if row == column else "bold",
        )
    return figure


def _sheet(images, captions, title):
    columns = min(8, max(len(images), 1))
    rows = math.ceil(len(images) / columns)
    side = 1.5 if columns > 4 else 2.4
    figure = figures.new_figure((side * columns, (side + 0.35) * rows + 0.5))
    figures.add_heading(figure, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        figures.hide_axes(axes)
    for axes, image, (caption, color) in zip(grid.flat, images, captions, strict=False):
        axes.imshow(np.asarray(image).astype("uint8"), interpolation="nearest")
        axes.set_xlabel(caption, fontsize=9, color=color, labelpad=4)
        if color == figures.WRONG:
            axes.spines[:].set(visible=True, color=figures.WRONG, linewidth=2.5)
    return figure
