"""Read and write `.safetensors` files, memory-mapped, with bfloat16 as bit patterns.

The `safetensors` package judges whether a file keeps to the format; its numpy flavour
copies and knows no bfloat16, so the views are made here. It is imported at first use.

Reference: the format section of https://github.com/huggingface/safetensors.
"""

import json
import math

import numpy as np

from keras_mixer.weights.formats.common import (
    MAX_DIRECTORY_BYTES,
    MAX_TENSORS,
    CheckpointError,
    map_file,
)

_DTYPES = {
    "F16": "f2",
    "F32": "f4",
    "F64": "f8",
    "I8": "i1",
    "I16": "i2",
    "I32": "i4",
    "I64": "i8",
    "U8": "u1",
    "U16": "u2",
    "BF16": "u2",
    "U32": "u4",
    "U64": "u8",
    "BOOL": "b1",
}


def read(path):
    """Read the tensors of a file, as views onto it.

    Args:
        path: A file.

    Returns:
        A dict of name to read-only array; bfloat16 as uint16 bit patterns.

    Raises:
        CheckpointError: If the file is damaged or has tensors of another kind.
        ImportError: If the `safetensors` package is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "Reading a .safetensors file needs the safetensors package. "
            "Install it with `pip install safetensors`."
        ) from error
    data = map_file(path)
    start = 8 + int.from_bytes(data[:8], "little")
    if MAX_DIRECTORY_BYTES < start <= len(data):
        raise CheckpointError(
            "A file of weights has few tensors. Received: a header of "
            f"{start - 8:,} bytes in {path}. Fetch another file."
        )
    try:
        # Opening holds the header to the format: dtypes, offsets, sizes, no gaps.
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"A safetensors file must be whole. Received: {path}, of which the "
            f"safetensors package says: {error}. Fetch or copy the file again."
        ) from error
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        code = _DTYPES.get(entry["dtype"])
        if code is None:
            raise CheckpointError(
                "Tensors are of floats, integers or booleans. Received: dtype "
                f"{entry['dtype']} for {name[:100]!r} in {path}. Save it as float32."
            )
        count = math.prod(entry["shape"])
        begin = start + entry["data_offsets"][0]
        array = np.frombuffer(data, "<" + code, count, begin).reshape(entry["shape"])
        array.flags.writeable = False
        tensors[name] = array
    if not 0 < len(tensors) <= MAX_TENSORS:
        raise CheckpointError(
            f"A checkpoint holds tensors, and at most {MAX_TENSORS:,}. Received: "
            f"{len(tensors) or 'none'} in {path}. Fetch another file."
        )
    return tensors


def read_metadata(path):
    """Read the dict of strings in the header of a file that `read` has taken."""
    data = map_file(path)
    stop = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:stop]).get("__metadata__", {})


def write(file, arrays, metadata=None):
    """Write a file tensor by tensor; uint16 is labelled bfloat16.

    Args:
        file: A binary file open for writing.
        arrays: A function that yields pairs of name and little-endian, C-contiguous
            array. It is called twice, as the header comes before the data.
        metadata: A dict of strings for the header, such as `{"format": "pt"}`.
    """
    labels = {code: label for label, code in _DTYPES.items()} | {"u2": "BF16"}
    header, offset = {"__metadata__": metadata} if metadata else {}, 0
    for name, array in arrays():
        header[name] = {
            "dtype": labels[array.dtype.str[1:]],
            "shape": array.shape,
            "data_offsets": (offset, offset + array.nbytes),
        }
        offset += array.nbytes
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # The data start aligned.
    file.write(len(header).to_bytes(8, "little") + header)
    for _, array in arrays():
        file.write(array.reshape(-1).view(np.uint8).data)
