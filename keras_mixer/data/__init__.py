"""Labelled data sets as batches for training; collections of images to label."""

from keras_mixer.catalog import Augmentation
from keras_mixer.data.batches import (
    errors_in_words,
    evaluation_batches,
    on_one_iterator,
    training_batches,
)
from keras_mixer.data.service import (
    find_services,
    service_restarted,
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
from keras_mixer.data.tfds_sources import NotPrepared, open_prepared, prepared_builder

__all__ = [
    "Augmentation",
    "IndexedSplit",
    "NotPrepared",
    "Source",
    "StreamSplit",
    "errors_in_words",
    "evaluation_batches",
    "find_services",
    "on_one_iterator",
    "open_prepared",
    "open_source",
    "open_split",
    "prepared_builder",
    "service_restarted",
    "training_batches",
]
