"""Pillow's resampling as TensorFlow ops, in its integers.

Source: `src/libImaging/Resample.c` of Pillow 11, which resamples 8-bit images in
integers. `tf.image.resize` has the same kernels in floats, and a half that falls on the
other side there is a grey level.
"""

import tensorflow as tf

from keras_mixer.images.headers import apart

# Bits behind the point of a weight: 32, less 8 of a pixel and 2 for sums beyond 255.
_PRECISION = 22


def _bilinear(x):
    return tf.maximum(1.0 - x, 0.0)


def _bicubic(x):
    # Keys' kernel with a = -0.5.
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0)
    return tf.where(x < 1, near, tf.where(x < 2, far, 0.0))


# The kernels, and how far they reach: in pixels of the coarser grid.
_KERNELS = {"bilinear": (_bilinear, 1), "bicubic": (_bicubic, 2)}


def resample(pixels, axis, low, high, size, interpolation):
    """Resample a part of an image along one axis.

    Args:
        pixels: uint8 of shape `(height, width, channels)`.
        axis: 0 for the height, 1 for the width.
        low: Where the part begins, in pixels from the first: a float64 scalar.
        high: Where it ends.
        size: Pixels to make of it.
        interpolation: `"bicubic"` or `"bilinear"`.

    Returns:
        uint8 of the same shape, but for `size` along the axis.
    """
    length = tf.shape(pixels)[axis]
    # Pillow leaves out a pass that would change nothing, too. Its ops stay apart, since
    # in a branch that is not taken they would cost what the pass does to a small image.
    is_done = (low == 0) & (high == size) & (length == size)
    return tf.cond(
        is_done,
        lambda: pixels,
        apart(lambda: _filter(pixels, axis, low, high, size, interpolation)),
    )


def _filter(pixels, axis, low, high, size, interpolation):
    shape = tf.unstack(tf.shape(pixels))
    length, shape[axis] = shape[axis], size
    first, weights = _taps(length, low, high, size, interpolation)

    def add(tap, total):
        taken = tf.gather(pixels, tf.minimum(first + tap, length - 1), axis=axis)
        weight = tf.reshape(weights[tap], (-1, 1, 1) if axis == 0 else (1, -1, 1))
        return tap + 1, total + weight * tf.cast(taken, tf.int32)

    # Tap by tap: all at once, they would be as many images.
    half = tf.fill(shape, 2 ** (_PRECISION - 1))
    taps = tf.shape(weights)[0]
    _, total = tf.while_loop(lambda tap, _: tap < taps, add, (0, half))
    total = tf.bitwise.right_shift(total, _PRECISION)
    return tf.cast(tf.clip_by_value(total, 0, 255), tf.uint8)


def _taps(length, low, high, size, interpolation):
    """The first pixel that each new one takes, `(size,)`, and weights, `(taps, size)`.

    The weights are of that pixel and of those behind it, in units of 2^-22.
    """
    kernel, support = _KERNELS[interpolation]
    # Pillow is told the part in float32, and works in doubles from there.
    low, high = tf.cast(low, tf.float32), tf.cast(high, tf.float32)
    scale = tf.cast(high - low, tf.float64) / size
    stretch = tf.maximum(scale, 1.0)
    centre = tf.range(size, dtype=tf.float64) + 0.5
    centre = tf.cast(low, tf.float64) + centre * scale
    first = tf.maximum(tf.cast(centre - support * stretch + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(centre + support * stretch + 0.5, tf.int32), length)
    place = first + tf.range(tf.reduce_max(end - first))[:, tf.newaxis]
    distance = tf.cast(place, tf.float64) - centre + 0.5
    weights = kernel(tf.abs(distance * (1.0 / stretch)))
    weights = tf.where(place < end, weights, 0.0)
    weights = weights / tf.reduce_sum(weights, 0) * 2.0**_PRECISION
    # To whole numbers, halves away from zero.
    weights = tf.sign(weights) * tf.floor(tf.abs(weights) + 0.5)
    return first, tf.cast(weights, tf.int32)
