"""What the pictures share: an empty figure, its heading, and its file.

No figure goes through pyplot, which would keep it alive and look for a screen.
"""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from keras_mixer.weights import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = "#1a7f37", "#c62828"
GREY, BLUE = "#8a8f98", "#1f5fbf"


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file, whole or not at all.

    Args:
        figure: What the functions above return.
        path: The file to write.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)


def check_same_length(name, values, images):
    if len(values) != len(images):
        raise ValueError(
            f"There must be as many {name} as images or labels. "
            f"Received: {len(values)} for {len(images)}."
        )


def hide_axes(axes):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def add_heading(figure, title):
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")


def new_figure(size):
    """Return an empty figure, `size` inches wide and high."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "Pictures need matplotlib. Install it with "
            f"`pip install keras-mixer[train]`. Received: {error}."
        ) from error
    return Figure(figsize=size, layout="constrained")
