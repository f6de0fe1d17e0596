"""How TensorFlow and Keras are imported: quietly, and no slower than need be."""

import contextlib
import gc
import importlib.machinery
import os
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

# What TensorFlow and LiteRT write on standard error while they start.
# TF_CPP_MIN_LOG_LEVEL does not reach all of it (TensorFlow issue 100442).
_START_UP_NOTE = re.compile(
    rb"absl::InitializeLog\(\)|oneDNN custom operations are on"
    rb"|Could not find cuda drivers|This TensorFlow binary is optimized"
    rb"|^To enable the following instructions|failed call to cuInit"
    rb"|Unable to register cu\w+ factory|computation placer already registered"
    rb"|TF-TRT Warning: Could not find TensorRT|Created TensorFlow Lite XNNPACK"
)


def program_name() -> str:
    """Return the name of the running program, or `-m` while Python looks for one."""
    return os.path.basename(sys.argv[0])


def is_our_program() -> bool:
    """Say whether this process is `keras-mixer`, and not somebody's own program."""
    if program_name() == "-m":  # while Python looks for the module, which imports us
        return "keras_mixer" in sys.orig_argv
    as_module = pathlib.Path(sys.argv[0]).parts[-2:] == ("keras_mixer", "__main__.py")
    return program_name() == "keras-mixer" or as_module


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
def quick_imports(*unneeded: str) -> Iterator[None]:
    """Import in the block, without what takes time and serves nobody.

    TensorFlow and Keras make hundreds of thousands of objects that stay. Python goes
    through them for garbage again and again, for seconds.

    Args:
        *unneeded: Modules that are imported where they are found, for what none of our
            verbs uses: our programs do not find them. Others may use it, and do.
    """
    hidden = [n for n in unneeded if is_our_program() and n not in sys.modules]
    was_enabled = gc.isenabled()
    gc.disable()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
        if was_enabled:
            gc.enable()


class _QuickTensorFlow:
    """An import hook: whoever imports TensorFlow first has it quick and quiet."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != "tensorflow":
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_quickly(module):
            # TensorFlow 2.20 with protobuf 6, forty times.
            warnings.filterwarnings("ignore", "Protobuf gencode version", UserWarning)
            with without_start_up_notes(), quick_imports("jax"):
                execute(module)
                if not os.path.exists("/dev/nvidiactl"):
                    # Here, or at its first operation, it says that there is no GPU.
                    module.config.list_physical_devices()

        spec.loader.exec_module = execute_quickly
        return spec


def hook_tensorflow() -> None:
    """Have TensorFlow imported quickly and quietly from here on, whoever does it."""
    sys.meta_path.insert(0, _QuickTensorFlow)


def import_keras() -> None:
    """Import Keras.

    Raises:
        ValueError: If its backend is none, or not installed.
    """
    unneeded = ["IPython", "matplotlib", "pandas", "sklearn"]
    if os.environ.get("KERAS_BACKEND") == "tensorflow":
        unneeded.append("jax")
    try:
        with quick_imports(*unneeded):
            import keras  # noqa: F401
    except (ImportError, ValueError) as error:
        raise ValueError(
            "Keras' backend must be one of tensorflow, jax, torch, and be installed. "
            f"Received: KERAS_BACKEND={os.environ.get('KERAS_BACKEND')}; {error}."
        ) from error
