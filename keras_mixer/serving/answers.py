"""What is said of an image, and what says it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        guesses: Tuples `(class, label, score)`, best first; the class is the WordNet
            synset where there is one, else the label.
        error: Why there is no guess, or None.
        features: The pooled embedding, float32 `(channels,)`, if it was asked for and
            there is one.
    """

    guesses: tuple[tuple[str, str, float], ...] = ()
    error: str | None = None
    features: np.ndarray | None = dataclasses.field(default=None, compare=False)


class Predictor(Protocol):
    """From the bytes of image files to answers, whatever computes them."""

    def prepare(self, file: bytes) -> Any:
        """Do the part of the work that concerns one file. Any thread may call it.

        Args:
            file: Content of an image file.

        Returns:
            What `predict` takes of it.

        Raises:
            ValueError: If it is seen here already that it is no usable image.
        """

    def predict(self, prepared: Sequence[Any]) -> list[Answer]:
        """Answer one batch. One thread at a time may call it.

        Args:
            prepared: What `prepare` returned, one item an image.

        Returns:
            An `Answer` for each item.
        """
