"""Label collections of any size: read ahead, answer in batches, write in shards."""

from keras_mixer.serving.bulk.identity import model_identity
from keras_mixer.serving.bulk.label import label, predict_files
from keras_mixer.serving.bulk.shards import Shards
from keras_mixer.serving.bulk.tables import (
    FORMATS,
    LabelledShard,
    Layout,
    write_table,
)

__all__ = [
    "FORMATS",
    "LabelledShard",
    "Layout",
    "Shards",
    "label",
    "model_identity",
    "predict_files",
    "write_table",
]
