"""Pictures of weights, predictions and training, as matplotlib figures.

Each function returns a `matplotlib.figure.Figure`: a notebook shows it after
`%matplotlib inline`, and `save_figure` writes it to a file. None goes through pyplot,
which would keep every figure alive and look for a screen.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from keras_mixer.visualize import weight_images
from keras_mixer.weights import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_mixer.training.evaluation import Example

_RIGHT, _WRONG = "#1a7f37", "#c62828"
_TRAIN, _VAL = "#8a8f98", "#1f5fbf"


def plot_token_mixing(
    model: keras.Model,
    blocks: Sequence[int] = (0, 1, 2),
    *,
    max_pairs: int = 32,
    title: str | None = None,
) -> Figure:
    """Draw the token-mixing units of some blocks on the patch grid.

    Each small image is one hidden unit: its weight for every patch of the image. Units
    stand beside their opposites (`weight_images.pair_opposites`), and the pairs are
    sorted by mean spatial frequency, the lowest at the top left.

    Args:
        model: An MLP-Mixer of this package, or a model that holds one.
        blocks: Numbers of the blocks, from 0.
        max_pairs: How many pairs to draw of a block; of more, evenly many from low to
            high frequency.
        title: Heading of the picture; `None` names the model.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the model has no such block, or matplotlib is not installed.

    Reference:
        arXiv 2105.01601, section 3.4 and figure 6.
    """
    panels = []
    for block in blocks:
        units = weight_images.token_mixing_units(model, block)
        pairs, frequencies, _ = weight_images.sorted_pairs(units)
        count = min(max_pairs, len(pairs))
        shown = np.linspace(0, len(pairs) - 1, count).round().astype(int)
        units = units / np.abs(units).max((1, 2), keepdims=True).clip(1e-12)
        mosaic = _pair_mosaic(units[pairs[shown]])
        low, high = frequencies[[0, -1]]
        panels.append((block, mosaic, count, len(pairs), low, high))
    height, width = panels[0][1].shape[:2]
    panel_width = 3.3 if len(panels) > 1 else 4.5
    figure = _figure(
        (panel_width * len(panels) + 0.9, panel_width * height / width + 1)
    )
    _heading(figure, title or f"{model.name}: token-mixing units")
    figure.get_layout_engine().set(wspace=0.04)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (block, mosaic, count, total, low, high) in zip(
        grid, panels, strict=True
    ):
        drawn = axes.imshow(
            mosaic, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
        )
        of = "" if count == total else f" of {total}"
        axes.set_title(
            f"block {block}: {count}{of} pairs\n{low:.2f} to {high:.2f} cycles a patch",
            loc="left",
            fontsize=10,
        )
        axes.set_xlabel("pairs of opposites, by frequency", fontsize=9)
        _bare(axes)
    bar = figure.colorbar(drawn, ax=list(grid), fraction=0.025, aspect=30)
    bar.set_label("weight / the unit's largest", fontsize=9)
    bar.set_ticks([-1, 0, 1])
    return figure


def plot_stem(model: keras.Model, *, title: str | None = None) -> Figure:
    """Draw the stem's filters, one for each channel of a token, by frequency.

    Args:
        model: An MLP-Mixer of this package, or a model that holds one.
        title: Heading of the picture; `None` names the model.

    Returns:
        A `matplotlib.figure.Figure`. Mid-grey is a weight of 0; each filter has its
        own scale.

    Raises:
        ValueError: If the model holds no MLP-Mixer, or matplotlib is not installed.

    Reference:
        arXiv 2105.01601, section 3.4 and figure 7.
    """
    filters = weight_images.stem_filters(model)
    frequencies = weight_images.spatial_frequency(filters)
    filters = filters[np.argsort(frequencies, kind="stable")]
    filters = filters / np.abs(filters).max((1, 2, 3), keepdims=True).clip(1e-12)
    columns = math.ceil(math.sqrt(2 * len(filters)))
    mosaic = _mosaic(0.5 + 0.5 * filters, columns, gap=1)
    height, width = mosaic.shape[:2]
    figure = _figure((9, 8 * height / width + 1.1))
    _heading(figure, title or f"{model.name}: the stem's filters")
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_title(
        f"{len(filters)} filters of {filters.shape[1]} x {filters.shape[2]} pixels, "
        f"{frequencies.min():.2f} to {frequencies.max():.2f} cycles a pixel",
        loc="left",
        fontsize=10,
    )
    axes.set_xlabel("filters, by frequency, row by row", fontsize=9)
    _bare(axes)
    return figure


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
    _check_same_length("predictions", predictions, images)
    columns = min(2, len(images))
    rows = math.ceil(len(images) / columns)
    bars = max(len(ranked) for ranked in predictions)
    figure = _figure((5.4 * columns, max(1.8, 0.34 * bars + 0.7) * rows + 0.5))
    _heading(figure, title)
    grid = figure.subplots(
        rows, 2 * columns, squeeze=False, width_ratios=[1, 1.3] * columns
    ).reshape(-1, 2)
    for left, right in grid[len(images) :]:
        left.set_axis_off()
        right.set_axis_off()
    for (left, right), image, ranked in zip(grid, images, predictions, strict=False):
        left.imshow(np.asarray(image).astype("uint8"), interpolation="nearest")
        _bare(left)
        names = [label.replace("_", " ") for _, label, _ in ranked]
        scores = [100 * score for *_, score in ranked]
        places = range(len(names))
        colors = [_VAL, *[_TRAIN] * (len(names) - 1)]
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
    examples: Sequence[Example],
    class_names: Sequence[str],
    *,
    title: str = "Predictions",
) -> Figure:
    """Draw test images with the class that the model saw; wrong ones in red.

    Args:
        examples: `Example`s, with `image`, `label`, `prediction` and `score`.
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
        captions.append((seen + truth, _RIGHT if right else _WRONG))
    return _sheet([example.image for example in examples], captions, title)


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
    _check_same_length("captions", captions, images)
    return _sheet(images, [(caption, "black") for caption in captions], title)


