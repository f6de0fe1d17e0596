"""`image_files.read_image`: each kind of file, against what its pixels mean."""

import concurrent.futures
import io
import random
import resource
import struct
import threading
import warnings

import numpy as np
import pytest
from image_rack import BEST, EXACT, GREY, JPEG, KINDS, RGB, STORED, encode, png
from PIL import Image, ImageFile

from keras_mixer.images.decode import read_image

# Pillow warns of odd metadata and of many pixels; nothing of that may come through.
pytestmark = pytest.mark.filterwarnings("error")


def mean_difference(image, expected):
    """Mean absolute difference in grey levels of a `PIL.Image` and RGB pixels."""
    assert image.mode == "RGB"
    return np.abs(np.asarray(image, "float32") - expected).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_read_image_reads_every_kind_of_file(kind):
    data, expected, tolerance = KINDS[kind]
    assert mean_difference(read_image(data), expected) <= tolerance


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF LZW"])
@pytest.mark.parametrize("orientation", STORED)
def test_read_image_turns_the_image_upright(orientation, file_format):
    exif = Image.Exif()
    exif[274] = orientation
    options = {
        "JPEG": BEST,
        "WEBP": {"lossless": True},
        "TIFF LZW": {"compression": "tiff_lzw"},
    }.get(file_format, {})
    stored = np.ascontiguousarray(STORED[orientation](RGB))
    data = encode(stored, file_format.split()[0], exif=exif, **options)
    assert mean_difference(read_image(data), RGB) <= (JPEG if options == BEST else 0)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_read_image_survives_broken_exif(file_format):
    options = BEST if file_format == "JPEG" else EXACT
    for exif in (b"nonsense", b"II*\0\xff\xff\xff\x7f", b"MM", b"MM\0*\0\0\0\x08\0"):
        data = encode(RGB, file_format, exif=b"Exif\0\0" + exif, **options)
        assert mean_difference(read_image(data), RGB) < JPEG


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must not be empty.*0 bytes"),
        (io.BytesIO(b""), "must not be empty.*the file object 'BytesIO'.*seek"),
        (b"\n<!DOCTYPE html>\n<HTML><body>404", "PNG, WebP.*an HTML page"),
        (b"<?xml version='1.0'?><svg width='9'/>", "an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9", "PostScript"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "an AVIF image"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"hello, world, this is text", r"begins with b'hello, world, th'"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "begins as a JPEG file.*broken header"),
        (b"\x89PNG\r\n\x1a\n", "begins as a PNG file but has a broken header"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "broken header"),
        (encode(RGB, "JPEG")[:4000], "whole JPEG.*4000 bytes, cut off or damaged"),
        (encode(RGB, "PNG")[:4000], "whole PNG.*cut off or damaged.*again"),
        (encode(RGB, "GIF")[:4000], "whole GIF.*cut off or damaged"),
        (encode(np.float32(GREY), "TIFF"), "8 or 16 bits.*32 bits.*Save it with 8"),
        (encode(np.int32(GREY), "TIFF"), "8 or 16 bits.*32 bits.*Save it with 8"),
        (io.StringIO("text"), "must be binary.*'StringIO', which gives text.*\"rb\""),
        (RGB, r"the path of.*bytes.*binary file object.*ndarray of shape \(200, 300"),
        (Image.fromarray(RGB), "Received: Image. An array or a PIL image can be saved"),
        (None, "the path of an image file.*Received: NoneType"),
        ("http://example.com/cat.jpg", "No such file.*a URL has to be downloaded"),
    ],
)
def test_read_image_refuses_in_a_sentence(content, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        read_image(content)


def test_read_image_names_the_file_that_it_refuses(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("words", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Received: '.*notes.txt', which begins with"):
        read_image(path)
    with pytest.raises(ValueError, match=r"Received: '.*missing.jpg' \(No such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match=r"can be read. Received: '.*directory\)"):
        read_image(tmp_path)
    with (
        open(path, encoding="utf-8") as file,
        pytest.raises(ValueError, match=r"must be binary.*notes.txt"),
    ):
        read_image(file)


def header(kind):
    """A file of `kind` whose header promises some billions of pixels."""
    pixel = np.zeros((1, 1, 3), "uint8")
    if kind == "png":
        return png(pixel, (100_000, 100_000, 8, 2))
    if kind == "png_just_over":
        return png(pixel, (5_000, 10_001, 8, 2))
    if kind == "ppm":
        return b"P6 40000 40000 255\n" + bytes(99)
    data = bytearray(encode(pixel, kind.upper()))
    # Where the formats keep width and height, as Pillow writes them.
    place, layout = {
        "jpeg": (data.find(b"\xff\xc0") + 5, ">HH"),
        "gif": (6, "<HH"),
        "bmp": (18, "<II"),
        "webp": (data.find(b"\x9d\x01\x2a") + 3, "<HH"),
    }[kind]
    side = 16_383 if kind == "webp" else 60_000
    data[place : place + struct.calcsize(layout)] = struct.pack(layout, side, side)
    return bytes(data)


@pytest.mark.parametrize(
    "kind", ["png", "png_just_over", "jpeg", "gif", "bmp", "webp", "ppm"]
)
def test_read_image_refuses_hostile_sizes_by_the_header(kind):
    data = header(kind)
    assert len(data) < 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"at most 50,000,000 pixels.*Make it smaller"):
        read_image(data)
    # Kilobytes on Linux, bytes on macOS: in both at most 50 MB.
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000


def test_read_image_says_the_size_that_it_refuses():
    with pytest.raises(ValueError, match="the header says 5000 x 10001"):
        read_image(header("png_just_over"))
    with pytest.raises(ValueError, match="10000000000 pixels"):
        read_image(header("png"))


def test_read_image_lets_no_warning_through_and_leaves_pillow_alone(monkeypatch):
    # Stands for an image of more pixels than Pillow takes without a warning.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    filters = list(warnings.filters)
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(encode(RGB, "PNG")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert mean_difference(read_image(encode(RGB, "PNG")), RGB) == 0
    assert caught == []
    assert warnings.filters == filters
    assert Image.MAX_IMAGE_PIXELS == 50_000
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_read_image_in_threads_puts_the_warning_filters_back(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    filters = list(warnings.filters)
    data = encode(RGB, "PNG")
    start = threading.Barrier(8)

    def read(_):
        start.wait()
        return [mean_difference(read_image(data), RGB) for _ in range(10)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert np.max(list(pool.map(read, range(8)))) == 0
    assert warnings.filters == filters


def damaged(data, seed):
    """Cut a file, flip some of its bytes, or both."""
    chance = random.Random(seed)
    data = bytearray(data)
    if seed % 3 != 0:
        for _ in range(chance.choice([1, 4, 40])):
            # Half of the hits near the beginning, where the structure is.
            end = len(data) if chance.random() < 0.5 else 300
            data[chance.randrange(min(end, len(data)))] = chance.randrange(256)
    if seed % 3 != 1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


FRAGILE = ["progressive_jpeg", "cmyk_jpeg", "mpo", "rgba_png", "palette_png"]
FRAGILE += ["animated_png", "animated_gif", "animated_webp", "tiff_pages"]
FRAGILE += ["grey_16_tiff", "bmp", "ppm"]


@pytest.mark.parametrize("kind", FRAGILE)
def test_read_image_of_damaged_files_reads_or_refuses(kind, capfd):
    outcomes = {True: 0, False: 0}
    for seed in range(60):
        try:
            image = read_image(damaged(KINDS[kind][0], seed))
        except ValueError as error:
            assert "Received: " in str(error)
            outcomes[False] += 1
        else:
            assert image.mode == "RGB"
            assert min(image.size) > 0
            outcomes[True] += 1
    assert outcomes[False] > 10
    # libtiff, in C, speaks of damaged LZW data by itself; all else is silent.
    assert kind == "tiff_pages" or capfd.readouterr() == ("", "")
