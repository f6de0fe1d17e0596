"""MLP-Mixer for Keras: every published checkpoint, fine-tuning, and serving."""

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.metadata
import os
import re
import sys
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

from keras_mixer.catalog import list_weights, use_fastest_settings

# What TensorFlow and LiteRT write on standard error while they start.
# TF_CPP_MIN_LOG_LEVEL does not reach all of it (TensorFlow issue 100442).
_START_UP_NOTE = re.compile(
    rb"absl::InitializeLog\(\)|oneDNN custom operations are on"
    rb"|Could not find cuda drivers|This TensorFlow binary is optimized"
    rb"|^To enable the following instructions|failed call to cuInit"
    rb"|Unable to register cu\w+ factory|computation placer already registered"
    rb"|TF-TRT Warning: Could not find TensorRT|Created TensorFlow Lite XNNPACK"
)


@contextlib.contextmanager
def without_start_up_notes():
    """Hold back standard error in the block; then write it, less start-up notes."""
    saved = caught = None
    # Of a process that started without standard error, 2 may be another file's.
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError):
            saved, caught = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115
    if saved is None or caught is None:
        yield
        return
    with caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            kept = [line for line in caught if not _START_UP_NOTE.search(line)]
            with contextlib.suppress(OSError):
                os.write(2, b"".join(kept))


@contextlib.contextmanager
def without_garbage_collection():
    """Search for no garbage in the block, which imports.

    TensorFlow and Keras make half a million objects that stay; Python goes through them
    again and again meanwhile, which takes a third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _hidden(*names):
    """Let our programs not find modules in the block that it would import for others.

    Keras and TensorFlow import what is there of them, for wrappers and pictures that no
    verb uses. Together they take a third of a program's start.
    """
    names = [name for name in names if _IS_OURS and name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _QuietTensorFlow:
    """An import hook: whoever imports TensorFlow first gets no start-up notes."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != "tensorflow":
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_quietly(module):
            # TensorFlow 2.20 with protobuf 6, forty times.
            warnings.filterwarnings("ignore", "Protobuf gencode version", UserWarning)
            with (
                without_start_up_notes(),
                without_garbage_collection(),
                _hidden("jax"),
            ):
                execute(module)
                if not os.path.exists("/dev/nvidiactl"):
                    # Here, or at its first operation, it says that there is no GPU.
                    module.config.list_physical_devices()

        spec.loader.exec_module = execute_quietly
        return spec


def _import_keras():
    unneeded = ["IPython", "matplotlib", "pandas", "sklearn"]
    if os.environ.get("KERAS_BACKEND") == "tensorflow":
        unneeded.append("jax")
    try:
        with without_garbage_collection(), _hidden(*unneeded):
            import keras  # noqa: F401
    except (ImportError, ValueError) as error:
        message = (
            "Keras' backend must be one of tensorflow, jax, torch, and be installed. "
            f"Received: KERAS_BACKEND={os.environ.get('KERAS_BACKEND')}; {error}."
        )
        if _IS_OURS:
            sys.exit(f"keras-mixer: {message}")
        raise ValueError(message) from error


sys.meta_path.insert(0, _QuietTensorFlow)

_PROGRAM = os.path.basename(sys.argv[0])
# The program has the name `-m` while Python looks for us.
_IS_OURS = _PROGRAM == "keras-mixer" or (
    _PROGRAM == "-m" and "keras_mixer" in sys.orig_argv
)
# Warnings and errors remain. Our programs say what is wrong themselves, in a line.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if _IS_OURS else "1")
if _IS_OURS:  # What others start, they set.
    use_fastest_settings()

# Clients, lists and help need neither Keras nor models, and do not wait for them.
_WITHOUT_KERAS: tuple[list[str], ...] = (
    [],
    ["query"],
    ["weights"],
    ["help"],
    ["--version"],
)
_NEEDS_KERAS = _PROGRAM != "load_test.py" and not (
    _IS_OURS and (sys.argv[1:2] in _WITHOUT_KERAS or {"-h", "--help"} & {*sys.argv[1:]})
)
if _NEEDS_KERAS:
    _import_keras()

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
    from keras_mixer.training import TrainConfig, evaluate, train

# These need TensorFlow whatever the Keras backend: loaded at first use.
_LAZY = {
    "export_model": "serving",
    "export_saved_model": "serving",
    "predict_dataset": "serving",
    "predict_files": "serving",
    "train": "training",
    "evaluate": "training",
    "TrainConfig": "training",
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
