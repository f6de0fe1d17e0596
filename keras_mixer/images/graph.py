"""Image files to model input as TensorFlow ops: for training, evaluation and serving.

The evaluation crop is that of `load_image`. What a file is, its header says
(`headers.py`), before any pixel is decoded.
"""

import math

import tensorflow as tf

from keras_mixer.images import headers, resampling


def decode_batch(serialized, size, transform, read=tf.identity):
    """Decode and crop a batch of image files, flagging those that cannot be used.

    A server puts the requests of many clients into one batch, and an op that fails
    fails them all: what is wrong with one item must not raise.

    Args:
        serialized: String tensor of shape `(batch,)`, image files of at most
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
        lambda row, item: (row, evaluation_crop(read(item), (size, size), transform)),
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


@tf.autograph.experimental.do_not_convert
def evaluation_crop(image, image_size, transform):
    """Cut out the centre of an image, as `keras_mixer.load_image` does.

    Args:
        image: The bytes of a file, a string scalar, or uint8 pixels of shape
            `(any height, any width, 3)`.
        image_size: `(height, width)` of the crop, in pixels.
        transform: Has `interpolation` and `crop_ratio`.

    Returns:
        float32, whole grey levels in [0, 255], `(*image_size, 3)`.
    """
    pixels, orientation = tf.convert_to_tensor(image), tf.constant(1)
    if pixels.dtype == tf.string:
        pixels, orientation = decode(image)
    crop = tf.constant(image_size, tf.int64)
    size = tf.cast(_turned(tf.shape(pixels)[:2], orientation), tf.int64)
    # The smallest size of the same shape that covers crop / crop_ratio.
    cover = [math.floor(length / transform.crop_ratio) for length in image_size]
    height_rules = cover[0] * size[1] >= cover[1] * size[0]
    resized = tf.where(
        height_rules, cover[0] * size // size[0], cover[1] * size // size[1]
    )
    scale = size / resized
    start = tf.round((resized - crop) / 2)
    low = start * scale
    high = (start + tf.cast(crop, tf.float64)) * scale
    high = tf.minimum(high, tf.cast(size, tf.float64))
    # Nothing that is farther from the crop than the filter reaches.
    reach = 2 * tf.maximum(scale, 1) + 1
    first = tf.maximum(tf.floor(low - reach), 0)
    last = tf.minimum(tf.math.ceil(high + reach), tf.cast(size, tf.float64))
    window = tf.cast(tf.concat([first, last - first], 0), tf.int32)
    window = _stored_window(window, tf.cast(size, tf.int32), orientation)
    image = _turn_upright(_cut(pixels, window), orientation)
    # Pillow resamples the rows, and the result along its columns.
    for axis in (1, 0):
        image = resampling.resample(
            image,
            axis,
            low[axis] - first[axis],
            high[axis] - first[axis],
            image_size[axis],
            transform.interpolation,
        )
    return tf.ensure_shape(tf.cast(image, tf.float32), (*image_size, 3))


@tf.autograph.experimental.do_not_convert
def decode_window(image, draw):
    """Decode a part of an image, chosen by its size.

    Args:
        image: As for `evaluation_crop`.
        draw: Function from height and width, int32 scalars, to a window in the upright
            image: `(top, left, height, width)` in pixels, int32 of shape `(4,)`.

    Returns:
        uint8 pixels of the window, upright.
    """
    if image.dtype != tf.string:
        return _cut(image, draw(*tf.unstack(tf.shape(image)[:2])))
    header = headers.read_header(image)
    upright = _turned(header.shape, header.orientation)
    window = draw(*tf.unstack(upright))
    window = _stored_window(window, upright, header.orientation)
    window = tf.ensure_shape(window, (4,))
    # A JPEG decodes no more than the window, and the blocks that it touches.
    pixels = tf.cond(
        header.kind == headers.JPEG,
        lambda: tf.io.decode_and_crop_jpeg(header.content, window, channels=3),
        lambda: headers.apart(lambda: _cut(_pixels(header), window))(),
    )
    return _turn_upright(pixels, header.orientation)


def decode(content):
    """Decode an image file: uint8 pixels as stored, and their EXIF orientation."""
    header = headers.read_header(content)
    return _pixels(header), header.orientation


def _pixels(header):
    """Decode a file whose header was read: uint8 as stored, `(height, width, 3)`."""
    content = header.content

    def decode(channels=3):
        return tf.io.decode_image(content, channels, expand_animations=False)

    def decode_bmp():
        pixels = decode()
        bits, colours = (
            tf.io.decode_raw(tf.strings.substr(content, place, 4), tf.int32)[0]
            for place in (26, 46)
        )
        return tf.cond(
            bits // 2**16 == 8, lambda: paint(pixels, colours), lambda: pixels
        )

    def paint(pixels, colours):
        # With 8 bits, TensorFlow gives the numbers of colours in a table, which has
        # blue, green, red and nothing for each.
        colours = tf.where((colours < 1) | (colours > 256), 256, colours)
        header_bytes = tf.io.decode_raw(tf.strings.substr(content, 14, 4), tf.int32)[0]
        table = tf.strings.substr(content, 14 + header_bytes, 4 * colours)
        table = tf.io.decode_raw(tf.strings.join([table, b"\0" * 1024]), tf.uint8)
        table = tf.reshape(table[: tf.size(table) // 4 * 4], (-1, 4))[:, 2::-1]
        return tf.gather(table, tf.cast(pixels[..., 0], tf.int32))

    pixels = tf.switch_case(
        header.kind,
        {
            # The fast default is a grey level away from Pillow's decoder.
            headers.JPEG: lambda: tf.io.decode_jpeg(
                content, channels=3, dct_method="INTEGER_ACCURATE"
            ),
            headers.PNG: lambda: tf.io.decode_png(content, channels=3),
            headers.GIF: decode,
            headers.BMP: decode_bmp,
            # The alpha channel goes; TensorFlow does not drop it by itself.
            headers.WEBP: lambda: decode(channels=0)[..., :3],
        },
    )
    pixels.set_shape((None, None, 3))
    return pixels


def _cut(pixels, window):
    pixels = tf.image.crop_to_bounding_box(pixels, *tf.unstack(window))
    pixels.set_shape((None, None, 3))
    return pixels


# EXIF orientations. The stored image becomes upright by a mirroring of rows, then of
# columns, then an exchange of the two axes, each in half of the orientations.
_ROWS_MIRRORED = (3, 4, 6, 7)
_COLUMNS_MIRRORED = (2, 3, 7, 8)
_AXES_EXCHANGED = (5, 6, 7, 8)


def _is_one_of(orientation, orientations):
    return tf.reduce_any(orientation == tf.constant(orientations))


def _turned(shape, orientation):
    """Turn a stored height and width into the upright ones, or back."""
    # Not shape[::-1], of which TensorFlow's optimizer complains in the log.
    turned = tf.reverse(shape, [0])
    return tf.where(_is_one_of(orientation, _AXES_EXCHANGED), turned, shape)


def _stored_window(window, shape, orientation):
    """Find a window of the upright image of a shape in the stored one."""
    begin, size = _turned(window[:2], orientation), _turned(window[2:], orientation)
    mirrored = [
        _is_one_of(orientation, orientations)
        for orientations in (_ROWS_MIRRORED, _COLUMNS_MIRRORED)
    ]
    end = _turned(shape, orientation) - begin - size
    return tf.concat([tf.where(mirrored, end, begin), size], 0)


def _transpose(pixels):
    # As floats: of whole numbers oneDNN complains in the log where there is no AVX512.
    return tf.cast(tf.image.transpose(tf.cast(pixels, tf.float32)), pixels.dtype)


def _turn_upright(pixels, orientation):
    def turn():
        turned = pixels
        for orientations, one_turn in [
            (_ROWS_MIRRORED, lambda x: x[::-1]),
            (_COLUMNS_MIRRORED, lambda x: x[:, ::-1]),
            (_AXES_EXCHANGED, _transpose),
        ]:
            is_one = _is_one_of(orientation, orientations)
            turned = tf.cond(
                is_one, lambda f=one_turn, x=turned: f(x), lambda x=turned: x
            )
        return turned

    return tf.cond(orientation == 1, lambda: pixels, headers.apart(turn))
