"""Pictures of training and of what a model makes of its test images."""

import contextlib
import math

import numpy as np

from keras_mixer.checkpointing import write_atomically

_RIGHT, _WRONG = "#1a7f37", "#c62828"
_TRAIN, _VAL = "#8a8f98", "#1f5fbf"


def training_curves(history, path, *, title="Training"):
    """Draw loss, accuracy and learning rate by epoch.

    Args:
        history: One dict of figures for each epoch, as `Training.history`.
        path: The PNG file to write.
        title: Heading of the picture.
    """
    epochs = [row["epoch"] for row in history]
    with _figure(path, (12, 3.8)) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        panels = figure.subplots(1, 3)
        for axes, name, label, percent in [
            (panels[0], "loss", "Loss (cross-entropy, nats)", False),
            (panels[1], "accuracy", "Accuracy (%)", True),
        ]:
            curves = {"train, augmented": (name, _TRAIN)}
            if f"val_{name}" in history[-1]:
                curves["validation"] = (f"val_{name}", _VAL)
            highest = max(history[-1][key] for key, _ in curves.values())
            for who, (key, color) in curves.items():
                values = [(100 if percent else 1) * row[key] for row in history]
                axes.plot(epochs, values, color=color, label=who, marker="o", ms=3)
                axes.annotate(
                    f"{values[-1]:.1f}" if percent else f"{values[-1]:.3g}",
                    (epochs[-1], values[-1]),
                    xytext=(6, 0),
                    textcoords="offset points",
                    color=color,
                    # Apart, where the curves end at the same height.
                    va="bottom" if history[-1][key] == highest else "top",
                )
            axes.set_title(label, loc="left", fontsize=10)
            axes.legend(frameon=False, fontsize=9)
        rates = [row["learning_rate"] for row in history]
        panels[2].plot(epochs, rates, color=_TRAIN, marker="o", ms=3)
        panels[2].set_title(
            "Learning rate at the end of the epoch", loc="left", fontsize=10
        )
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.margins(x=0.08)


def prediction_sheet(examples, class_names, path, *, title="Predictions"):
    """Draw test images with the class that the model saw; wrong ones in red.

    Args:
        examples: `Example`s, with `image`, `label`, `prediction` and `score`.
        class_names: Names of the classes, in the order of their numbers.
        path: The PNG file to write.
        title: Heading of the picture.
    """
    captions = []
    for example in examples:
        seen = f"{class_names[example.prediction]}  {100 * example.score:.0f} %"
        right = example.prediction == example.label
        truth = "" if right else f"\nis {class_names[example.label]}"
        captions.append((seen + truth, _RIGHT if right else _WRONG))
    _sheet([example.image for example in examples], captions, path, title)


def image_sheet(images, captions, path, *, title):
    """Draw images with a line of text under each.

    Args:
        images: uint8 or float pixels in [0, 255], each `(height, width, 3)`.
        captions: A text for each.
        path: The PNG file to write.
        title: Heading of the picture.
    """
    _sheet(images, [(caption, "black") for caption in captions], path, title)


def _sheet(images, captions, path, title):
    columns = min(8, max(len(images), 1))
    rows = math.ceil(len(images) / columns)
    with _figure(path, (1.5 * columns, 1.85 * rows + 0.5)) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, image, (caption, color) in zip(
            grid.flat, images, captions, strict=False
        ):
            axes.imshow(image.astype("uint8"), interpolation="nearest")
            axes.set_xlabel(caption, fontsize=9, color=color, labelpad=4)
            if color == _WRONG:
                axes.spines[:].set(visible=True, color=_WRONG, linewidth=2.5)


def confusion_matrix(labels, predictions, class_names, path, *, title=None):
    """Draw how often each class was taken for which.

    Args:
        labels: True class numbers, `(examples,)`.
        predictions: Predicted class numbers, `(examples,)`.
        class_names: Names of the classes, in the order of their numbers.
        path: The PNG file to write.
        title: Heading of the picture; `None` gives the accuracy.
    """
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = int(np.trace(counts))
    if title is None:
        title = f"{right} of {counts.sum()} right, {right / counts.sum():.1%}"
    side = min(max(4.5, 0.55 * classes + 1.5), 16)
    with _figure(path, (side, side)) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        if classes > 40:
            return
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


@contextlib.contextmanager
def _figure(path, size):
    """Yield a figure `size` inches wide and high, and write it to `path`."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "Pictures need matplotlib. Install it with "
            f"`pip install keras-mixer[train]`. Received: {error}."
        ) from error
    style = {"axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        # Not by pyplot, which would look for a screen.
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        write_atomically(path, lambda beside: figure.savefig(beside, dpi=110))
