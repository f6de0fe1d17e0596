"""Archives and safetensors files that lie about themselves are refused cheaply."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_mixer.weights import formats
from keras_mixer.weights.formats import CheckpointError

_TRAP = "sprung"


def _npz(name="w.npy", array=None, method=zipfile.ZIP_DEFLATED, data=None):
    buffer = io.BytesIO()
    if data is None:
        np.lib.format.write_array(buffer, np.ones(9) if array is None else array)
        data, buffer = buffer.getvalue(), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def _patch(data, mark, offset, value):
    at = data.rindex(mark) + offset
    return data[:at] + value + data[at + len(value) :]


def _bomb(size_bytes):
    """Deflate zeros a thousandfold."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (size_bytes,)}
    deflated = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED)
    with deflated as archive, archive.open("w.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(size_bytes // 2**20):
            member.write(bytes(2**20))
    return buffer.getvalue()


def _npy(header, body=b"", length=None):
    length = len(header) if length is None else length
    return b"\x93NUMPY\1\0" + struct.pack("<H", length) + header.encode() + body


_CODE = f"open('{_TRAP}', 'w')"
_FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
_SIZE = struct.pack("<I", 2**20)

ARCHIVES = {
    "objects": (_npz(array=np.array([{"not": "numbers"}])), "'|O'"),
    "code as header": (_npz(data=_npy(_CODE)), "floats, integers"),
    "code as shape": (_npz(data=_npy(_FLOATS % _CODE)), "floats, integers"),
    "nested header": (_npz(data=_npy("(" * 9000)), "floats, integers"),
    "strings": (_npz(array=np.array(["text"])), "'<U4'"),
    "structured": (_npz(array=np.zeros(2, [("a", "f4")])), "floats, integers"),
    "huge shape": (
        _npz(data=_npy(_FLOATS % "4611686018427387904, 4")),
        "fit its shape",
    ),
    "wrapping shape": (_npz(data=_npy(_FLOATS % "4294967296, 4294967296")), "fit its"),
    "long number": (_npz(data=_npy(_FLOATS % ("9" * 5000))), "floats, integers"),
    "header past the end": (_npz(data=_npy(_FLOATS % "", length=60_000)), "fit its"),
    "not an array": (_npz(data=b"hello"), "is a .npy array"),
    "no array": (_npz(name="readme.txt"), "no .npy members"),
    "bzip2": (_npz(method=zipfile.ZIP_BZIP2), "compression method 12"),
    "lzma": (_npz(method=zipfile.ZIP_LZMA), "compression method 14"),
    "encrypted": (_patch(_npz(), b"PK\1\2", 8, b"\1"), "not encrypted"),
    "bomb": (_bomb(300 * 2**20), "plausible size"),
    "claims more": (_patch(_npz(), b"PK\1\2", 24, b"\xff\2"), "length and checksum"),
    "claims much more": (_patch(_npz(), b"PK\1\2", 24, _SIZE), "plausible size"),
    "claims less": (_patch(_npz(), b"PK\1\2", 24, b"\2\0"), "length and checksum"),
    "other checksum": (_patch(_npz(), b"PK\1\2", 16, b"\0\0\0"), "length and checksum"),
    "elsewhere": (_patch(_npz(), b"PK\1\2", 42, b"\x40"), "lies within the archive"),
    "stored, too long": (
        _patch(_npz(method=0), b"PK\1\2", 20, _SIZE + _SIZE),
        "plausible size",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives_are_refused(tmp_path, name):
    data, message = ARCHIVES[name]
    path = tmp_path / "hostile.npz"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message) as caught:
            formats.npz.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert not os.path.exists(_TRAP)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_an_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for _ in range(2):
            archive.writestr("w.npy", _npy(_FLOATS % "1,", bytes(4)))
    with pytest.raises(CheckpointError, match="appears once"):
        formats.npz.read(tmp_path / "x")


# Safetensors.


def _safetensors(header, body=bytes(8), length=None):
    length = len(header) if length is None else length
    return struct.pack("<Q", length) + header.encode() + body


_ENTRY = '"%s":{"dtype":"%s","shape":%s,"data_offsets":%s}'


@pytest.mark.parametrize(
    "data",
    [
        _safetensors("{}", length=2**60),
        _safetensors("{}", length=2**26),
        _safetensors('{"' + "[" * 5000),
        _safetensors("{" + _ENTRY % ("w", "F32", "[2]", "[0,4]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "F32", "[2]", "[8,16]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "F32", "[3]", "[0,12]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "F32", f"[{2**62},4]", "[0,0]") + "}", b""),
        _safetensors("{" + _ENTRY % ("w", "F32", "[-2]", "[0,8]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "O", "[2]", "[0,8]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "F8_E4M3", "[8]", "[0,8]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "C64", "[1]", "[0,8]") + "}"),
        _safetensors("{" + _ENTRY % ("w", "F32", "[0]", "[0,0]") + "}"),
        _safetensors("{}", b""),
        _safetensors("{'w': __import__('os')}"),
    ],
)
def test_hostile_safetensors_are_refused(tmp_path, data):
    pytest.importorskip("safetensors")
    (tmp_path / "hostile").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"must be whole|floats|holds tensors"
    ) as caught:
        formats.read_checkpoint(tmp_path / "hostile")
    assert str(tmp_path) in str(caught.value)