def plot_confusion(
    labels: npt.NDArray[np.integer],
    predictions: npt.NDArray[np.integer],
    class_names: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw how often each class was taken for which.

    Args:
        labels: True class numbers, `(examples,)`.
        predictions: Predicted class numbers, `(examples,)`.
        class_names: Names of the classes, in the order of their numbers.
        title: Heading of the picture; `None` gives the accuracy.

    Returns:
        A `matplotlib.figure.Figure`. Up to 40 classes have their names and counts.

    Raises:
        ValueError: If there are not as many predictions as labels, or matplotlib is
            not installed.
    """
    _check_same_length("predictions", predictions, labels)
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = int(np.trace(counts))
    if title is None:
        title = f"{right} of {counts.sum()} right, {right / counts.sum():.1%}"
    side = min(max(4.5, 0.55 * classes + 1.5), 16)
    figure = _figure((side, side))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
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
            color = _WRONG
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


def plot_curves(
    history: Sequence[dict[str, Any]] | keras.callbacks.History,
    *,
    title: str = "Training",
) -> Figure:
    """Draw loss, accuracy and learning rate by epoch.

    Args:
        history: One dict of figures for each epoch, as `Training.history`: `epoch`,
            `loss`, `accuracy`, and if they are there `val_loss`, `val_accuracy` and
            `learning_rate`. Or the `keras.callbacks.History` that `model.fit` returns.
        title: Heading of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the history has no epoch, or matplotlib is not installed.
    """
    rows = _epochs(history)
    epochs = [row["epoch"] for row in rows]
    has_rate = "learning_rate" in rows[-1]
    figure = _figure((12 if has_rate else 8.2, 3.8))
    _heading(figure, title)
    panels = figure.subplots(1, 3 if has_rate else 2)
    for axes, name, label, percent in [
        (panels[0], "loss", "Loss (cross-entropy, nats)", False),
        (panels[1], "accuracy", "Accuracy (%)", True),
    ]:
        curves = {"train": (name, _TRAIN)}
        if f"val_{name}" in rows[-1]:
            curves["validation"] = (f"val_{name}", _VAL)
        highest = max(rows[-1][key] for key, _ in curves.values())
        for who, (key, color) in curves.items():
            values = [(100 if percent else 1) * row[key] for row in rows]
            axes.plot(epochs, values, color=color, label=who, marker="o", ms=3)
            axes.annotate(
                f"{values[-1]:.1f}" if percent else f"{values[-1]:.3g}",
                (epochs[-1], values[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                color=color,
                # Apart, where the curves end at the same height.
                va="bottom" if rows[-1][key] == highest else "top",
            )
        axes.set_title(label, loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=9)
    if has_rate:
        rates = [row["learning_rate"] for row in rows]
        panels[2].plot(epochs, rates, color=_TRAIN, marker="o", ms=3)
        panels[2].set_title(
            "Learning rate at the end of the epoch", loc="left", fontsize=10
        )
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.08)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file, whole or not at all.

    Args:
        figure: What the functions above return.
        path: The file to write.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _epochs(history):
    """Return one dict for each epoch, of a run's history or of Keras' own."""
    if hasattr(history, "history"):
        columns = history.history
        rows = [
            {"epoch": epoch + 1, **dict(zip(columns, values, strict=True))}
            for epoch, *values in zip(history.epoch, *columns.values(), strict=True)
        ]
    else:
        rows = list(history)
    if not rows:
        raise ValueError(
            "history must have at least one finished epoch. Received: none."
        )
    return rows


def _sheet(images, captions, title):
    columns = min(8, max(len(images), 1))
    rows = math.ceil(len(images) / columns)
    side = 1.5 if columns > 4 else 2.4
    figure = _figure((side * columns, (side + 0.35) * rows + 0.5))
    _heading(figure, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        _bare(axes)
    for axes, image, (caption, color) in zip(grid.flat, images, captions, strict=False):
        axes.imshow(np.asarray(image).astype("uint8"), interpolation="nearest")
        axes.set_xlabel(caption, fontsize=9, color=color, labelpad=4)
        if color == _WRONG:
            axes.spines[:].set(visible=True, color=_WRONG, linewidth=2.5)
    return figure


def _pair_mosaic(pairs):
    """Lay out `(pairs, 2, height, width)`: a wider gap between pairs than in them."""
    scale = math.ceil(24 / pairs.shape[-1])
    pairs = pairs.repeat(scale, axis=2).repeat(scale, axis=3)
    left, right = pairs[:, 0], pairs[:, 1]
    seam = np.full((*left.shape[:2], 2), np.nan)
    both = np.concatenate([left, seam, right], axis=2)
    return _mosaic(both, math.ceil(math.sqrt(len(pairs) / 2)), gap=8)


def _mosaic(tiles, columns, gap):
    """Lay out `(tiles, height, width, ...)` row by row; what is between is blank."""
    count, height, width, *rest = tiles.shape
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *rest)
    mosaic = np.full(shape, np.nan if not rest else 1.0)
    for number, tile in enumerate(tiles):
        top = number // columns * (height + gap)
        left = number % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = tile
    return mosaic


def _check_same_length(name, values, images):
    if len(values) != len(images):
        raise ValueError(
            f"There must be as many {name} as images or labels. "
            f"Received: {len(values)} for {len(images)}."
        )


def _bare(axes):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _heading(figure, title):
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")


def _figure(size):
    """Return an empty figure, `size` inches wide and high."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "Pictures need matplotlib. Install it with "
            f"`pip install keras-mixer[train]`. Received: {error}."
        ) from error
    return Figure(figsize=size, layout="constrained")
