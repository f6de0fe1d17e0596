"""Read and write checkpoint files as `{name: array}`, whatever framework made them.

The formats are Paddle's `.pdparams`, numpy's `.npz` (Google's Mixers) and
`.safetensors` (timm's), and for reading Keras' `.weights.h5` and `.keras`. Which one a
file has is told by its content, not by its name. Nothing read from a file runs. Arrays
are read-only views onto the memory-mapped file wherever the format allows, so a
checkpoint costs address space rather than memory; the file must not be shortened while
they are in use. What is written appears whole or not at all.

Throughout, uint16 holds bfloat16 bit patterns, which is how Paddle stores them: weights
are never unsigned integers, and numpy has no bfloat16. `to_float32` decodes them.
"""

import os

import numpy as np

from keras_mixer.weights.files import written_whole
from keras_mixer.weights.formats import npz, pdparams, safetensors_file
from keras_mixer.weights.formats.common import (
    DTYPE_CODES,
    MAX_NAME_BYTES,
    CheckpointError,
    to_float32,
)

__all__ = [
    "CheckpointError",
    "CheckpointNotFoundError",
    "detect_format",
    "read_checkpoint",
    "read_metadata",
    "to_float32",
    "write_checkpoint",
]

_FORMATS = {"pdparams": pdparams, "npz": npz, "safetensors": safetensors_file}

# torch.save's first object before it used zip files: a long of 10 bytes, pickled.
_TORCH_MAGIC = b"\x80\x02\x8a\n" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """The checkpoint file does not exist."""


def detect_format(path):
    """Tell a weights file's format by its content.

    Args:
        path: A file.

    Returns:
        "pdparams", "npz", "safetensors", "h5" or "keras".

    Raises:
        CheckpointNotFoundError: If there is no such file.
        CheckpointError: If the file is a directory, empty, a PyTorch pickle, a web page
            or other text, or of no known format.
    """
    path = os.fspath(path)
    _require_file(path)
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.startswith(_TORCH_MAGIC):
        _refuse_torch(path)
    # Before the pickle: its header's length may begin with a pickle's first byte, but
    # a pickle's first bytes are no length that fits into a file.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path):
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pdparams"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _detect_zip(path)
    if head[8:9] == b"{":
        return "safetensors"  # cut off, as its reader will say
    text = head.decode("utf-8-sig", "replace")
    received = f"a file that starts with the bytes {head[:8].hex(' ')}"
    # The last letter may be cut in two.
    if "\ufffd" not in text[:-1] and all(c.isprintable() or c.isspace() for c in text):
        received = f"text that starts with {text[:40]!r}"
        if text.lstrip().startswith("<"):
            received = (
                f"a web page, as a proxy may send in a file's place, {text[:40]!r}"
            )
        elif text.startswith("version https://git-lfs"):
            received = "a Git LFS pointer, which `git lfs pull` replaces by the file"
    raise CheckpointError(
        "A checkpoint is a .pdparams, .npz, .safetensors, .weights.h5 or .keras file. "
        f"Received: {received}, in {path}. Download it again and look at its size."
    )


def _detect_zip(path):
    names = [member.filename for member in npz.list_members(path)]
    if any(name.endswith("data.pkl") for name in names):
        _refuse_torch(path)
    if {"config.json", "model.weights.h5"} <= set(names):
        return "keras"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise CheckpointError(
        "A zip file of weights is a .npz or .keras file. Received: one with the "
        f"members {[name[:40] for name in names[:4]]}, in {path}. "
        "Pass the weights file itself."
    )


def _refuse_torch(path):
    raise CheckpointError(
        "PyTorch's .pth and .bin files are not read, because they can run code. "
        f"Received: {path}. Use the model.safetensors published beside it, or write "
        "one in PyTorch: `safetensors.torch.save_file(model.state_dict(), path)`."
    )


def read_checkpoint(path):
    """Read the tensors of a `.pdparams`, `.npz` or `.safetensors` file, by content.

    Args:
        path: A file. Its name does not matter.

    Returns:
        A dict of name to read-only array, in the file's order.

    Raises:
        CheckpointNotFoundError: If there is no such file.
        CheckpointError: If the file is of another format, or damaged, or hostile.
    """
    path = os.fspath(path)
    file_format = detect_format(path)
    if file_format not in _FORMATS:
        suffix = {"h5": ".weights.h5", "keras": ".keras"}[file_format]
        raise CheckpointError(
            f"Keras' own files are loaded by Keras. Received: a {suffix} file, {path}. "
            f"Pass it as `weights=`, under a name that ends in {suffix}."
        )
    return _FORMATS[file_format].read(path)


def read_metadata(path):
    """Read the dict of strings in the header of a `.safetensors` file."""
    return safetensors_file.read_metadata(path)


def write_checkpoint(path, tensors, metadata=None):
    """Write a `.pdparams`, `.npz` or `.safetensors` file, by the name's ending.

    Paddle, numpy and safetensors read what is written.

    Args:
        path: The file to make or replace; it appears whole or not at all.
        tensors: A mapping of name to array; uint16 is bfloat16. Arrays are converted
            one at a time.
        metadata: A dict of strings, which a `.safetensors` file alone has a place for.

    Raises:
        CheckpointError: If the ending is another, if there are no tensors, or if one is
            not an array of numbers.
    """
    path = os.path.realpath(path)
    suffix = os.path.splitext(path)[1][1:]
    if suffix not in _FORMATS:
        raise CheckpointError(
            f"A checkpoint's name must end in one of .{', .'.join(_FORMATS)}. "
            f"Received: {path!r}."
        )
    if not tensors:
        raise CheckpointError(f"A checkpoint holds tensors. Received: none for {path}.")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"The folder to write into does not exist: {folder}.")
    with written_whole(path) as temporary, open(temporary, "xb") as file:
        _FORMATS[suffix].write(file, lambda: _plain_arrays(tensors), metadata)


def _plain_arrays(tensors):
    """Yield pairs of name and little-endian, C-contiguous array of a known dtype."""
    for name, value in tensors.items():
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
        if (
            not isinstance(name, str)
            or len(name.encode()) > MAX_NAME_BYTES
            or array.dtype.str[1:] not in DTYPE_CODES
        ):
            raise CheckpointError(
                f"A tensor has a name of at most {MAX_NAME_BYTES} bytes and is of "
                "floats, integers or booleans. "
                f"Received: {str(name)[:100]!r} of dtype {array.dtype}."
            )
        order = array.dtype.newbyteorder("<")
        yield name, np.asarray(array, dtype=order, order="C")


def _require_file(path):
    if not os.path.exists(path):
        raise CheckpointNotFoundError(f"There is no checkpoint file at {path}.")
    if not os.path.isfile(path):
        raise CheckpointError(
            f"A checkpoint is a single file. Received: {path}, which is not one. "
            "Pass the path of the file inside."
        )
    if os.path.getsize(path) == 0:
        raise CheckpointError(
            f"A checkpoint holds tensors. Received: {path}, an empty file. "
            "Delete it and download it again."
        )
