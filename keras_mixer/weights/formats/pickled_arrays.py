"""Read the numpy arrays in a pickle: the names a `.pdparams` may use, and no others.

What numpy's own pickles call (`_reconstruct`, `dtype`, ...) is interpreted here, on
inert tokens. Nothing is imported, looked up or called by a name that a file gives.
"""

import codecs
import math
from dataclasses import dataclass

import numpy as np

from keras_mixer.weights.formats.pickle_machine import PickleMachine, Span, describe

DTYPE_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

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
class Array:
    value: np.ndarray | None = None


def is_plausible_shape(shape):
    """Tell whether numpy could hold the shape; 0 times a huge size is not an excuse."""
    return (
        len(shape) <= 32
        and all(type(size) is int and 0 <= size < 2**40 for size in shape)
        and math.prod(max(size, 1) for size in shape) <= 2**56
    )


class ArrayMachine(PickleMachine):
    """Know numpy's arrays, dtypes and scalars, OrderedDict, tuple and latin1 bytes."""

    def __init__(self, path, data):
        super().__init__(path, data)
        # Decoding, swapping and joining each copy a byte once at the most.
        self.copy_budget_bytes = 3 * len(data)

    def spend(self, size):
        """Count bytes that are copied: sharing must not multiply a small file."""
        self.copy_budget_bytes -= size
        if self.copy_budget_bytes < 0:
            self.refuse("Array bytes are used once", "the same bytes over and over")

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
                self.push(Array())
            case "dtype", (Span() as code, *flags) if len(flags) == 2:
                code = self.text(code, "A dtype")
                if code not in DTYPE_CODES:
                    self.refuse(
                        "Tensors are of floats, integers or booleans", f"dtype {code!r}"
                    )
                self.push(_DType(code))
            case "frombuffer", (Span() as data, dtype, shape, Span() as order):
                fortran = self.text(order, "An order") == "F"
                self.push(Array(self.array(shape, dtype, fortran, data)))
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
            case Array(value=None) as array, (int(), shape, dtype, fortran, data):
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
