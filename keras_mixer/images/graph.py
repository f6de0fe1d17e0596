"""Image files to model input as TensorFlow ops, for models that are served.

The same crop as `preprocessing.load_image`, inside the graph.
"""

import math

import tensorflow as tf

# A file of a few kilobytes can ask for gigabytes. 50 million pixels hold the photos of
# ordinary cameras, and decode in 150 MB.
MAX_PIXELS = 50_000_000

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"

# A JPEG segment has at most 64 KiB, and that of EXIF comes among the first.
_EXIF_BYTES = 2**17
_ORIENTATION_TAG = 274

# The antialiasing kernels of tf.image.resize, which are Pillow's too (a = -0.5).
_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}


def decode_batch(serialized, size, transform, read=tf.identity):
    """Decode and crop a batch of image files, flagging those that cannot be used.

    A server puts the requests of many clients into one batch, and an op that fails
    fails them all: what is wrong with one item must not raise.

    Args:
        serialized: String tensor of shape `(batch,)`, JPEG or PNG files of at most
            `MAX_PIXELS`.
        size: Side of the crop, in pixels.
        transform: The `ImageTransform` of the weights.
        read: Function that finds the file in one item of `serialized`.

    Returns:
        `images`, float32 of shape `(batch, size, size, 3)`, whole numbers in [0, 255],
        zeros where the item is not valid; and `valid`, bool of shape `(batch,)`.
    """
    batch = tf.size(serialized)
    rows = tf.data.Dataset.from_tensor_slices((tf.range(batch), serialized))
    rows = rows.map(
        lambda row, item: (row, _evaluation_crop(read(item), size, transform)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    ).ignore_errors()
    # One row too many, so that the dataset is not empty when no item is valid.
    sentinel = tf.data.Dataset.from_tensors((batch, tf.zeros([size, size, 3])))
    rows = rows.concatenate(sentinel).batch(tf.cast(batch + 1, tf.int64))
    # The pipeline is made anew for each batch: tuning it would cost more than it gains.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    row, images = rows.with_options(options).get_single_element()

    def scatter(values, shape):
        return tf.scatter_nd(row[:, tf.newaxis], values, [batch + 1, *shape])[:-1]

    return scatter(images, [size, size, 3]), scatter(tf.ones_like(row, tf.bool), [])


def _evaluation_crop(content, size, transform):
    image, orientation = _decode(content)
    # EXIF orientations, which turn an image upright. Flips come before the crop, whose
    # centre can be half a pixel off; swapping the axes can wait until it is small.
    image = _when(orientation, (3, 4, 6, 7), lambda x: x[::-1], image)
    image = _when(orientation, (2, 3, 7, 8), lambda x: x[:, ::-1], image)
    # As in preprocessing.load_image: the short side becomes `short`, the long one the
    # whole number below; the crop is centred with Python's rounding, half to even.
    short = math.floor(size / transform.crop_ratio)
    shape = tf.shape(image, out_type=tf.int64)[:2]
    resized = short * shape // tf.reduce_min(shape)
    start = tf.round(tf.cast(resized - size, tf.float32) / 2)
    # One op computes the crop alone, so that a strip of 1 x 1,000,000 pixels cannot ask
    # for a resized long side of 256,000,000.
    crop = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=[size, size],
        scale=tf.cast(resized / shape, tf.float32),
        translation=-start,
        kernel_type=_KERNELS[transform.interpolation],
        antialias=True,
    )[0]
    crop = _when(orientation, (5, 6, 7, 8), tf.image.transpose, crop)
    # Pillow gives whole grey levels; without this the difference from it would be the
    # rounding, 0.25 on average.
    return tf.clip_by_value(tf.round(crop), 0.0, 255.0)


def _when(orientation, orientations, turn, image):
    is_one = tf.reduce_any(orientation == tf.constant(orientations))
    return tf.cond(is_one, lambda: turn(image), lambda: image)


def _decode(content):
    is_png = tf.strings.substr(content, 0, len(_PNG)) == _PNG
    is_jpeg = tf.strings.substr(content, 0, len(_JPEG)) == _JPEG
    with tf.control_dependencies([tf.debugging.Assert(is_png | is_jpeg, ["format"])]):
        shape = tf.cond(
            is_png,
            lambda: _png_shape(content),
            lambda: tf.io.extract_jpeg_shape(content, output_type=tf.int32)[:2],
        )
    pixels = tf.reduce_prod(tf.cast(shape, tf.int64))
    small = tf.debugging.Assert(pixels <= MAX_PIXELS, ["pixels"])
    with tf.control_dependencies([small]):
        content = tf.identity(content)
    return tf.cond(
        is_png,
        lambda: (tf.io.decode_png(content, channels=3), 1),
        # The fast default differs from Pillow's decoder by a grey level on average.
        lambda: (
            tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
            _orientation(content),
        ),
    )


def _png_shape(content):
    # The header chunk comes first: width and height are big-endian at bytes 16 and 20.
    size = tf.io.decode_raw(
        tf.strings.substr(content, 16, 8), tf.int32, little_endian=False
    )
    return size[::-1]


def _orientation(content):
    """Read the EXIF orientation of a JPEG file; 1 if there is none.

    Nothing in here may fail: broken EXIF data is no reason to refuse the pixels. So
    places are clipped to the data, which ends in zeros.
    """
    head = tf.strings.substr(content, 0, _EXIF_BYTES)
    parts = tf.strings.split(head, b"Exif\0\0", 1)
    before, tiff = parts[0], tf.strings.reduce_join(parts[1:])
    # Where a segment of EXIF begins: its marker, and its length in 2 bytes.
    marker = tf.strings.substr(before, tf.maximum(tf.strings.length(before) - 4, 0), 2)
    data = tf.io.decode_raw(tf.strings.join([tiff, b"\0" * 8]), tf.uint8)
    data = tf.cast(data, tf.int32)
    is_big_endian = tf.strings.substr(tiff, 0, 1) == b"M"

    def number(place, size_bytes):
        place = tf.clip_by_value(place, 0, tf.size(data) - size_bytes)
        digits = tf.gather(data, place[..., tf.newaxis] + tf.range(size_bytes))
        digits = tf.cond(is_big_endian, lambda: digits[..., ::-1], lambda: digits)
        return tf.reduce_sum(digits * 256 ** tf.range(size_bytes), axis=-1)

    # TIFF: at byte 4 the place of a table, which is a count, then entries of 12 bytes,
    # of which the first 2 are the tag and those from 8 the value.
    table = number(tf.constant(4), 4)
    entries = table + 2 + 12 * tf.range(number(table, 2))
    is_orientation = number(entries, 2) == _ORIENTATION_TAG
    values = tf.boolean_mask(number(entries + 8, 2), is_orientation)
    found = (marker == b"\xff\xe1") & (tf.size(values) > 0)
    return tf.cond(found, lambda: values[0], lambda: 1)
