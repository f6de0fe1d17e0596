"""MLP-Mixer for Keras: every published checkpoint, fine-tuning, and serving."""

import importlib
import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING, Any


def _import_keras_quietly():
    # A program answers in a line or a table, a notebook in a picture, and TensorFlow
    # would put a page of start-up notes above it. TF_CPP_MIN_LOG_LEVEL does not reach
    # those of the import (TensorFlow issue 100442), which go straight to the file
    # descriptor.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    saved = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)


_QUIET = ("keras-mixer", "ipykernel_launcher.py", "colab_kernel_launcher.py")
if os.path.basename(sys.argv[0]) in _QUIET:
    _import_keras_quietly()

from keras_mixer.catalog import list_weights
from keras_mixer.images.preprocess import (
    decode_predictions,
    imagenet_labels,
    load_image,
    preprocess_input,
)
from keras_mixer.models.layers import ChannelMixing, StochasticDepth, TokenMixing
from keras_mixer.models.mixer import (
    MlpMixer,
    MlpMixerB16,
    MlpMixerB32,
    MlpMixerH14,
    MlpMixerL16,
    MlpMixerL32,
    MlpMixerNano4,
    MlpMixerS8,
    MlpMixerS16,
    MlpMixerS32,
    load_weights,
)

if TYPE_CHECKING:
    from keras_mixer.serving.export import export_saved_model
    from keras_mixer.training.run import TrainConfig, evaluate, train

# These need TensorFlow whatever the Keras backend: loaded at first use.
_LAZY = {
    "export_saved_model": "serving.export",
    "train": "training.run",
    "evaluate": "training.run",
    "TrainConfig": "training.run",
}

__all__ = [
    "ChannelMixing",
    "MlpMixer",
    "MlpMixerB16",
    "MlpMixerB32",
    "MlpMixerH14",
    "MlpMixerL16",
    "MlpMixerL32",
    "MlpMixerNano4",
    "MlpMixerS8",
    "MlpMixerS16",
    "MlpMixerS32",
    "StochasticDepth",
    "TokenMixing",
    "TrainConfig",
    "decode_predictions",
    "evaluate",
    "export_saved_model",
    "imagenet_labels",
    "list_weights",
    "load_image",
    "load_weights",
    "preprocess_input",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("keras-mixer")
    if name in _LAZY:
        module = importlib.import_module(f"keras_mixer.{_LAZY[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
