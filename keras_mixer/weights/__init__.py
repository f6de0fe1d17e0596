"""Files of weights to arrays, arrays to a model's variables, and back."""

from keras_mixer.weights.cache import cache_dir, fetch, open_weights
from keras_mixer.weights.constants import checked_constants, constants_header
from keras_mixer.weights.download import DownloadError
from keras_mixer.weights.files import written_whole
from keras_mixer.weights.fill import (
    Report,
    check_fit,
    check_same_constants,
    export_arrays,
    fill_model,
    model_sizes,
    model_variables,
)
from keras_mixer.weights.formats import CheckpointError, write_checkpoint
from keras_mixer.weights.formats.keras_h5 import read_config as read_keras_config
from keras_mixer.weights.names import LAYOUT_OF_FORMAT, LAYOUTS, SUFFIXES
from keras_mixer.weights.names import shapes as tensor_shapes
from keras_mixer.weights.resize import fitted_tokens_mlp_dim
from keras_mixer.weights.source import Source, open_file

__all__ = [
    "LAYOUTS",
    "LAYOUT_OF_FORMAT",
    "SUFFIXES",
    "CheckpointError",
    "DownloadError",
    "Report",
    "Source",
    "cache_dir",
    "check_fit",
    "check_same_constants",
    "checked_constants",
    "constants_header",
    "export_arrays",
    "fetch",
    "fill_model",
    "fitted_tokens_mlp_dim",
    "model_sizes",
    "model_variables",
    "open_file",
    "open_weights",
    "read_keras_config",
    "tensor_shapes",
    "write_checkpoint",
    "written_whole",
]
