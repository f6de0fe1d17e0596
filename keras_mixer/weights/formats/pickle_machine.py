"""Take a pickle as data: the stack machine under `.pdparams`, which runs nothing.

`pickle.load` runs what a file names. This machine knows the opcodes that `paddle.save`
writes and builds containers, numbers and spans of bytes from them; `pdparams` adds the
few names that numpy's pickles use, as inert tokens. There is no import and no call to
be reached, so there is nothing to guard. Sizes are checked against the bytes that are
left before anything is allocated, and strings and array bytes stay in the mapped file.

Reference: the opcodes are documented in CPython's `Lib/pickletools.py`, and what Paddle
writes is decided in `paddle/framework/io.py` and `io_utils.py`.
"""

import pickletools
import struct
from dataclasses import dataclass
from typing import Any

from keras_mixer.weights.formats.common import MAX_NAME_BYTES, CheckpointError

# The largest Mixer's checkpoint runs some 20,000 opcodes. The limit leaves room for
# optimizer states, and keeps a hostile file to about a second and 100 MB.
_MAX_OPCODES = 1_000_000
_MAX_TEXT_BYTES = 16 << 20  # of all names, however often the file uses each


@dataclass(eq=False, slots=True)
class Span:
    """Bytes that stay in the file until somebody needs them.

    `kind` is "bytes", "text" (UTF-8), "string" (Python 2's, either of the two) or
    "latin1" (UTF-8 text whose code points are the bytes, as protocol 2 has it).
    """

    kind: str
    start: int
    size: int


