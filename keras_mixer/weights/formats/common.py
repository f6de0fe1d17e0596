"""What every format of tensors agrees on: the error, the limits, the types."""

import math
import mmap

import numpy as np

MAX_NAME_BYTES = 1024
# The largest Mixer has 390 tensors. Directories of more cost time, and are no Mixer's.
MAX_TENSORS = 10_000
MAX_DIRECTORY_BYTES = 4 << 20
DTYPE_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class CheckpointError(ValueError):
    """A checkpoint file is refused: the rule, what was found where, and the way out."""


def map_file(path):
    """Map a file read-only into memory; the arrays made from the map keep it alive."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def is_plausible_shape(shape):
    """Tell whether numpy could hold the shape; 0 times a huge size is not an excuse."""
    return (
        len(shape) <= 32
        and all(type(size) is int and 0 <= size < 2**40 for size in shape)
        and math.prod(max(size, 1) for size in shape) <= 2**56
    )


def to_float32(array):
    """Convert a checkpoint's floating-point tensor to float32.

    Args:
        array: float16, float32 or float64 of any byte order, or bfloat16 as uint16 bit
            patterns, as `ml_dtypes.bfloat16`, or as numpy's `V2`.

    Returns:
        A float32 array of the same shape; the array itself if it is one already.

    Raises:
        CheckpointError: If the array is of another dtype.
    """
    if array.dtype.name == "bfloat16" or array.dtype.str[1:] == "V2":
        array = array.view(np.uint16)
    if array.dtype.str[1:] == "u2":
        # bfloat16 is float32 without the lower half of its bits.
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if array.dtype.kind != "f":
        raise CheckpointError(
            f"Weights are floating-point numbers. Received: dtype {array.dtype}. "
            "Save them as float32."
        )
    with np.errstate(over="ignore"):  # Infinities are for the reader to refuse.
        return array.astype(np.float32, copy=False)
