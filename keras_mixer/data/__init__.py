"""Labelled data sets as batches for training and evaluation."""

from keras_mixer.data.augmentation import (
    Augmentation,
)
from keras_mixer.data.batches import (
    LABEL_RULE,
    evaluation_batches,
    training_batches,
)
from keras_mixer.data.sources import (
    open_source,
    open_split,
)
from keras_mixer.data.splits import (
    IndexedSplit,
    Source,
    StreamSplit,
)

__all__ = [
    "LABEL_RULE",
    "Augmentation",
    "IndexedSplit",
    "Source",
    "StreamSplit",
    "evaluation_batches",
    "open_source",
    "open_split",
    "training_batches",
]
