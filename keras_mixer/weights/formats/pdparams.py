"""Read and write Paddle's `.pdparams` files without running anything in them.

The pickle is interpreted by `pickle_machine`. What numpy's pickles call
(`_reconstruct`, `dtype`, ...) is interpreted here, on inert tokens: nothing is
imported, looked up or called by a name that a file gives. The rest of the file knows
what `paddle.save` puts into a pickle, and writes one that `paddle.load` takes.

Reference: `paddle/framework/io.py` and `io_utils.py`.
"""

import codecs
import math
import struct
from dataclasses import dataclass

import numpy as np

from keras_mixer.weights.formats.common import (
    DTYPE_CODES,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    is_plausible_shape,
    map_file,
)
from keras_mixer.weights.formats.pickle_machine import PickleMachine, Span, describe

_NAME_TABLE = "StructuredToParameterName@@"
_SLICE_TABLE = "UnpackBigParamInfor@@"
_WRAPPERS = ("state_dict", "model_state_dict", "model")

# Shared containers could unfold a small file into a huge one: names are counted.
_MAX_ENTRIES = 200_000
_MAX_DEPTH = 32

# A module moved in numpy 2, and protocol 2 uses Python 2's name for `builtins`.
_SYMBOLS = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",
    ("numpy._core.numeric", "_frombuffer"): "frombuffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("collections", "OrderedDict"): "dict",
    ("builtins", "tuple"): "tuple",
    ("__builtin__", "tuple"): "tuple",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
    ("_codecs", "encode"): "encode",
}


@dataclass(eq=False, slots=True)
class _Symbol:
    meaning: str


@dataclass(eq=False, slots=True)
class _DType:
    code: str
    order: str = "<"


@dataclass(eq=False, slots=True)
class _Array:
    value: np.ndarray | None = None


