"""Labelled data sets as batches for training and evaluation."""

from keras_mixer.data.augmentation import (
    Augmentation,
)
from keras_mixer.data.batches import (
    evaluation_batches,
    training_batches,
)
from keras_mixer.data.sources import (
    open_source,
    open_split,
)
from keras_mixer.data.splits import (
    Source,
)

__all__ = [
    "Augmentation",
    "Source",
    "evaluation_batches",
    "open_source",
    "open_split",
    "training_batches",
]
