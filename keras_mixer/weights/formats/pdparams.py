"""Read and write Paddle's `.pdparams` files without running anything in them.

The pickle is interpreted by `pickle_machine` and `pickled_arrays`; this module knows
what `paddle.save` puts into it, and writes a file that `paddle.load` takes.

Reference: `paddle/framework/io.py` and `io_utils.py`.
"""

import struct

import numpy as np

from keras_mixer.weights.formats.pickle_machine import (
    MAX_NAME_BYTES,
    Span,
    describe,
    map_file,
)
from keras_mixer.weights.formats.pickled_arrays import Array, ArrayMachine

_NAME_TABLE = "StructuredToParameterName@@"
_SLICE_TABLE = "UnpackBigParamInfor@@"
_WRAPPERS = ("state_dict", "model_state_dict", "model")

# Shared containers could unfold a small file into a huge one: names are counted.
_MAX_ENTRIES = 200_000
_MAX_DEPTH = 32


def read(path):
    """Read the tensors of a `.pdparams` file, as views onto the file where possible.

    A dict under a `state_dict`, `model_state_dict` or `model` key is taken for the
    whole, and what stands beside it (optimizer, epoch) is left. Other nested dicts,
    lists and tuples are flattened with dotted names. Leaves that are no tensors are
    ignored.

    Args:
        path: A file that is not empty.

    Returns:
        A dict of name to array. The arrays are read-only and of native byte order.
        bfloat16 tensors come as Paddle writes them, as uint16 bit patterns.

    Raises:
        CheckpointError: If the file is not such a pickle, is cut off, names anything
            but numpy arrays and plain containers, or holds no tensors.
    """
    machine = ArrayMachine(path, map_file(path))
    root = _unwrap(machine, machine.run())
    if not isinstance(root, dict):
        machine.refuse("A checkpoint is a dict of tensors", describe(root))
    tensors = {}
    _flatten(machine, root, (), (), tensors, [0])
    if not tensors:
        machine.refuse("A checkpoint holds tensors", "none")
    return tensors


def _unwrap(machine, root):
    """Step into the dict that holds the weights, past a training program's wrapping."""
    if isinstance(root, tuple) and _as_tensor(root):
        return {machine.text(root[0], "A name"): root[1]}  # A single saved tensor.
    for _ in range(_MAX_DEPTH):
        if not isinstance(root, dict) or any(map(_as_tensor, root.values())):
            break
        keys = [key for key in _WRAPPERS if root.get(key) and type(root[key]) is dict]
        if not keys:
            break
        if len(keys) > 1:
            machine.refuse(
                "A checkpoint holds one set of weights",
                f"the keys {keys}",
                "Save one of them alone",
            )
        root = root[keys[0]]
    return root


def _as_tensor(value):
    """Return the array of a tensor in either of Paddle's forms, else None."""
    # `paddle.save` writes arrays for a flat state dict, (name, array) for nested ones.
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Span):
        value = value[1]
    return value if isinstance(value, Array) else None


def _flatten(machine, value, names, parents, tensors, visits):
    """Collect the tensors under `value`, naming each by its dotted path."""
    visits[0] += 1
    name = ".".join(names)
    if visits[0] > _MAX_ENTRIES or len(name) > MAX_NAME_BYTES:
        machine.refuse(
            "A checkpoint's names are short and few",
            f"entry {visits[0]:,}, a name of {len(name):,} letters",
        )
    array = _as_tensor(value)
    if array is not None:
        if array.value is None:
            machine.refuse("A tensor has a value", f"{name!r} without one")
        if name in tensors:
            machine.refuse("A name appears once", repr(name))
        tensors[name] = array.value
        return
    if isinstance(value, dict):
        items = _join_slices(machine, value).items()
    elif isinstance(value, list | tuple):
        items = ((str(index), item) for index, item in enumerate(value))
    else:
        return
    if id(value) in parents or len(parents) >= _MAX_DEPTH:
        machine.refuse(
            f"Containers nest at most {_MAX_DEPTH} deep, and not in themselves",
            f"more at {name[:100]!r}",
        )
    for key, item in items:
        inner = (*names, key)
        _flatten(machine, item, inner, (*parents, id(value)), tensors, visits)


def _join_slices(machine, table):
    """Put tensors together that protocols 2 and 3 cut up, and drop the name table."""
    table = {key: value for key, value in table.items() if key != _NAME_TABLE}
    slices = table.pop(_SLICE_TABLE, {})
    if not isinstance(slices, dict):
        machine.refuse(f"{_SLICE_TABLE} is a dict", type(slices).__name__)
    for name, entry in slices.items():
        match entry:
            case {"OriginShape": tuple() as shape, "slices": list() as parts}:
                parts = [machine.text(part, "A slice") for part in parts]
                arrays = [_as_tensor(table.pop(part, None)) for part in parts]
            case _:
                arrays = []
        if (
            not arrays
            or name in table
            or any(a is None or a.value is None or a.value.ndim != 1 for a in arrays)
            or len({array.value.dtype for array in arrays}) > 1
            or machine.count(shape) != sum(array.value.size for array in arrays)
        ):
            machine.refuse(
                "A tensor's slices are listed, present, and fit its shape",
                f"others for {name[:100]!r}",
                "Fetch the file again",
            )
        machine.spend(sum(array.value.nbytes for array in arrays))
        joined = np.concatenate([array.value for array in arrays]).reshape(shape)
        joined.flags.writeable = False
        table[name] = Array(joined)
    return table


def write(file, tensors):
    """Write a pickle of protocol 4 that `paddle.load` takes, tensor by tensor.

    `pickle.dump` would keep a second copy of every tensor until its end, in its memo.

    Args:
        file: A binary file open for writing.
        tensors: Pairs of name and little-endian, C-contiguous array.
    """
    file.write(b"\x80\x04}(")
    for name, array in tensors:
        file.write(_text(name))
        # numpy 2 still knows this name, and numpy 1 knows no other.
        file.write(_global("numpy.core.multiarray", "_reconstruct"))
        file.write(_global("numpy", "ndarray"))
        file.write(b"K\x00\x85C\x01b\x87R(K\x01(")
        for size in array.shape:
            file.write(b"\x8a\x08" + struct.pack("<q", size))
        file.write(b"t" + _global("numpy", "dtype"))
        file.write(_text(array.dtype.str[1:]) + b"\x89\x88\x87R(K\x03")
        file.write(_text(array.dtype.str[0]))
        file.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
        file.write(b"\x8e" + struct.pack("<Q", array.nbytes))
        file.write(array.reshape(-1).view(np.uint8).data)
        file.write(b"tb")
    file.write(b"u.")


def _text(text):
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _global(module, name):
    return _text(module) + _text(name) + b"\x93"
