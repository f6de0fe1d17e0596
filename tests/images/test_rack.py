"""One rack of files through Pillow, the evaluation batches and the exported graph."""

import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_rack import (
    ALPHA,
    BEST,
    CMYK,
    GREY,
    KINDS,
    PALETTED,
    RGB,
    STORED,
    encode,
    ycck,
)
from PIL import Image
from tiny import build_tiny, randomize

from keras_mixer.catalog import ImageTransform
from keras_mixer.data import evaluation_batches
from keras_mixer.data.splits import IndexedSplit
from keras_mixer.images import graph, load_image

SIZE = 32


def exif(orientation, order=b"MM", kind=3, count=1):
    mark = "<" if order == b"II" else ">"
    make = struct.pack(f"{mark}HHI4s", 271, 2, 4, b"abc\0")
    turn = struct.pack(f"{mark}HHIHH", 274, kind, count, orientation, 0)
    head = order + struct.pack(f"{mark}HIH", 42, 8, 2)
    return b"Exif\0\0" + head + make + turn + bytes(4)


def with_segments(*segments, before=b""):
    """A JPEG file with APP segments, `(number, data)`, in front of all others."""
    packed = [
        b"\xff" + bytes([0xE0 + number]) + struct.pack(">H", len(data) + 2) + data
        for number, data in segments
    ]
    return b"\xff\xd8" + before + b"".join(packed) + PLAIN_JPEG[2:]


def with_chunk(kind, data):
    chunk = struct.pack(">I", len(data)) + kind + data
    chunk += struct.pack(">I", zlib.crc32(kind + data))
    return PLAIN_PNG[:33] + chunk + PLAIN_PNG[33:]


def without_adobe(data):
    start = data.index(b"\xff\xee")
    return (
        data[:start]
        + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    )


def on_canvas(width, height):
    data = bytearray(KINDS["gif"][0])
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def turned(file_format, orientation):
    stored = np.ascontiguousarray(STORED[orientation](RGB))
    order = b"MM" if orientation % 2 else b"II"
    options = {"lossless": True} if file_format == "WEBP" else {}
    return encode(stored, file_format, exif=exif(orientation, order), **options)


PLAIN_JPEG, PLAIN_PNG = encode(RGB, "JPEG", **BEST), encode(RGB, "PNG")
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
# Pillow alone reads these.
PILLOW_ONLY = {"cmyk_tiff", "grey_16_tiff", "grey_12_tiff", "tiff_pages"}
PILLOW_ONLY |= {"grey_16_pgm", "ppm", "animated_webp"}

