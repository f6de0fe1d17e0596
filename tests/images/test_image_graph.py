"""The crop inside the exported graph, against `load_image`."""

import functools
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_support import encoded

from keras_mixer.catalog import ImageTransform
from keras_mixer.images import graph, preprocess
from keras_mixer.images.decode import MAX_PIXELS

SIZE = 40


@functools.cache
def decoder(transform):
    return tf.function(
        lambda files: graph.decode_batch(files, SIZE, transform),
        [tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def decode(files, transform=None):
    graph = decoder(transform or ImageTransform())
    images, valid = graph(tf.constant(files, tf.string))
    return images.numpy(), valid.numpy()


def alpha(photo):
    photo = photo.convert("RGBA")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return photo


def sixteen_bit(photo):
    return Image.fromarray(np.asarray(photo.convert("L")).astype("uint16") * 257)


KINDS = {
    "jpeg": lambda photo: encoded(photo, "JPEG", quality=90),
    "progressive jpeg": lambda photo: encoded(photo, "JPEG", progressive=True),
    "grey jpeg": lambda photo: encoded(photo.convert("L"), "JPEG"),
    "cmyk jpeg": lambda photo: encoded(photo.convert("CMYK"), "JPEG"),
    "png": lambda photo: encoded(photo, "PNG"),
    "grey png": lambda photo: encoded(photo.convert("L"), "PNG"),
    "grey and alpha png": lambda photo: encoded(photo.convert("LA"), "PNG"),
    "alpha png": lambda photo: encoded(alpha(photo), "PNG"),
    "palette png": lambda photo: encoded(photo.convert("P"), "PNG"),
    "16-bit png": lambda photo: encoded(sixteen_bit(photo), "PNG"),
    "strip": lambda photo: encoded(photo.resize((900, 3)), "PNG"),
    "long strip": lambda photo: encoded(photo.resize((2, 50_000)), "PNG"),
    "3 megapixels": lambda photo: encoded(photo.resize((2101, 1503)), "JPEG"),
    "one pixel": lambda photo: encoded(photo.resize((1, 1)), "PNG"),
    "larger crop than photo": lambda photo: encoded(photo.resize((23, 17)), "PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_decode_batch_equals_load_image(photos, kind):
    files = [KINDS[kind](photo) for photo in photos.values()]
    images, valid = decode(files)
    assert valid.all()
    for file, image in zip(files, images, strict=True):
        expected = preprocess.load_image(file, SIZE)
        np.testing.assert_array_equal(image, expected)


def test_halves_go_up_as_pillows_do():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 3)).astype("uint8")
    # Four times as large, so that every weight is a whole number of 64ths.
    transform = ImageTransform(interpolation="bilinear", crop_ratio=1.0)
    file = encoded(Image.fromarray(pixels), "PNG")
    images, _ = decode([file], transform)
    expected = preprocess.load_image(file, SIZE, weights=transform)
    np.testing.assert_array_equal(images[0], expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_ratio", [0.875, 0.9, 1.0])
def test_decode_batch_follows_the_transform(photos, interpolation, crop_ratio):
    transform = ImageTransform(interpolation=interpolation, crop_ratio=crop_ratio)
    file = encoded(photos["china"], "PNG")
    (image,), _ = decode([file], transform)
    expected = preprocess.load_image(file, SIZE, weights=transform)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("width, height", [(0, 0), (0, 40), (40, 0), (1, 0), (0, -1)])
def test_a_crop_at_the_photos_own_scale_keeps_its_pixels(
    photos, interpolation, width, height
):
    transform = ImageTransform(interpolation=interpolation, crop_ratio=1.0)
    photo = photos["china"].resize((SIZE + width, SIZE + height))
    file = encoded(photo, "PNG")
    (image,), _ = decode([file], transform)
    expected = preprocess.load_image(file, SIZE, weights=transform)
    np.testing.assert_array_equal(image, expected)
    left, top = round(width / 2), round(height / 2)
    stored = photo.crop((left, top, left + SIZE, top + SIZE))
    assert np.array_equal(image, stored) == (height >= 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("byte_order", [b"II", b"MM"])
def test_decode_batch_turns_photos_upright(photos, orientation, byte_order):
    file = encoded(photos["rocket"], exif=exif(byte_order, orientation))
    (image,), valid = decode([file])
    assert valid[0]
    expected = preprocess.load_image(file, SIZE)
    np.testing.assert_array_equal(image, expected)
    # The photograph tells its eight sides apart.
    (lying,), _ = decode([encoded(photos["rocket"])])
    assert (np.abs(image - lying).mean() > 3) == (orientation != 1)


def exif(byte_order, orientation, count=2):
    order = "<" if byte_order == b"II" else ">"
    make = struct.pack(f"{order}HHI4s", 271, 2, 4, b"abc\0")
    turn = struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
    head = byte_order + struct.pack(f"{order}HIH", 42, 8, count)
    return b"Exif\0\0" + head + make + turn + b"\0\0\0\0"


@pytest.mark.parametrize(
    "broken",
    [
        b"Exif\0\0",
        b"Exif\0\0MM",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        exif(b"II", 0),
        exif(b"II", 9),
        exif(b"MM", 6, count=1),
    ],
    ids=["empty", "no table", "place", "count", "zero", "nine", "not reached"],
)
def test_decode_batch_ignores_broken_exif(photos, broken):
    plain = encoded(photos["cat"])
    # Behind the start of the image, as a segment of its own.
    segment = b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken
    (image, expected), valid = decode([plain[:2] + segment + plain[2:], plain])
    assert valid.all()
    assert np.array_equal(image, expected)


def png_of(width, height):
    """A small PNG file that says it is large: all its rows are there, all zeros."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height), 9)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bad_files(photos):
    jpeg, png = encoded(photos["cat"]), encoded(photos["cat"], "PNG")
    huge = bytearray(jpeg)
    frame = jpeg.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"not an image",
        "jpeg cut off": jpeg[: len(jpeg) // 2],
        "jpeg header": jpeg[:200],
        "png cut off": png[: len(png) // 2],
        "png signature": png[:8],
        "png of no size": png_of(0, 5),
        "png of 100 megapixels": png_of(10_000, 10_000),
        "jpeg of 3600 megapixels": bytes(huge),
        "tiff": encoded(photos["cat"], "TIFF"),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    }


def test_decode_batch_flags_what_is_no_image(photos):
    bad = bad_files(photos)
    _, valid = decode(list(bad.values()))
    assert dict(zip(bad, valid, strict=True)) == dict.fromkeys(bad, False)


def test_decode_batch_keeps_good_images_among_bad_ones(photos):
    good = [KINDS[kind](photo) for kind in KINDS for photo in photos.values()]
    bad = list(bad_files(photos).values())
    alone = np.concatenate([decode([file])[0] for file in good])
    mixed = [file for pair in zip(good, bad * 9, strict=False) for file in pair]
    images, valid = decode(mixed)
    assert valid.tolist() == [True, False] * len(good)
    assert np.array_equal(images[::2], alone)
    assert not images[1::2].any()


def test_decode_batch_of_nothing():
    images, valid = decode([])
    assert images.shape == (0, SIZE, SIZE, 3)
    assert valid.shape == (0,)


def test_decode_batch_takes_the_largest_image_allowed():
    side = 7071
    assert side**2 <= MAX_PIXELS < (side + 1) ** 2
    _, valid = decode([png_of(side, side), png_of(side + 1, side + 1)])
    assert valid.tolist() == [True, False]
