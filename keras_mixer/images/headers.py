"""What the header of an image file says, as TensorFlow ops.

Pillow's half of each rule here is in `decode.py`; both give the same answer.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_mixer.images.decode import MAX_PIXELS, ORIENTATION_TAG

JPEG, PNG, GIF, BMP, WEBP = range(5)

RULE = (
    "An image must be a JPEG, PNG, GIF, BMP or WebP file of at most "
    f"{MAX_PIXELS:,} pixels"
)

_JPEG = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"

# Functions for rare cases stay apart from the graph that calls them: there each op
# costs a microsecond for every image, also in a branch that is not taken.
apart = tf.function(autograph=False, experimental_attributes={"_noinline": True})

# Steps from one part of a file to the next, before a file counts as hostile.
_MAX_STEPS = 100_000


class Header(NamedTuple):
    """What is known of an image before its pixels are decoded.

    Attributes:
        kind: `JPEG`, `PNG`, `GIF`, `BMP` or `WEBP`, an int32 scalar.
        content: The file to decode: of an animated GIF, its first frame alone.
        shape: Height and width as stored, int32 of shape `(2,)`.
        orientation: How EXIF says that the stored image is turned, 1 to 8.
    """

    kind: tf.Tensor
    content: tf.Tensor
    shape: tf.Tensor
    orientation: tf.Tensor


def read_header(content):
    """Read the header of an image file; fail if it is none that may be decoded.

    Args:
        content: The bytes of the file, a string scalar.

    Returns:
        A `Header`.
    """

    def measure():
        shape = tf.io.extract_jpeg_shape(content, output_type=tf.int32)
        small = tf.reduce_prod(tf.cast(shape[:2], tf.int64)) <= MAX_PIXELS
        return small & (shape[2] != 4), shape[:2]

    # Nearly all files: JPEG, upright, not of four inks.
    is_jpeg = tf.strings.substr(content, 0, len(_JPEG)) == _JPEG
    is_plain, shape = tf.cond(
        is_jpeg & ~_holds(content, _EXIF),
        measure,
        lambda: (tf.constant(False), tf.zeros(2, tf.int32)),
    )
    return tf.cond(
        is_plain,
        lambda: Header(tf.constant(JPEG), content, shape, tf.constant(1)),
        lambda: _read_header(content),
    )


@apart
def _read_header(content):
    start = tf.strings.join([tf.strings.substr(content, 0, 12), b"\0" * 12])

    def begins(mark, place=0):
        return tf.strings.substr(start, place, len(mark)) == mark

    is_kind = tf.stack(
        [
            begins(_JPEG),
            begins(b"\x89PNG\r\n\x1a\n"),
            begins(b"GIF87a") | begins(b"GIF89a"),
            begins(b"BM"),
            begins(b"RIFF") & begins(b"WEBP", 8),
        ]
    )
    with _checked(tf.reduce_any(is_kind), "it begins as none of them"):
        kind = tf.argmax(is_kind, output_type=tf.int32)
    readers = [_read_jpeg, _read_png, _read_gif, _read_bmp, _read_webp]
    branches = [lambda read=read: read(content) for read in readers]
    content, shape, exif = tf.switch_case(kind, branches)
    # Each side too, so that their product cannot overflow.
    small = tf.reduce_all(shape <= MAX_PIXELS) & (tf.reduce_prod(shape) <= MAX_PIXELS)
    with _checked(small, "it has more pixels", shape):
        shape = tf.cast(shape, tf.int32)
    orientation = tf.cond(
        exif == b"", lambda: tf.constant(1), lambda: _orientation(exif)
    )
    return Header(kind, content, tf.ensure_shape(shape, (2,)), orientation)


def _checked(condition, *what):
    check = tf.debugging.Assert(condition, [f"{RULE}. Received:", *what])
    # In eager mode there is nothing to wait for.
    return tf.control_dependencies([] if check is None else [check])


def _read_jpeg(content):
    height, width, channels = tf.unstack(
        tf.io.extract_jpeg_shape(content, output_type=tf.int32)
    )
    # Without Adobe's marker nobody knows whether the four inks are inverted.
    clear = (channels != 4) | _holds(content, b"\xff\xee\x00\x0eAdobe")
    shape = tf.cast(tf.stack([height, width]), tf.int64)
    with _checked(clear, "CMYK without Adobe's marker"):
        shape = tf.identity(shape)

    def exif():
        data = _bytes_of(content)

        def is_exif(place):
            named = _substr(content, place + 4, len(_EXIF)) == _EXIF
            return (_number(data, place, 2, is_big=True) == 0xFFE1) & named

        def is_before(place):
            # Up to the pixels, or the end of the file.
            go = _number(data, place, 2, is_big=True) != 0xFFDA
            return go & (place < _length(content)) & ~is_exif(place)

        def step(place):
            marker = _number(data, place, 2, is_big=True)
            # Bytes that fill up come one by one; some markers have no data.
            fills = (marker < 0xFF00) | (marker == 0xFFFF)
            bare = (marker <= 0xFF01) | ((marker >= 0xFFD0) & (marker <= 0xFFD9))
            length = _number(data, place + 2, 2, is_big=True) * tf.cast(~bare, tf.int64)
            return tf.where(fills, place + 1, place + 2 + length)

        place = _walk(is_before, step, 2)
        length = _number(data, place + 2, 2, is_big=True) - 2
        return tf.where(is_exif(place), _substr(content, place + 4, length), b"")

    # Few files have EXIF data, and all are searched faster than one is walked through.
    return content, shape, tf.cond(_holds(content, _EXIF), exif, _nothing)


def _read_png(content):
    data = _bytes_of(tf.strings.substr(content, 0, 24))
    shape = _number(data, tf.constant([20, 16], tf.int64), 4, is_big=True)
    exif = tf.cond(
        _holds(content, b"eXIf"),
        lambda: _chunk(content, b"eXIf", 8, is_png=True),
        _nothing,
    )
    return content, shape, exif


def _read_gif(content):
    data = _bytes_of(content)

    def table_bytes(flags):
        return flags // 128 * 3 * 2 ** (flags % 8 + 1)

    def end_of_blocks(place):
        """Skip blocks, each behind its length, up to one of no bytes."""
        return 1 + _walk(
            lambda place: _number(data, place, 1) > 0,
            lambda place: place + 1 + _number(data, place, 1),
            place,
        )

    head = 13 + table_bytes(_number(data, 10, 1))
    frame = _walk(
        lambda place: _number(data, place, 1) == 0x21,  # An extension.
        lambda place: end_of_blocks(place + 2),
        head,
    )
    left_top_width_height = _number(data, frame + tf.constant([1, 3, 5, 7], "int64"), 2)
    shape = left_top_width_height[:1:-1]
    canvas = _number(data, tf.constant([8, 6], tf.int64), 2)
    covers = tf.reduce_all(shape >= canvas)
    covers &= tf.reduce_all(left_top_width_height[:2] == 0)
    with _checked(covers, "a GIF whose first frame does not cover its canvas"):
        pixels = frame + 10 + table_bytes(_number(data, frame + 9, 1)) + 1
    # The first frame alone: TensorFlow would decode them all. Without extensions, which
    # say what is transparent: such pixels show the colour stored under them.
    content = tf.strings.join(
        [
            _substr(content, 0, head),
            _substr(content, frame, end_of_blocks(pixels) - frame),
            b"\x3b",
        ]
    )
    return content, shape, _nothing()


def _read_bmp(content):
    data = _bytes_of(tf.strings.substr(content, 0, 54))
    bits, compression = _number(data, 28, 2), _number(data, 30, 4)
    plain = (_number(data, 14, 4) >= 40) & (compression == 0)
    plain &= tf.reduce_any(bits == tf.constant([8, 24, 32], tf.int64))
    with _checked(plain, "a BMP that is compressed, or not of 8, 24 or 32 bits"):
        shape = _number(data, tf.constant([22, 18], tf.int64), 4)
    # A height below 0 says that the rows come from the top.
    shape = tf.minimum(shape, 2**32 - shape)
    return content, shape, _nothing()


def _read_webp(content):
    data = _bytes_of(tf.strings.substr(content, 0, 30))
    layout = tf.strings.substr(content, 12, 4)
    is_extended = layout == b"VP8X"
    flags = _number(data, 20, 1) * tf.cast(is_extended, tf.int64)
    # TensorFlow 2.21 writes all frames where it has room for one.
    with _checked(flags // 2 % 2 == 0, "an animated WebP"):
        flags = tf.identity(flags)
    sides = tf.constant([28, 26], tf.int64)
    shape = _number(data, sides, 2) % 2**14
    packed = _number(data, 21, 4)
    lossless = 1 + tf.stack([packed // 2**14, packed]) % 2**14
    extended = 1 + _number(data, tf.constant([27, 24], tf.int64), 3)
    shape = tf.where(layout == b"VP8L", lossless, shape)
    shape = tf.where(is_extended, extended, shape)
    exif = tf.cond(
        flags // 8 % 2 == 1,
        lambda: _chunk(content, b"EXIF", 12, is_png=False),
        _nothing,
    )
    return content, shape, exif


def _nothing():
    return tf.constant(b"")


def _chunk(content, name, start, is_png):
    """Find the data of a PNG or WebP file's first chunk of a name; empty if none."""
    data = _bytes_of(content)

    def length(place):
        return _number(data, place + (0 if is_png else 4), 4, is_big=is_png)

    def is_named(place):
        place = tf.minimum(place + (4 if is_png else 0), _length(content))
        return tf.strings.substr(content, place, 4) == name

    place = _walk(
        lambda place: (place < _length(content)) & ~is_named(place),
        # PNG adds a checksum, WebP a byte that makes the length even.
        lambda place: (
            place + (12 + length(place) if is_png else 8 + (length(place) + 1) // 2 * 2)
        ),
        start,
    )
    return _substr(content, place + 8, length(place))


def _orientation(exif):
    """Read the orientation in EXIF data; 1 if it has none that is valid.

    Nothing in here may fail: broken EXIF data is no reason to refuse the pixels.
    """
    marked = tf.strings.substr(exif, 0, len(_EXIF)) == _EXIF
    tiff = _substr(exif, tf.where(marked, len(_EXIF), 0), 2**31 - 1)
    is_big = tf.strings.substr(tiff, 0, 4) == b"MM\0*"
    is_tiff = is_big | (tf.strings.substr(tiff, 0, 4) == b"II*\0")
    data = _bytes_of(tiff)

    def number(place, size_bytes):
        return _number(data, place, size_bytes, is_big)

    # At byte 4 the place of a table, which is a count, then entries of 12 bytes: a tag,
    # a type, a count, a value.
    table = number(4, 4)
    entries = table + 2 + 12 * tf.range(number(table, 2))
    entries = tf.boolean_mask(entries, entries + 10 <= _length(tiff))
    entries = tf.boolean_mask(entries, number(entries, 2) == ORIENTATION_TAG)[:1]
    values = number(entries + 8, 2)
    # One SHORT of 1 to 8, as browsers have it.
    valid = (number(entries + 2, 2) == 3) & (number(entries + 4, 4) == 1)
    valid &= is_tiff & (values >= 1) & (values <= 8)
    return tf.cast(1 + tf.reduce_sum((values - 1) * tf.cast(valid, tf.int64)), tf.int32)


def _walk(condition, step, start):
    """Go from place to place in a file while a condition holds."""
    place = tf.constant(start, tf.int64) if isinstance(start, int) else start
    (place,) = tf.while_loop(
        condition, lambda place: (step(place),), (place,), maximum_iterations=_MAX_STEPS
    )
    return place


def _holds(content, mark):
    return tf.size(tf.strings.split(content, mark, 1)) > 1


def _length(content):
    return tf.cast(tf.strings.length(content), tf.int64)


def _substr(content, place, length):
    # A place behind the end fails in `substr`, a length behind it does not.
    place = tf.minimum(tf.cast(place, tf.int64), _length(content))
    return tf.strings.substr(content, place, tf.maximum(tf.cast(length, tf.int64), 0))


def _bytes_of(content):
    """Return the bytes of a file with some zeros behind it, uint8."""
    return tf.io.decode_raw(tf.strings.join([content, b"\0" * 16]), tf.uint8)


def _number(data, place, size_bytes, is_big=False):
    """Read an unsigned number of some bytes at a place, or at several; int64.

    Behind the end of the data it reads zeros. Whether the first byte counts most may
    be a tensor.
    """
    place = tf.cast(place, tf.int64)
    place = tf.minimum(place, tf.size(data, tf.int64) - size_bytes)
    little = [256**n for n in range(size_bytes)]
    if isinstance(is_big, tf.Tensor):
        powers = tf.where(is_big, little[::-1], little)
    else:
        powers = little[::-1] if is_big else little
    digits = tf.gather(
        data, place[..., tf.newaxis] + tf.range(size_bytes, dtype="int64")
    )
    return tf.reduce_sum(tf.cast(digits, tf.int64) * tf.cast(powers, tf.int64), -1)
