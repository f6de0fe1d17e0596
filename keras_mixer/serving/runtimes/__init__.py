"""The runtimes that models are exported for besides TensorFlow, one file each.

Such a file has what `export_model` and `keras-mixer predict` ask of a runtime:

- `NAME`, `SUFFIX` of its files, the distributions that it is made of (`PACKAGES`), the
  modules that `write` imports for each precision (`WRITERS`) and the one that `load`
  does (`RUNTIME`);
- `write(model, path, precision, images)`: writes a Functional Keras model in portable
  layers, from `images` to `probabilities`; for int8 it may measure on crops, float32
  `(count, height, width, 3)`;
- `load(path, threads=None)`: returns a function from `images`, float32
  `(batch, height, width, 3)`, to `probabilities`, float32 `(batch, classes)`;
- `how_to_load(path)`: the line of Python that a user loads it by.

It imports the runtime where it needs it, and nothing of this package: verification runs
the file alone, in a process where Keras, TensorFlow and this package are not to be had.
"""

import json
import pathlib
from types import ModuleType

from keras_mixer.catalog import (
    ImageTransform,
    check_positive,
    needs_extra,
    without_start_up_notes,
)
from keras_mixer.serving.runtimes import (
    litert_runtime,
    onnx_runtime,
    openvino_runtime,
)

RUNTIMES: dict[str, ModuleType] = {
    "onnx": onnx_runtime,
    "openvino": openvino_runtime,
    "litert": litert_runtime,
}
SUFFIXES = {runtime.SUFFIX: name for name, runtime in RUNTIMES.items()}


def card_path(path):
    """Where the card of an exported file lies: `m.onnx.keras_mixer.json`, beside it."""
    return pathlib.Path(f"{path}.keras_mixer.json")


def labels_path(path):
    """Where the labels of an exported file lie: `m.onnx.labels.txt`."""
    return pathlib.Path(f"{path}.labels.txt")


def read_card(path):
    """Return the card of an exported file, with an `ImageTransform` in it.

    Raises:
        ValueError: If it, or the file, is missing or damaged.
    """
    from keras_mixer.weights import checked_constants  # with Keras, late

    if not pathlib.Path(path).is_file():
        raise ValueError(f"The model must be a file that exists. Received: {path}.")
    beside = card_path(path)
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
        constants = checked_constants(card["preprocessing"], beside)
        card["preprocessing"] = ImageTransform(**constants)
        for name in ("image_size", "classes"):
            check_positive(name, card[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"An exported file has a card beside it, {beside.name}, which says how "
            f"images are prepared. Received: {path} ({error}). Copy what the export "
            f"wrote together: {pathlib.Path(path).stem}.*."
        ) from error
    return card


def load(path, threads=None):
    """Load an exported file by its runtime.

    Args:
        path: The file; its suffix says which runtime.
        threads: How many threads it may use; None for as many as there are cores.

    Returns:
        A function from crops, float32 `(batch, height, width, 3)` with pixels in
        [0, 255], to probabilities, float32 `(batch, classes)`.

    Raises:
        ImportError: If the runtime is not installed.
        ValueError: If the runtime cannot read the file.
    """
    path = pathlib.Path(path)
    runtime = RUNTIMES[SUFFIXES[path.suffix]]
    with needs_extra(f"{runtime.SUFFIX} files", "runtimes"):
        __import__(runtime.RUNTIME)
    try:
        with without_start_up_notes():
            return runtime.load(path, threads)
    except Exception as error:  # each runtime has kinds of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{runtime.NAME} must be able to read the file. Received: {path} "
            f"({reason}). Export the model again."
        ) from error
