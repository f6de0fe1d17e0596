"""`image_files.read_image`: each kind of file, against what its pixels mean."""

import concurrent.futures
import io
import random
import resource
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFile

from keras_mixer.images.decode import read_image

# Pillow warns of odd metadata and of many pixels; nothing of that may come through.
pytestmark = pytest.mark.filterwarnings("error")


def mean_difference(image, expected):
    """Mean absolute difference in grey levels of a `PIL.Image` and RGB pixels."""
    assert image.mode == "RGB"
    return np.abs(np.asarray(image, "float32") - expected).mean()


def encode(pixels, file_format, **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(pixels, header=None):
    """Write a PNG by hand: Pillow writes no 16-bit colour."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width, channels = np.atleast_3d(pixels).shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = header or (width, height, pixels.dtype.itemsize * 8, colour_type)
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBxxx", *header))
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def tiff_12_bit(grey):
    """Write `grey` (8 bits) as a plain TIFF of 12 bits, two pixels in 3 bytes."""
    height, width = grey.shape
    pairs = (grey.astype("uint32") << 4).reshape(-1, 2)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").tobytes()
    data = b"".join(packed[i + 1 : i + 4] for i in range(0, len(packed), 4))
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1}
    tags |= {273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", k, 4, 1, v) for k, v in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory


def ycck(rgb):
    """Write a YCCK JPEG as Photoshop does: CMY as YCbCr, inverted, transform 2."""
    y_cb_cr = np.asarray(Image.fromarray(255 - rgb).convert("YCbCr"))
    no_black = np.full((*rgb.shape[:2], 1), 255, "uint8")
    planes = 255 - np.concatenate([y_cb_cr, no_black], axis=-1)
    data = bytearray(encode(Image.fromarray(planes, "CMYK"), "JPEG", **BEST))
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data[transform] = 2
    return bytes(data)


def several():
    """Options that make a file of three images, of which encode's comes first."""
    # New ones for every file: Pillow leaves a format's settings on what it saved.
    others = [Image.fromarray(RGB[::-1]) for _ in range(2)]
    return {"save_all": True, "append_images": others, "duration": 50}


BEST = {"quality": 98, "subsampling": 0}
JPEG = 1.5  # grey levels of mean error that JPEG costs at this quality
RGB = skimage.data.chelsea()[:200, :300]
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
GREYS = np.stack([GREY] * 3, axis=-1)
ALPHA = np.broadcast_to(np.arange(300) * 255 // 299, GREY.shape).astype("uint8")
PALETTED = Image.fromarray(RGB).quantize(64)
PALETTE = np.asarray(PALETTED.getpalette()).reshape(-1, 3)
PALETTED_RGB = PALETTE[np.asarray(PALETTED)]
FINE = GREY.astype("uint16") * 256 + np.random.default_rng(0).integers(
    0, 256, GREY.shape, "uint16"
)
FINE_RGB = RGB.astype("uint16") * 256 + 137
EXACT = {"lossless": True, "exact": True}
BLACK_AND_WHITE = np.where(GREYS >= 128, 255, 0)
CMYK = Image.fromarray(np.dstack([255 - RGB, np.zeros_like(GREY)]), "CMYK")

# name: (file, the 8-bit RGB pixels that it holds, tolerance in grey levels)
KINDS = {
    "grey_jpeg": (encode(GREY, "JPEG", **BEST), GREYS, JPEG),
    "progressive_jpeg": (encode(RGB, "JPEG", **BEST, progressive=True), RGB, JPEG),
    "cmyk_jpeg": (encode(CMYK, "JPEG", **BEST), RGB, JPEG),
    "ycck_jpeg": (ycck(RGB), RGB, JPEG),
    "mpo": (encode(RGB, "MPO", **BEST, **several()), RGB, JPEG),
    "cmyk_tiff": (encode(CMYK, "TIFF"), RGB, 0),
    "grey_png": (encode(GREY, "PNG"), GREYS, 0),
    "grey_alpha_png": (png(np.dstack([GREY, ALPHA])), GREYS, 0),
    "rgba_png": (png(np.dstack([RGB, ALPHA])), RGB, 0),
    "rgba_webp": (encode(np.dstack([RGB, ALPHA]), "WEBP", **EXACT), RGB, 0),
    "grey_16_png": (png(FINE), GREYS, 0),
    "grey_alpha_16_png": (png(np.dstack([FINE, FINE[::-1]])), GREYS, 0),
    "rgb_16_png": (png(FINE_RGB), RGB, 0),
    "rgba_16_png": (png(np.dstack([FINE_RGB, FINE])), RGB, 0),
    "grey_16_tiff": (encode(FINE, "TIFF"), GREYS, 0),
    "grey_12_tiff": (tiff_12_bit(GREY), GREYS, 0),
    "grey_16_pgm": (b"P5 300 200 65535\n" + FINE.astype(">u2").tobytes(), GREYS, 0),
    "1_bit_png": (encode(Image.fromarray(GREY >= 128), "PNG"), BLACK_AND_WHITE, 0),
    "palette_png": (encode(PALETTED, "PNG"), PALETTED_RGB, 0),
    "palette_png_transparent": (
        encode(PALETTED, "PNG", transparency=7),
        PALETTED_RGB,
        0,
    ),
    "palette_png_alphas": (
        encode(PALETTED, "PNG", transparency=bytes(range(64))),
        PALETTED_RGB,
        0,
    ),
    "rgb_png_transparent": (encode(RGB, "PNG", transparency=(9, 9, 9)), RGB, 0),
    "grey_png_transparent": (encode(GREY, "PNG", transparency=9), GREYS, 0),
    "gif": (encode(PALETTED, "GIF"), PALETTED_RGB, 0),
    "animated_gif": (encode(PALETTED, "GIF", **several()), PALETTED_RGB, 0),
    "animated_webp": (encode(RGB, "WEBP", **EXACT, **several()), RGB, 0),
    "animated_png": (encode(RGB, "PNG", **several()), RGB, 0),
    "tiff_pages": (encode(RGB, "TIFF", compression="tiff_lzw", **several()), RGB, 0),
    "bmp": (encode(RGB, "BMP"), RGB, 0),
    "ppm": (encode(RGB, "PPM"), RGB, 0),
    "one_pixel": (encode(RGB[:1, :1], "PNG"), RGB[:1, :1], 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_read_image_reads_every_kind_of_file(kind):
    data, expected, tolerance = KINDS[kind]
    assert mean_difference(read_image(data), expected) <= tolerance


# From the EXIF standard: what the stored rows and columns of an upright image are.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


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
        return png(pixel, (10_000, 10_001, 8, 2))
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
    with pytest.raises(
        ValueError, match=r"at most 100,000,000 pixels.*Make it smaller"
    ):
        read_image(data)
    # Kilobytes on Linux, bytes on macOS: in both at most 50 MB.
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000


def test_read_image_says_the_size_that_it_refuses():
    with pytest.raises(ValueError, match="the header says 10000 x 10001"):
        read_image(header("png_just_over"))
    with pytest.raises(ValueError, match="10000000000 pixels"):
        read_image(header("png"))


def test_read_image_lets_no_warning_through_and_leaves_pillow_alone(monkeypatch):
    # Stands for an image of between 89 and 100 million pixels.
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
