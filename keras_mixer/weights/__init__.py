"""Files of weights to arrays, arrays to a model's variables, and back."""

from keras_mixer.weights.cache import (
    cache_dir,
    fetch,
    labels_of_weights,
    open_weights,
)
from keras_mixer.weights.constants import (
    checked_constants,
    constants_header,
    labels_told,
)
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
from keras_mixer.weights.hub import (
    HUB_FILE,
    fetch_repository,
    is_address,
    parse_address,
    push_folder,
)
from keras_mixer.weights.names import LAYOUT_OF_FORMAT, LAYOUTS, SUFFIXES
from keras_mixer.weights.names import shapes as tensor_shapes
from keras_mixer.weights.resize import fitted_tokens_mlp_dim
from keras_mixer.weights.source import Source, open_file

__all__ = [
    "HUB_FILE",
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
    "fetch_repository",
    "fill_model",
    "fitted_tokens_mlp_dim",
    "is_address",
    "labels_of_weights",
    "labels_told",
    "model_sizes",
    "model_variables",
    "open_file",
    "open_weights",
    "parse_address",
    "push_folder",
    "read_keras_config",
    "tensor_shapes",
    "write_checkpoint",
    "written_whole",
]