class _ArrayMachine(PickleMachine):
    """Know numpy's arrays, dtypes and scalars, OrderedDict, tuple and latin1 bytes."""

    def __init__(self, path, data):
        super().__init__(path, data)
        # Decoding, swapping and joining each copy a byte once at the most.
        self.copy_budget_bytes = 3 * len(data)
        self.pairs = 0

    def spend(self, size):
        """Count bytes that are copied: sharing must not multiply a small file."""
        self.copy_budget_bytes -= size
        if self.copy_budget_bytes < 0:
            self.refuse("Bytes are used once", "the same bytes over and over")

    def symbol(self, module, name):
        key = (self.text(module, "A module"), self.text(name, "A global"))
        if key not in _SYMBOLS:
            full_name = f"{key[0]}.{key[1]}"[:100]
            way_out = "Save the model's weights alone, as numpy arrays"
            if key[0].split(".")[0] == "torch":
                way_out = "This is a PyTorch file: use the model.safetensors beside it"
            self.refuse(
                "A checkpoint may name numpy arrays and plain containers only",
                f"the global {full_name!r}",
                way_out,
            )
        self.push(_Symbol(_SYMBOLS[key]))

    def reduce(self):
        arguments = self.pop()
        target = self.pop()
        if not isinstance(target, _Symbol) or not isinstance(arguments, tuple):
            self.refuse("Only a known global is applied", describe(target))
        match target.meaning, arguments:
            case "reconstruct", (_Symbol(meaning="ndarray"), tuple(), Span()):
                self.push(_Array())
            case "dtype", (Span() as code, *flags) if len(flags) == 2:
                code = self.text(code, "A dtype")
                if code not in DTYPE_CODES:
                    self.refuse(
                        "Tensors are of floats, integers or booleans", f"dtype {code!r}"
                    )
                self.push(_DType(code))
            case "frombuffer", (Span() as data, dtype, shape, Span() as order):
                fortran = self.text(order, "An order") == "F"
                self.push(_Array(self.array(shape, dtype, fortran, data)))
            case "encode", (Span(kind="text") as text, Span() as codec):
                if self.text(codec, "A codec") not in ("latin1", "latin-1"):
                    self.refuse(
                        "Bytes are stored as latin1 text", self.text(codec, "A codec")
                    )
                self.push(Span("latin1", text.start, text.size))
            case "scalar", (_DType(), Span()):
                self.push(None)  # An epoch's loss, say: no tensor, so nobody asks.
            case "tuple", (tuple() as items,):
                self.push(items)
            case "bytes", ():
                self.push(Span("bytes", 0, 0))
            case "dict", ():
                self.push({})
            case "dict", (list() as pairs,):
                self.push({})
                self.pairs += len(pairs)
                if self.pairs > self.opcodes:  # a pair that is used once has its own
                    self.refuse("Pairs are used once", "the same pairs over and over")
                if not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
                    self.refuse("An OrderedDict is made of pairs", "something else")
                self.set_items([item for pair in pairs for item in pair])
            case _:
                self.refuse(
                    "A known global takes numpy's own arguments",
                    f"{target.meaning} with {len(arguments)} others",
                )

    def build(self):
        state = self.pop()
        match self.top(object, "An object"), state:
            case _DType() as dtype, (int(), Span() as order, None, None, None, *rest):
                order = self.text(order, "A byte order")
                if order not in tuple("<>|") or (order == "|") != (
                    dtype.code[1] == "1"
                ):
                    self.refuse("A byte order is <, > or |", repr(order))
                if rest[:3] not in ([-1, -1, 0], []):
                    self.refuse("A dtype is a plain number", describe(tuple(rest)))
                dtype.order = order
            case _Array(value=None) as array, (int(), shape, dtype, fortran, data):
                array.value = self.array(shape, dtype, fortran, data)
            case target, _:
                self.refuse(
                    "State is set on numpy arrays and dtypes only, once",
                    describe(target),
                )

    def count(self, shape):
        """Return how many elements a shape has, if it is one that numpy can take."""
        if not isinstance(shape, tuple) or not is_plausible_shape(shape):
            self.refuse("A shape is a tuple of plausible sizes", describe(shape))
        return math.prod(shape)

    def array(self, shape, dtype, fortran, data):
        """Return the described array, a view onto the file but for protocol 2's."""
        kind = data.kind if isinstance(data, Span) else None
        if not isinstance(dtype, _DType) or kind not in ("bytes", "string", "latin1"):
            self.refuse(
                "A tensor holds the bytes of numbers",
                f"{describe(dtype)} and {describe(data)}",
            )
        dtype = np.dtype(dtype.order + dtype.code)
        size = self.count(shape) * dtype.itemsize
        if size > data.size or (kind != "latin1" and size != data.size):
            self.refuse(
                "A tensor's bytes must fit its shape",
                f"{data.size:,} bytes for shape {shape} of {dtype}",
            )
        if kind == "latin1":
            raw = self.decode(data, size)
        elif size:
            raw = np.frombuffer(self.data, np.uint8, size, data.start)
        else:
            raw = np.zeros(0, np.uint8)
        array = raw.view(dtype).reshape(shape, order="F" if fortran else "C")
        if not dtype.isnative:
            self.spend(size)
            array = array.astype(dtype.newbyteorder("="))
        array.flags.writeable = False
        return array

    def decode(self, span, size):
        """Turn protocol 2's text back into bytes, a piece at a time to stay small."""
        self.spend(size)
        raw, filled = np.empty(size, np.uint8), 0
        decoder = codecs.getincrementaldecoder("utf-8")()
        stop = span.start + span.size
        try:
            for start in range(span.start, stop, 2**20):
                end = min(start + 2**20, stop)
                piece = decoder.decode(self.data[start:end], end == stop).encode(
                    "latin-1"
                )
                piece = np.frombuffer(piece, np.uint8)[: size - filled + 1]
                raw[filled : filled + len(piece)] = piece
                filled += len(piece)
        except ValueError as error:  # Not UTF-8, not latin1, or more than fits.
            self.refuse("A tensor's bytes must be latin1 text", str(error))
        if filled != size:
            self.refuse(
                "A tensor's bytes must fit its shape", f"{filled:,} of {size:,}"
            )
        return raw


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
    machine = _ArrayMachine(path, map_file(path))
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
    return value if isinstance(value, _Array) else None


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
        if name in tensors or len(tensors) == MAX_TENSORS:
            machine.refuse("A name appears once, and names are few", repr(name))
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
        table[name] = _Array(joined)
    return table


def write(file, arrays, metadata=None):
    """Write a pickle of protocol 4 that `paddle.load` takes, tensor by tensor.

    `pickle.dump` would keep a second copy of every tensor until its end, in its memo.

    Args:
        file: A binary file open for writing.
        arrays: A function that yields pairs of name and little-endian, C-contiguous
            array.
        metadata: Has no place here.
    """
    file.write(b"\x80\x04}(")
    for name, array in arrays():
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