class PickleMachine:
    """Turn the opcodes of one file into dicts, lists, tuples, numbers and spans.

    Args:
        path: The file's name, for error messages.
        data: The file's bytes, as a `bytes` object or a memory map.
    """

    def __init__(self, path, data):
        self.path, self.data = path, data
        self.at = self.opcode_at = self.opcodes = 0
        self.stack, self.marks, self.memo = [], [], {}
        self.text_budget_bytes = _MAX_TEXT_BYTES

    def run(self):
        """Interpret the whole file and return the object it describes."""
        for self.opcodes in range(_MAX_OPCODES):
            self.opcode_at = self.at
            code = self.take(1)[0]
            name, handler = _HANDLERS[code]
            if (name == "PROTO") != (self.opcodes == 0):
                self.refuse("A pickle starts with its protocol, given once", name)
            if name == "STOP":
                break
            if handler is None:
                self.refuse(
                    "Only the opcodes of plain data are read", f"{name} ({code:#04x})"
                )
            handler(self)
        else:
            self.refuse("A checkpoint has few opcodes", f"more than {_MAX_OPCODES:,}")
        if len(self.stack) != 1 or self.marks:
            self.refuse("A pickle holds one object", f"{len(self.stack)} left at STOP")
        if self.at != len(self.data):
            self.refuse(
                "Nothing may follow the pickle", f"{len(self.data) - self.at:,} bytes"
            )
        return self.stack[0]

    def refuse(
        self,
        rule,
        received,
        way_out="Save it with `paddle.save(layer.state_dict(), path)`",
    ):
        """Raise the error that says what is wrong with the file, and where."""
        raise CheckpointError(
            f"{rule}. Received: {received} at byte {self.opcode_at} of {self.path}. "
            f"Nothing in the file was run. {way_out}."
        )

    def take(self, size):
        """Step over `size` bytes and return them, if the file has as many."""
        left = len(self.data) - self.at
        if size > left:
            self.refuse(
                "The file is cut off or corrupted",
                f"{size:,} bytes announced, {left:,} left,",
                "Fetch or copy the file again",
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size, signed=False):
        return int.from_bytes(self.take(size), "little", signed=signed)

    def span(self, kind, length_bytes):
        """Push the place of a sized string, without reading it."""
        size = self.number(length_bytes)
        start = self.at
        if size > len(self.data) - start:
            self.take(size)  # Refuses.
        self.at += size
        self.stack.append(Span(kind, start, size))

    def text(self, item, what):
        """Return the text of a span that serves as a name."""
        if not isinstance(item, Span) or item.kind not in ("text", "string"):
            self.refuse(f"{what} must be a string", describe(item))
        self.text_budget_bytes -= item.size
        if item.size > MAX_NAME_BYTES or self.text_budget_bytes < 0:
            self.refuse(f"{what} is short, and used rarely", f"{item.size:,} bytes")
        raw = self.data[item.start : item.start + item.size]
        try:
            return raw.decode("utf-8" if item.kind == "text" else "latin-1")
        except UnicodeDecodeError as error:
            self.refuse(f"{what} must be UTF-8", str(error))

    # The stack.

    def push(self, item):
        self.stack.append(item)

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("An opcode's operands come before it", "an empty stack")
        return self.stack.pop()

    def top(self, kind, what):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("An opcode's operands come before it", "an empty stack")
        if not isinstance(self.stack[-1], kind):
            self.refuse(f"{what} was expected", describe(self.stack[-1]))
        return self.stack[-1]

    def pop_mark(self):
        if not self.marks:
            self.refuse("A group of items starts with a mark", "no mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index):
        if index > _MAX_OPCODES:
            self.refuse("The memo counts upwards from 0", f"index {index:,}")
        self.memo[index] = self.top(object, "An object")

    def get(self, index):
        if index not in self.memo:
            self.refuse("A memo entry is stored before it is used", f"index {index:,}")
        self.push(self.memo[index])

    def tuple(self, size):
        self.push(tuple([self.pop() for _ in range(size)][::-1]))

    def append(self, items):
        self.top(list, "A list").extend(items)

    def set_items(self, items):
        table = self.top(dict, "A dict")
        if len(items) % 2:
            self.refuse("A dict has as many values as keys", f"{len(items)} items")
        for key, value in zip(items[::2], items[1::2], strict=True):
            key = self.text(key, "A key")
            if key in table:
                self.refuse("A name appears once", repr(key))
            table[key] = value

    # The protocol and what a file names. This machine knows no name: a subclass may.

    def protocol(self):
        version = self.number(1)
        if not 2 <= version <= 5:
            self.refuse("Pickle protocols 2 to 5 are read", f"protocol {version}")

    def frame(self):
        size = self.number(8)
        if size > len(self.data) - self.at:
            self.take(size)  # Refuses.

    def global_line(self):
        names = []
        for _ in range(2):
            end = self.data.find(b"\n", self.at, self.at + 256)
            if end < 0:
                self.refuse("A global is two short lines", "no line's end")
            names.append(Span("text", self.at, end - self.at))
            self.at = end + 1
        self.symbol(*names)

    def global_from_stack(self):
        name = self.pop()
        self.symbol(self.pop(), name)

    def symbol(self, module, name):
        self.refuse("Plain data names no globals", self.text(name, "A global"))

    def reduce(self):
        self.refuse("Plain data calls nothing", "a call")

    def build(self):
        self.refuse("Plain data has no state to set", "a state")


def describe(item):
    """Name an object briefly, without following what it holds, which may be huge."""
    match item:
        case None | bool() | int() | float():
            return repr(item)[:80]
        case tuple() if len(item) <= 32 and all(type(size) is int for size in item):
            return repr(item)[:200]
        case dict() | list() | tuple():
            return f"a {type(item).__name__} of {len(item):,}"
        case Span():
            return f"{item.size:,} bytes of {item.kind}"
    return type(item).__name__.strip("_").lower()


# The opcodes that `paddle.save` or numpy can cause, by pickletools' names. INST, OBJ,
# NEWOBJ, the persistent ids and the extension registry have no place in weights.
_PLAIN_DATA = {
    "PROTO": lambda m: m.protocol(),
    "FRAME": lambda m: m.frame(),
    "MARK": lambda m: m.marks.append(len(m.stack)),
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "BININT": lambda m: m.push(m.number(4, signed=True)),
    "BININT1": lambda m: m.push(m.number(1)),
    "BININT2": lambda m: m.push(m.number(2)),
    "LONG1": lambda m: m.push(m.number(m.number(1), signed=True)),
    "BINFLOAT": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    "SHORT_BINBYTES": lambda m: m.span("bytes", 1),
    "BINBYTES": lambda m: m.span("bytes", 4),
    "BINBYTES8": lambda m: m.span("bytes", 8),
    "BYTEARRAY8": lambda m: m.span("bytes", 8),
    "SHORT_BINUNICODE": lambda m: m.span("text", 1),
    "BINUNICODE": lambda m: m.span("text", 4),
    "BINUNICODE8": lambda m: m.span("text", 8),
    "SHORT_BINSTRING": lambda m: m.span("string", 1),
    "BINSTRING": lambda m: m.span("string", 4),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "TUPLE1": lambda m: m.tuple(1),
    "TUPLE2": lambda m: m.tuple(2),
    "TUPLE3": lambda m: m.tuple(3),
    "TUPLE": lambda m: m.push(tuple(m.pop_mark())),
    "EMPTY_LIST": lambda m: m.push([]),
    "APPEND": lambda m: m.append([m.pop()]),
    "APPENDS": lambda m: m.append(m.pop_mark()),
    "EMPTY_DICT": lambda m: m.push({}),
    "SETITEM": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.set_items(m.pop_mark()),
    "MEMOIZE": lambda m: m.put(len(m.memo)),
    "BINPUT": lambda m: m.put(m.number(1)),
    "LONG_BINPUT": lambda m: m.put(m.number(4)),
    "BINGET": lambda m: m.get(m.number(1)),
    "LONG_BINGET": lambda m: m.get(m.number(4)),
    "GLOBAL": lambda m: m.global_line(),
    "STACK_GLOBAL": lambda m: m.global_from_stack(),
    "REDUCE": lambda m: m.reduce(),
    "BUILD": lambda m: m.build(),
}
_HANDLERS: list[tuple[str, Any]] = [("no opcode at all", None)] * 256
for _opcode in pickletools.opcodes:
    _HANDLERS[ord(_opcode.code)] = (_opcode.name, _PLAIN_DATA.get(_opcode.name))
