"""Read and write numpy's `.npz` archives, memory-mapped and without pickles.

`numpy.load` copies every array and parses headers as Python literals. Here the arrays
of an archive that is not compressed, as Google's are, stay in the mapped file, and
headers must have the one form that numpy writes. What deflated members may grow to is
bounded.

Reference: PKWARE's APPNOTE 4.3.7 (local file header); numpy's `lib/format.py`.
"""

import contextlib
import io
import math
import os
import re
import struct
import zipfile
import zlib

import numpy as np

from keras_mixer.weights.formats.common import (
    DTYPE_CODES,
    MAX_DIRECTORY_BYTES,
    MAX_TENSORS,
    CheckpointError,
    is_plausible_shape,
    map_file,
)

# Weights hardly compress. An archive that grows past this was not made from weights.
_MAX_INFLATED_BYTES = 2**26
_MAX_GROWTH = 4
_MAX_DEFLATE_RATIO = 1032  # 258 bytes from 2 bits is the best that deflate can do.

_LOCAL_HEADER_BYTES = 30
_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[^']{1,16})', "
    r"'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,19}L?, ?)*(?:\d{1,19}L?)?)\), \}\s*"
)

# zipfile turns only some of what a broken archive does to it into BadZipFile.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class _ShortReads(io.FileIO):
    """A file of which `zipfile` may not read a huge directory at once."""

    def read(self, size=-1):
        if size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"{size:,} bytes are asked for at once")
        return super().read(size)


@contextlib.contextmanager
def opened_zip(path):
    """Yield the `zipfile.ZipFile`; what damage makes of it is a `CheckpointError`."""
    try:
        with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except CheckpointError:
        raise
    except _ZIP_ERRORS as error:
        _refuse(path, "The archive is cut off or corrupted", str(error)[:200])


def list_members(path):
    """Return the archive's directory, a list of `zipfile.ZipInfo`."""
    with opened_zip(path) as archive:
        return archive.infolist()


def read(path):
    """Read the arrays of an archive; names are the members' without `.npy`.

    Args:
        path: A zip file.

    Returns:
        A dict of name to array. The arrays are read-only and of native byte order,
        views onto the file where it is not compressed. bfloat16, which numpy calls
        `V2`, comes as uint16 bit patterns.

    Raises:
        CheckpointError: If the archive is damaged, holds anything but arrays of
            numbers, or would grow beyond reason.
    """
    data = map_file(path)
    left = {
        zipfile.ZIP_STORED: len(data),
        zipfile.ZIP_DEFLATED: _MAX_INFLATED_BYTES + _MAX_GROWTH * len(data),
    }
    tensors = {}
    for member in list_members(path):
        if not member.filename.endswith(".npy"):
            continue
        name = member.filename.removesuffix(".npy")
        if name in tensors or len(tensors) == MAX_TENSORS:
            _refuse(path, "A name appears once, and names are few", repr(name[:100]))
        if member.compress_type not in left or member.flag_bits & 1:
            _refuse(
                path,
                "Members are stored or deflated, and not encrypted",
                f"compression method {member.compress_type} for {name[:100]!r}",
            )
        left[member.compress_type] -= member.file_size
        if left[member.compress_type] < 0 or member.file_size > _MAX_DEFLATE_RATIO * (
            member.compress_size + 1
        ):
            _refuse(
                path,
                "An archive of weights has a plausible size",
                f"{member.file_size:,} bytes for {name[:100]!r} in {len(data):,} bytes",
            )
        tensors[name] = _parse_npy(path, name, unpack(path, data, member))
    if not tensors:
        _refuse(path, "A checkpoint holds tensors", "no .npy members")
    return tensors


def unpack(path, data, member):
    """Return a member's bytes, as a view onto the file unless they are deflated."""
    start = member.header_offset + _LOCAL_HEADER_BYTES
    header = data[max(start - _LOCAL_HEADER_BYTES, 0) : start]
    if len(header) == _LOCAL_HEADER_BYTES and header.startswith(b"PK\3\4"):
        # The local header may carry other extra fields than the directory's.
        start += sum(struct.unpack("<HH", header[26:]))
    else:
        start = len(data) + 1
    if start + member.compress_size > len(data):
        _refuse(
            path,
            "A member lies within the archive",
            f"{member.filename[:100]!r} at {member.header_offset:,}",
        )
    raw = np.frombuffer(data, np.uint8, member.compress_size, start)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        raw = _inflate(raw, member.file_size)
    if raw is None or len(raw) != member.file_size or zlib.crc32(raw) != member.CRC:
        _refuse(
            path,
            "A member must agree with its length and checksum",
            f"other bytes for {member.filename[:100]!r}",
        )
    return raw


def _inflate(deflated, size):
    """Return `size` inflated bytes, or None if there are others than that."""
    raw, filled = np.empty(size, np.uint8), 0
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for start in range(0, len(deflated), 2**20):
            pending = deflated[start : start + 2**20]
            # One byte more than fits may come out, and tells that there is too much.
            while len(pending) and not stream.eof:
                piece = stream.decompress(pending, min(2**20, size - filled + 1))
                if len(piece) > size - filled:
                    return None
                raw[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                filled += len(piece)
                pending = stream.unconsumed_tail
        while not stream.eof and filled <= size:
            piece = stream.decompress(b"", 2**20)
            if not piece or len(piece) > size - filled:
                return None
            raw[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    except zlib.error:
        return None
    return raw if filled == size else None


def _parse_npy(path, name, raw):
    """Return the array that one member describes."""
    magic, version = raw[:6].tobytes(), raw[6:8].tobytes()
    length_bytes = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(version)
    if magic != b"\x93NUMPY" or length_bytes is None:
        _refuse(path, "A member is a .npy array", f"another format in {name[:100]!r}")
    start = 8 + length_bytes
    length = int.from_bytes(raw[8:start].tobytes(), "little")
    header = raw[start : start + min(length, 10_000)].tobytes().decode("latin-1")
    match = _HEADER.fullmatch(header)
    order, code = (match["descr"][0], match["descr"][1:]) if match else ("", "")
    if code == "V2":
        order, code = "<", "u2"
    if code not in DTYPE_CODES or order not in tuple("<>|"):
        _refuse(
            path,
            "Tensors are of floats, integers or booleans",
            f"{header[:100].strip()!r} for {name[:100]!r}",
        )
    dtype = np.dtype(order + code)
    shape = tuple(int(size) for size in re.findall(r"\d+", match["shape"]))
    body = raw[start + length :]
    if not is_plausible_shape(shape) or math.prod(shape) * dtype.itemsize != len(body):
        _refuse(
            path,
            "A tensor's bytes must fit its shape",
            f"{len(body):,} bytes for shape {shape} of {dtype} in {name[:100]!r}",
        )
    fortran = match["fortran"] == "True"
    array = body.view(dtype).reshape(shape, order="F" if fortran else "C")
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def _refuse(path, rule, received):
    raise CheckpointError(
        f"{rule}. Received: {received}, in {path}. Fetch or copy the file again, or "
        "save the weights anew."
    )


def write(file, arrays, metadata=None):
    """Write an archive that `numpy.load` takes, tensor by tensor, not compressed.

    Args:
        file: A binary file open for writing.
        arrays: A function that yields pairs of name and array.
        metadata: Has no place here.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays():
            # A fixed date makes equal weights give equal files.
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
