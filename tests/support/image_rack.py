"""Image files of every kind, with the 8-bit RGB pixels that each holds."""

import io
import struct
import zlib

import numpy as np
import skimage.data
from PIL import Image


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
