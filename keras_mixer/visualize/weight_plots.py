"""Pictures of weights: token-mixing units and the stem's filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_mixer.visualize import figures, weight_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure = figures.new_figure(
        (panel_width * len(panels) + 0.9, panel_width * height / width + 1)
    )
    figures.add_heading(figure, title or f"{model.name}: token-mixing units")
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
        figures.hide_axes(axes)
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
    figure = figures.new_figure((9, 8 * height / width + 1.1))
    figures.add_heading(figure, title or f"{model.name}: the stem's filters")
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_title(
        f"{len(filters)} filters of {filters.shape[1]} x {filters.shape[2]} pixels, "
        f"{frequencies.min():.2f} to {frequencies.max():.2f} cycles a pixel",
        loc="left",
        fontsize=10,
    )
    axes.set_xlabel("filters, by frequency, row by row", fontsize=9)
    figures.hide_axes(axes)
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
