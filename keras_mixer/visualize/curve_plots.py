"""Pictures of training by epoch, and of probes by shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_mixer.visualize import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_curves(
    history: Sequence[dict[str, Any]] | keras.callbacks.History,
    *,
    title: str = "Training",
    smoothed: bool = False,
) -> Figure:
    """Draw loss, accuracy and learning rate by epoch.

    Args:
        history: One dict of figures for each epoch, as `Training.history`: `epoch`,
            `loss`, `accuracy`, and if they are there `val_loss`, `val_accuracy` and
            `learning_rate`. Or the `keras.callbacks.History` that `model.fit` returns.
        title: Heading of the picture.
        smoothed: Whether training's loss is on labels that were smoothed or mixed,
            and so not to be compared with validation's; its curve then says so.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the history has no epoch, or matplotlib is not installed.
    """
    rows = _epochs(history)
    epochs = [row["epoch"] for row in rows]
    has_rate = "learning_rate" in rows[-1]
    figure = figures.new_figure((12 if has_rate else 8.2, 3.8))
    figures.add_heading(figure, title)
    panels = figure.subplots(1, 3 if has_rate else 2)
    for axes, name, label, percent in [
        (panels[0], "loss", "Loss (cross-entropy, nats)", False),
        (panels[1], "accuracy", "Accuracy (%)", True),
    ]:
        blurred = smoothed and name == "loss"
        train = "train (labels smoothed or mixed)" if blurred else "train"
        curves = {train: (name, figures.GREY)}
        if f"val_{name}" in rows[-1]:
            curves["validation"] = (f"val_{name}", figures.BLUE)
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
        panels[2].plot(epochs, rates, color=figures.GREY, marker="o", ms=3)
        panels[2].set_title(
            "Learning rate at the end of the epoch", loc="left", fontsize=10
        )
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.margins(x=0.08)
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
        # None of the figures can be negative, and around 0 the margin would be.
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 0))
    return figure


def plot_shots(
    curves: Mapping[str, Sequence[tuple[int, float, float]]],
    *,
    title: str = "Few-shot accuracy",
) -> Figure:
    """Draw accuracy against the number of examples of each class.

    Args:
        curves: For each name, `(shots, accuracy, spread)` in ascending shots: accuracy
            in [0, 1], and its standard deviation over the seeds.
        title: Heading of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no curve, or matplotlib is not installed.
    """
    if not curves or not all(curves.values()):
        raise ValueError(f"curves must each have a point. Received: {dict(curves)}.")
    figure = figures.new_figure((5.6, 3.8))
    figures.add_heading(figure, title)
    axes = figure.subplots()
    colors = (figures.BLUE, figures.GREY, figures.RIGHT, figures.WRONG)
    for number, (name, points) in enumerate(curves.items()):
        shots, accuracies, spreads = zip(*points, strict=True)
        values = [100 * accuracy for accuracy in accuracies]
        color = colors[number % len(colors)]
        axes.errorbar(
            shots,
            values,
            yerr=[100 * spread for spread in spreads],
            color=color,
            marker="o",
            ms=4,
            capsize=3,
            label=name,
        )
        for x, y in zip(shots, values, strict=True):
            axes.annotate(
                f"{y:.1f}",
                (x, y),
                xytext=(7, -11),
                textcoords="offset points",
                fontsize=9,
                color=color,
            )
    ticks = sorted({shots for points in curves.values() for shots, _, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("examples of each class")
    axes.set_title("Accuracy (%)", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.15)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


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