RACK = {name: data for name, (data, *_) in KINDS.items() if name not in PILLOW_ONLY}
RACK |= {
    f"{file_format}_turned_{orientation}": turned(file_format, orientation)
    for orientation in STORED
    for file_format in ("JPEG", "PNG", "WEBP")
}
RACK |= {
    "palette_bmp": encode(PALETTED, "BMP"),
    "palette_bmp_few": encode(Image.fromarray(RGB).quantize(20), "BMP"),
    "grey_bmp": encode(GREY, "BMP"),
    "rgba_bmp": encode(np.dstack([RGB, ALPHA]), "BMP"),
    "lossy_webp": encode(RGB, "WEBP"),
    "lossy_rgba_webp": encode(np.dstack([RGB, ALPHA]), "WEBP"),
    "subsampled_jpeg": encode(RGB, "JPEG", quality=80),
    "rgb_jpeg": encode(RGB, "JPEG", keep_rgb=True),
    "2_bit_palette_png": encode(Image.fromarray(RGB).quantize(4), "PNG", bits=2),
    "transparent_gif": encode(PALETTED, "GIF", transparency=7),
    "interlaced_gif": encode(PALETTED, "GIF", interlace=1),
    "gif_larger_than_canvas": on_canvas(90, 80),
    "exif_behind_large_segments": with_segments(*[(2, bytes(65000))] * 4, (1, exif(6))),
    "exif_named_in_another_segment": with_segments((13, b"Exif\0\0MM"), (1, exif(6))),
    "exif_behind_fill_bytes": with_segments((1, exif(6)), before=b"\xff\xff"),
    "exif_of_another_type": with_segments((1, exif(6, kind=4))),
    "exif_of_two_values": with_segments((1, exif(6, count=2))),
    "exif_of_no_orientation": with_segments((1, exif(9))),
    "xmp_jpeg": with_segments((1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "xmp_png": with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "raw_profile_png": with_chunk(
        b"tEXt",
        b"Raw profile type exif\0\nexif\n%d\n" % len(exif(6)) + exif(6).hex().encode(),
    ),
}
# What cannot be agreed on, refused by both.
REFUSED = {
    "cmyk_without_adobe": without_adobe(encode(CMYK, "JPEG")),
    "ycck_without_adobe": without_adobe(ycck(RGB)),
    "gif_smaller_than_canvas": on_canvas(400, 300),
    "20000 x 20000": PLAIN_PNG[:16] + struct.pack(">II", 20000, 20000) + PLAIN_PNG[24:],
    "cut_off": PLAIN_JPEG[:4000],
}


@pytest.fixture(scope="module")
def model():
    return randomize(build_tiny(input_shape=(SIZE, SIZE, 3)))


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """The crop of each file by Pillow, by evaluation batches and by the export."""
    folder = tmp_path_factory.mktemp("rack")
    paths = []
    for number, data in enumerate(RACK.values()):
        paths.append(folder / f"{number}.image")
        paths[-1].write_bytes(data)
    transform = ImageTransform()
    pillow = [load_image(path, SIZE, weights=transform) for path in paths]
    split = IndexedSplit(np.array(paths, str), np.zeros(len(paths), "int64"))
    batches = evaluation_batches(
        split, transform=transform, image_size=(SIZE, SIZE), classes=2, batch_size=16
    )
    evaluated = np.concatenate([images for images, *_ in batches])[: len(paths)]
    decode = tf.function(lambda files: graph.decode_batch(files, SIZE, transform))
    served, valid = decode(tf.constant(list(RACK.values())))
    assert valid.numpy().all()
    return np.stack(pillow), evaluated, served.numpy()


def test_all_ways_in_give_the_same_pixels(crops):
    pillow, *others = crops
    for other in others:
        differences = np.abs(other - pillow).max((1, 2, 3))
        largest = dict(zip(RACK, differences, strict=True))
        assert {name: value for name, value in largest.items() if value} == {}


def test_all_ways_in_give_the_same_probabilities(crops, model):
    pillow, *others = (model.predict(images, verbose=0) for images in crops)
    assert np.ptp(pillow, axis=0).max() > 1e-3
    for other in others:
        np.testing.assert_allclose(other, pillow, atol=1e-5)


def test_turned_files_are_one_picture(crops):
    """The orientations are not just alike, but right."""
    pictures = dict(zip(RACK, crops[1], strict=True))
    upright = pictures["bmp"]
    for name in RACK:
        expected = upright
        if name.startswith(("exif_behind", "exif_named")):
            expected = np.rot90(upright, -1)
        elif not ("turned" in name or name.startswith(("xmp", "exif_of"))):
            continue
        assert np.abs(pictures[name] - expected).mean() < 2, name


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_agreed_on_is_refused_by_both(kind):
    with pytest.raises(ValueError, match="Received:"):
        load_image(REFUSED[kind], SIZE)
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph.evaluation_crop(
            tf.constant(REFUSED[kind]), (SIZE, SIZE), ImageTransform()
        )


@pytest.mark.parametrize("kind", sorted(PILLOW_ONLY))
def test_tensorflow_refuses_in_words_what_pillow_alone_reads(kind):
    data = tf.constant(KINDS[kind][0])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must be a JPEG, PNG, GIF"
    ):
        graph.evaluation_crop(data, (SIZE, SIZE), ImageTransform())


@pytest.mark.parametrize("orientation", STORED)
def test_windows_for_training_are_cut_from_the_upright_image(orientation):
    def draw(height, width):
        assert (int(height), int(width)) == RGB.shape[:2]
        return tf.constant([30, 50, 60, 90])

    expected = RGB[30:90, 50:140]
    for file_format, tolerance in [("PNG", 0), ("JPEG", 8)]:
        data = tf.constant(turned(file_format, orientation))
        window = graph.decode_window(data, draw).numpy().astype(int)
        assert window.shape == expected.shape
        assert np.abs(window - expected).mean() <= tolerance
