"""MLP-Mixer for Keras: every published checkpoint, fine-tuning, and serving."""

import importlib
import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING, Any

from keras_mixer.catalog import (
    TrainConfig,
    hook_tensorflow,
    import_keras,
    is_our_program,
    list_weights,
    program_name,
    use_fastest_settings,
)

_IS_OURS = is_our_program()

# Warnings and errors remain. Our programs say what is wrong themselves, in a line.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if _IS_OURS else "1")
if _IS_OURS:  # What others start, they set.
    use_fastest_settings()
hook_tensorflow()

# Clients, lists and help need neither Keras nor models, and do not wait for them.
_WITHOUT_KERAS: tuple[list[str], ...] = (
    [],
    ["query"],
    ["weights"],
    ["help"],
    ["--version"],
    ["completion"],
)
_NEEDS_KERAS = program_name() != "load_test.py" and not (
    _IS_OURS and (sys.argv[1:2] in _WITHOUT_KERAS or {"-h", "--help"} & {*sys.argv[1:]})
)
if _NEEDS_KERAS:
    try:
        import_keras()
    except ValueError as error:
        if _IS_OURS:
            sys.exit(f"keras-mixer: {error}")
        raise

if TYPE_CHECKING or _NEEDS_KERAS:
    from keras_mixer.images import (
        decode_predictions,
        imagenet_labels,
        load_image,
        preprocess_input,
    )
    from keras_mixer.models import (
        ChannelMixing,
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
        StochasticDepth,
        TokenMixing,
        features,
        load_weights,
    )

if TYPE_CHECKING:
    from keras_mixer.serving import (
        export_model,
        export_saved_model,
        predict_dataset,
        predict_files,
    )
    from keras_mixer.training import evaluate, train

# These need TensorFlow whatever the Keras backend: loaded at first use.
_LAZY = {
    "export_model": "serving",
    "export_saved_model": "serving",
    "predict_dataset": "serving",
    "predict_files": "serving",
    "train": "training",
    "evaluate": "training",
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
    "export_model",
    "export_saved_model",
    "features",
    "imagenet_labels",
    "list_weights",
    "load_image",
    "load_weights",
    "predict_dataset",
    "predict_files",
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
