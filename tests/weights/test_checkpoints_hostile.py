"""Files made to run code, or to eat the machine, are refused and have done neither."""

import os
import pickle
import re
import struct
import subprocess
import time
import tracemalloc

import numpy as np
import pytest

from keras_mixer.weights import formats
from keras_mixer.weights.formats import CheckpointError

_TRAP = "sprung"  # The side effect: a file of this name in the working folder.


def _text(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _call(module, name, *arguments):
    """Pickle the call `module.name(*arguments)` by hand."""
    arguments = b"".join(
        _text(item) if isinstance(item, str) else item for item in arguments
    )
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + arguments + b"tR."


def _dict(value):
    return b"\x80\x04}" + _text("w") + value + b"s."


def _array(array=None, protocol=4):
    """Pickle one small array under the name `w`, to be tampered with."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3) if array is None else array
    data = pickle.dumps({"w": array}, protocol)
    # Without the frame, whose length tampering would belie.
    return data[:2] + data[11:] if protocol == 4 else data


def _swap(data, old, new):
    assert old in data
    return data.replace(old, new)


class _Reduce:
    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


_OPEN = f"open({_TRAP!r}, 'w').close()"
_NESTED = {"w": (np.ones(2), [{"deep": _Reduce(os.system, f"touch {_TRAP}")}])}

# Each of these makes the file when pickle loads it, which a test below shows.
LIVE = {
    "os.system": _call("os", "system", f"touch {_TRAP}"),
    "posix.system": pickle.dumps(_Reduce(os.system, f"touch {_TRAP}"), 4),
    "eval": _call("builtins", "eval", _OPEN),
    "python 2 eval": _call("__builtin__", "eval", _OPEN),
    "exec": _call("builtins", "exec", _OPEN),
    "subprocess": pickle.dumps(_Reduce(subprocess.check_call, ["touch", _TRAP]), 4),
    "getattr chain": b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n("
    + _text("os")
    + b"tR"
    + _text("system")
    + b"tR("
    + _text(f"touch {_TRAP}")
    + b"tR.",
    "dotted global": b"\x80\x04"
    + _text("shutil")
    + _text("os.system")
    + b"\x93"
    + _text(f"touch {_TRAP}")
    + b"\x85R.",
    "numpy.memmap": _call(
        "numpy", "memmap", _TRAP, "uint8", "w+", b"K\x00", b"K\x01\x85"
    ),
    "numpy.save": _call("numpy", "save", f"{_TRAP}", b"K\x01"),
    "numpy runstring": _call("numpy.testing._private.utils", "runstring", _OPEN, b"}"),
    "nested reduce": pickle.dumps(_NESTED, 4),
    "nested reduce 2": pickle.dumps(_NESTED, 2),
    "reduce as key": b"\x80\x02}"
    + _call("os", "system", f"touch {_TRAP}")[2:-1]
    + b"Ns.",
    "popped": b"\x80\x02" + _call("os", "system", f"touch {_TRAP}")[2:-1] + b"0}.",
    "after a model": _array()[:-1] + _call("os", "system", f"touch {_TRAP}")[2:],
    "object array": _array(np.array([_Reduce(os.system, f"touch {_TRAP}")], object)),
    "INST": b"\x80\x02(" + _text(f"touch {_TRAP}") + b"ios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\n" + _text(f"touch {_TRAP}") + b"o.",
    "setstate": b"\x80\x02ccollections\nOrderedDict\n)R}"
    + _text("__setstate__")
    + b"cos\nsystem\nsb"
    + _text(f"touch {_TRAP}")
    + b"b.",
    "protocol 0": b"cos\nsystem\n(S'touch " + _TRAP.encode() + b"'\ntR.",
}

GLOBAL = "may name numpy arrays and plain containers only.*global"
LIVE_MESSAGES = {
    "popped": f"{GLOBAL} 'os.system'",
    "object array": "dtype 'O8'",
    "posix.system": f"{GLOBAL} '(posix|nt).system'",
    "eval": f"{GLOBAL} 'builtins.eval'",
    "getattr chain": f"{GLOBAL} 'builtins.getattr'",
    "dotted global": f"{GLOBAL} 'shutil.os.system'",
    "numpy.memmap": f"{GLOBAL} 'numpy.memmap'",
    "numpy.save": f"{GLOBAL} 'numpy.save'",
    "INST": r"opcodes of plain data.*INST \(0x69\)",
    "protocol 0": "starts with its protocol",
}


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _sprung():
    return any(name.startswith(_TRAP) for name in os.listdir())


@pytest.mark.skipif(os.name != "posix", reason="the payloads call `touch`")
@pytest.mark.parametrize("name", LIVE)
def test_the_payloads_are_live(name):
    try:
        pickle.loads(LIVE[name])
    except Exception as error:  # Some fail once they have done it.
        print(error)
    assert _sprung()


@pytest.mark.parametrize("name", LIVE)
def test_live_payloads_are_refused_and_do_nothing(tmp_path, name):
    path = tmp_path / "hostile"
    path.write_bytes(LIVE[name])
    message = LIVE_MESSAGES.get(name, f"{GLOBAL}|opcodes of plain data")
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.pdparams.read(path)
    assert str(path) in str(caught.value)
    assert re.search(r"at byte \d+ of", str(caught.value))
    assert not _sprung()
    if name != "protocol 0":
        with pytest.raises(CheckpointError):
            formats.read_checkpoint(path)
        assert not _sprung()


_SHAPE = b"K\x02K\x03\x86"
_F4 = b"\x8c\x02f4"
_HUGE = b"\x8a\x08" + struct.pack("<q", 2**62)
_DATA = b"C\x18" + np.arange(6, dtype=np.float32).tobytes()

_BYTE = _array(np.array([200], np.uint8), 2)
_WORD = _array(np.frombuffer(b"XY", np.uint8), 2)


def _twice(level):
    """Pickle a dict that holds the dict of memo entry `level` two times."""
    return (
        b"}(" + (_text("a") + b"h%c" + _text("b") + b"h%c") % (level, level) + b"u\x94"
    )


REFUSED = {
    "persistent id": (b"\x80\x02Pname\n.", "PERSID"),
    "binary persistent id": (b"\x80\x02" + _text("name") + b"Q.", "BINPERSID"),
    "extension 1": (b"\x80\x02\x82\x01.", "EXT1"),
    "extension 2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
    "extension 4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "NEWOBJ": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04" + _text("x") + b")}\x92.", "NEWOBJ_EX"),
    "buffers": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "sets": (b"\x80\x04\x8f.", "EMPTY_SET"),
    "text integer": (b"\x80\x02I1\n.", "INT"),
    "no opcode": (b"\x80\x02\xff.", r"no opcode at all \(0xff\)"),
    "second protocol": (b"\x80\x02\x80\x02}.", "starts with its protocol"),
    "protocol 9": (b"\x80\x09}.", "protocol 9"),
    "memo bomb": (b"\x80\x02}r\xff\xff\xff\x7f.", "memo counts"),
    "memo missing": (b"\x80\x02h\x07.", "memo entry is stored before"),
    "memo of nothing": (b"\x80\x02q\x00.", "empty stack"),
    "empty stack": (b"\x80\x02s.", "empty stack"),
    "no mark": (b"\x80\x02}u.", "starts with a mark"),
    "below the mark": (b"\x80\x02]](a.", "empty stack"),
    "mark left": (b"\x80\x02}(.", "holds one object"),
    "two objects": (b"\x80\x02}}.", "2 left at STOP"),
    "no object": (b"\x80\x02.", "0 left at STOP"),
    "no stop": (b"\x80\x02}", "cut off"),
    "trailing bytes": (_array() + b"\x00", "Nothing may follow.*1 bytes"),
    "second pickle": (_array() * 2, "Nothing may follow"),
    "huge BINBYTES8": (_dict(b"\x8e" + struct.pack("<Q", 2**60)), "cut off.*announced"),
    "huge BYTEARRAY8": (_dict(b"\x96" + struct.pack("<Q", 2**60)), "cut off"),
    "huge BINUNICODE8": (_dict(b"\x8d" + struct.pack("<Q", 2**63)), "cut off"),
    "huge BINUNICODE": (b"\x80\x02X\xff\xff\xff\xff.", "4,294,967,295 bytes announced"),
    "huge FRAME": (b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"}.", "cut off"),
    "huge LONG4": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "LONG4"),
    "cut LONG1": (b"\x80\x02\x8a\xff\x01.", "cut off"),
    "shape overflows": (
        _swap(_array(), _SHAPE, _HUGE + _HUGE + b"\x86"),
        "plausible sizes",
    ),
    "shape wraps to the size": (
        _swap(
            _array(), _SHAPE, (b"\x8a\x05" + struct.pack("<Q", 2**32)[:5]) * 2 + b"\x86"
        ),
        "plausible sizes",
    ),
    "empty huge shape": (
        _swap(
            _array(np.zeros((0, 3), "f4")),
            b"K\x00K\x03\x86",
            b"K\x00" + _HUGE + b"\x86",
        ),
        "plausible sizes",
    ),
    "negative shape": (
        _swap(_array(), _SHAPE, b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"),
        r"plausible sizes.*\(-2, -3\)",
    ),
    "shape too large": (
        _swap(_array(), _SHAPE, b"K\x02K\x04\x86"),
        "must fit its shape",
    ),
    "shape too small": (
        _swap(_array(), _SHAPE, b"K\x02K\x02\x86"),
        "must fit its shape",
    ),
    "shape of floats": (
        _swap(_array(), _SHAPE, b"G@\x00\x00\x00\x00\x00\x00\x00K\x03\x86"),
        "plausible sizes",
    ),
    "33 dimensions": (
        _swap(_array(), _SHAPE, b"(K\x02K\x03" + b"K\x01" * 31 + b"t"),
        "plausible sizes",
    ),
    "shape is a list": (_swap(_array(), _SHAPE, b"](K\x02K\x03e"), "plausible sizes"),
    "dtype O": (_swap(_array(), _F4, b"\x8c\x02O8"), "dtype 'O8'"),
    "dtype U": (_swap(_array(), _F4, b"\x8c\x02U1"), "dtype 'U1'"),
    "dtype V": (_swap(_array(), _F4, b"\x8c\x02V4"), "dtype 'V4'"),
    "dtype M": (_swap(_array(), _F4, b"\x8c\x02M8"), "dtype 'M8'"),
    "dtype complex": (_array(np.ones(2, complex)), "dtype 'c16'"),
    "dtype strings": (_array(np.array(["text"])), "dtype 'U4'"),
    "dtype structured": (_array(np.zeros(2, [("a", "f4")])), "dtype 'V4'"),
    "dtype list": (_swap(_array(), _F4, b"](\x8c\x02f4e"), "numpy's own arguments"),
    "dtype with fields": (
        _swap(_array(), b"\x94NNNJ", b"\x94}NNJ"),
        "arrays and dtypes only",
    ),
    "dtype flags": (_swap(_array(), b"\xffK\x00t", b"\xffK\x3ft"), "plain number"),
    "dtype order": (_swap(_array(), b"\x8c\x01<", b"\x8c\x01="), "byte order"),
    "data is a list": (_swap(_array(), _DATA, b"]"), "bytes of numbers.*a list"),
    "data is text": (_swap(_array(), _DATA, _text("x" * 24)), "24 bytes of text"),
    "array of no state": (
        _array().split(b"(K\x01K\x02")[0] + b"s.",
        "has a value",
    ),
    "array built twice": (_swap(_array(), b"bs.", b"b(K\x01)NNNtbs."), "once"),
    "build on dict": (
        b"\x80\x02}}" + _text("__setstate__") + b"Nsb.",
        "arrays and dtypes",
    ),
    "build on a global": (b"\x80\x02cnumpy\nndarray\n}b.", "arrays and dtypes"),
    "ndarray called": (b"\x80\x02cnumpy\nndarray\nK\x04\x85\x85R.", "own arguments"),
    "reconstruct dtype": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85"
        + _text("b")
        + b"\x87R.",
        "own arguments",
    ),
    "reduce a string": (b"\x80\x02" + _text("os.system") + b")R.", "known global"),
    "codec": (_call("_codecs", "encode", "x", "rot13"), "latin1 text.*rot13"),
    "codec of bytes": (
        _call("_codecs", "encode", b"U\x01x", "latin1"),
        "own arguments",
    ),
    "bytes of a size": (_call("builtins", "bytes", b"J\xff\xff\xff\x7f"), "own argum"),
    "not latin1": (_swap(_BYTE, "È".encode(), "ł".encode()), "must be latin1 text"),
    "broken text": (_swap(_BYTE, "È".encode(), b"\xc3\x28"), "must be latin1 text"),
    "longer text": (_swap(_BYTE, "È".encode(), b"ab"), "must be latin1 text"),
    "shorter text": (_swap(_WORD, b"XY", "È".encode()), "must fit its shape"),
    "not UTF-8": (b"\x80\x02}X\x01\x00\x00\x00\xffNs.", "must be UTF-8"),
    "number as key": (b"\x80\x02}K\x01Ns.", "A key must be a string"),
    "tuple as key": (b"\x80\x02}K\x01\x85Ns.", "A key must be a string"),
    "long key": (b"\x80\x02}" + _text("x" * 2000) + b"Ns.", "A key is short"),
    "same key twice": (b"\x80\x02}" + (_text("w") + b"Ns") * 2 + b".", "appears once"),
    "key without value": (b"\x80\x02}(" + _text("w") + b"u.", "as many values"),
    "global without end": (b"\x80\x02c" + b"x" * 999, "two short lines"),
    "global of numbers": (b"\x80\x04K\x01K\x02\x93.", "must be a string"),
    "recursive dict": (
        b"\x80\x02}q\x00" + _text("w") + b"h\x00s.",
        "not in themselves",
    ),
    "recursive model": (b"\x80\x02}q\x00" + _text("model") + b"h\x00s.", "themselves"),
    "recursive list": (_dict(b"]\x94h\x00a"), "not in themselves"),
    "deep lists": (_dict(b"]" * 50_000 + b"a" * 49_999), "at most 32 deep"),
    "deep tuples": (_dict(b")" + b"\x85" * 50_000), "at most 32 deep"),
    "deep models": (
        b"\x80\x02" + (b"}" + _text("model")) * 5000 + b"N" + b"s" * 5000 + b".",
        "at most 32 deep",
    ),
    "billion laughs": (
        _dict(b"]" + b"".join(b"\x94h%c\x86" % level for level in range(30))),
        "short and few",
    ),
    "billion laughs in dicts": (
        _dict(b"](}\x94" + b"".join(_twice(level) for level in range(25)) + b"e"),
        "short and few",
    ),
    "billion laughs as shape": (
        _swap(
            _array(),
            _SHAPE,
            b")" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(100, 140)),
        ),
        "plausible sizes.*a tuple of 2",
    ),
    "too many opcodes": (b"\x80\x02" + b"N" * 1_000_001, "few opcodes"),
    "too many entries": (_dict(b"(" + b"N" * 300_000 + b"l"), "LIST"),
    "many entries": (_dict(b"](" + b"N" * 300_000 + b"e"), "short and few"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_pickles_are_refused(tmp_path, name):
    data, message = REFUSED[name]
    path = tmp_path / "hostile"
    path.write_bytes(data)
    start_seconds = time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.pdparams.read(path)
    assert time.process_time() - start_seconds < 5
    assert len(str(caught.value)) < 1000
    assert "Nothing in the file was run" in str(caught.value)


def _shared(data, array):
    """Pickle a thousand arrays that share the bytes of one memo entry."""
    (start, stop), start_byte = array.split(b"SHARED"), b"\x80\x02}("
    arrays = (_text(f"{n}") + start + b"j\xff\xff\x00\x00" + stop for n in range(1000))
    return (
        start_byte + _text("x") + data + b"r\xff\xff\x00\x00" + b"".join(arrays) + b"u."
    )


def _by_hand(order, size_bytes):
    """Pickle an array's opcodes by hand, with SHARED where its bytes belong."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01J" + struct.pack("<i", size_bytes // 4) + b"\x85cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89SHAREDtb"
    )


_ENCODED = b"c_codecs\nencode\n" + _text("a" * 2**20) + _text("latin1") + b"\x86R"
_RAW = b"B" + struct.pack("<I", 2**20) + bytes(2**20)


@pytest.mark.parametrize(
    ("data", "order"), [(_ENCODED, b"<"), (_RAW, b">")], ids=["decoded", "swapped"]
)
def test_sharing_does_not_multiply_bytes(tmp_path, data, order):
    path = tmp_path / "hostile"
    path.write_bytes(_shared(data, _by_hand(order, 2**20)))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="the same bytes over and over"):
            formats.pdparams.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_sharing_without_copies_is_allowed(tmp_path):
    path = tmp_path / "shared"
    path.write_bytes(_shared(_RAW, _by_hand(b"<", 2**20)))
    tensors = formats.pdparams.read(path)
    assert len(tensors) == 1000 and tensors["999"].shape == (2**18,)
