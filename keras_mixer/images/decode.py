"""Image files of every common kind to upright 8-bit RGB, or a refusal in a sentence."""

import contextlib
import io
import os
import struct
import threading
import warnings

import numpy as np
from PIL import Image

# A file of a few kilobytes can ask for gigabytes. 50 million pixels hold the photos of
# ordinary cameras, and decode in 150 MB.
MAX_PIXELS = 50_000_000

# Raster formats only, and only decoders in wide use: Pillow's others include
# PostScript, which starts a program, and several that hardly anyone maintains.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_FORMATS_IN_WORDS = "a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file"

# How files begin, to say what a refused one is. Those of _FORMATS are here too: a file
# that begins rightly and still cannot be opened has a broken header.
_SIGNATURES = (
    (0, b"\xff\xd8", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyp", "a HEIC image or an MP4 video"),
    (0, b"%PDF", "a PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer instead of the file"),
)

# EXIF tag 274: how the camera was held, and what turns its image upright.
ORIENTATION_TAG = 274
_TURN_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(image):
    """Return the first image of a file, upright, as an 8-bit RGB `PIL.Image`.

    EXIF orientation is applied, XMP's is not. Grey, palette and CMYK become RGB, 16
    bits keep their upper 8, an alpha channel is dropped (transparent pixels show the
    colour stored under them), and colour profiles are ignored.

    Args:
        image: A path, the content of a file as bytes, or a binary file object.

    Raises:
        ValueError: If the file is missing, not an image of these formats, cut off,
            damaged, of more than `MAX_PIXELS` pixels by its header, or one that
            programs read differently: CMYK without Adobe's marker, a GIF whose first
            frame is smaller than its canvas.
    """
    with _opened(image) as (stream, source), _pillow_warnings_ignored:
        return _decode(stream, source)


@contextlib.contextmanager
def _opened(image):
    """Yield `image` as a seekable binary file, and its name in messages."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
        yield io.BytesIO(content), f"{len(content)} bytes"
    elif isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        try:
            with open(path, "rb") as file:
                yield (file if file.seekable() else io.BytesIO(file.read())), repr(path)
        except OSError as error:
            raise ValueError(
                f"image must be a file that can be read. Received: {path!r} "
                f"({error.strerror}). Check the path; a URL has to be downloaded first."
            ) from error
    elif hasattr(image, "read"):
        source = f"the file object {getattr(image, 'name', type(image).__name__)!r}"
        try:
            stream = io.BytesIO(image.read())
        except (TypeError, UnicodeDecodeError) as error:
            raise ValueError(
                "a file object for image must be binary. Received: "
                f'{source}, which gives text. Open it with open(path, "rb").'
            ) from error
        yield stream, source
    else:
        raise ValueError(
            "image must be the path of an image file, its content as bytes, or a "
            f"binary file object. Received: {_briefly(image)}. An array or a PIL image "
            "can be saved as PNG into an io.BytesIO, whose getvalue() gives the bytes."
        )


def _decode(stream, source):
    """Decode what `_opened` yields, once its header has been found harmless."""
    head = stream.read(512)
    if not head:
        raise ValueError(
            f"image must not be empty. Received: {source}, without content. A file "
            "object that was read before has to be rewound with seek(0)."
        )
    try:
        image = Image.open(stream, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(source, f"Pillow: {str(error).rstrip('.')}") from error
    except Exception as error:
        raise ValueError(
            f"image must be {_FORMATS_IN_WORDS}. Received: {source}, "
            f"{_looks_like(head)}."
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(source, f"the header says {width} x {height}")
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError(
            f"image must have 8 or 16 bits per channel. Received: {source}, with "
            "pixels of 32 bits, whose range is not known. Save it with 8 bits."
        )
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise ValueError(
            "a CMYK image must have Adobe's marker, which says whether its inks are "
            f"inverted. Received: {source}, without it. Save it as RGB."
        )
    if image.format == "GIF" and image.tile and image.tile[0][1] != (0, 0, *image.size):
        raise ValueError(
            "the first frame of a GIF must cover its canvas. Received: "
            f"{source}, with a frame of {image.tile[0][1]} on {image.size}. Save the "
            "frame as PNG."
        )
    try:
        image.load()
        turn = _TURN_UPRIGHT.get(_orientation(image.info.get("exif", b"")))
        rgb = _as_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)
    # Pillow's decoders meet bad data with many kinds of error, also with IndexError,
    # struct.error and the like.
    except Exception as error:
        raise ValueError(
            f"image must be a whole {image.format} file. Received: {source}, cut off "
            f"or damaged: {error}. Fetch or save it again."
        ) from error


def _orientation(exif):
    """Read the orientation in EXIF data; 1 if it has none that is valid.

    As `headers.py` does for TensorFlow: one SHORT, as browsers have it. Pillow would
    also take it from XMP. (TIFF images it turns by itself when it loads them.)
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    # Broken EXIF data is no reason to refuse the pixels.
    with contextlib.suppress(struct.error, TypeError):
        (table,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, table)
        for entry in range(table + 2, table + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == ORIENTATION_TAG:
                return value if (kind, length) == (3, 1) else 1
    return 1


def _as_rgb(image):
    if image.mode[0] == "I":
        # Pillow would clip 16 bits at 255. Shifting is what it does to 16-bit RGB, and
        # what TensorFlow does. (12 bits come from TIFF alone; PPM arrives as "I".)
        bits = 16
        if image.format == "TIFF" and image.tag_v2.get(258) == (12,):
            bits = 12
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype("uint8"))
    elif image.mode == "La":
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


class _PillowWarningsIgnored:
    """Ignore Pillow's warnings (odd metadata, many pixels) while an image is loaded.

    `warnings` keeps its filters for the whole process. Threads that each saved and put
    them back would restore one another's, so the first one in saves them and the last
    one out puts them back. Warnings of other modules are not touched.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._users = 0
        self._saved = None

    def __enter__(self):
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *exception):
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._saved.__exit__(*exception)


_pillow_warnings_ignored = _PillowWarningsIgnored()


def _looks_like(head):
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            if " " in kind:
                return f"which is {kind}"
            return f"which begins as a {kind} file but has a broken header"
    text = head.lower()
    for mark, kind in [(b"<svg", "an SVG drawing"), (b"<html", "an HTML page")]:
        if mark in text:
            return f"which is {kind}"
    return f"which begins with {head[:16]!r}"


def _too_large(source, found):
    return ValueError(
        f"image must have at most {MAX_PIXELS:,} pixels. Received: {source} ({found}). "
        "Make it smaller with an image editor first."
    )


def _briefly(value):
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (f" of shape {shape}" if shape else "")
