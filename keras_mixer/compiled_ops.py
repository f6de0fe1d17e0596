"""Parts of a training step on TensorFlow, compiled by XLA: one pass each way.

Op by op, an exact GELU and its gradient are some twenty passes over the widest tensors
of the model, the slowest by TensorFlow's `Erfc`.
"""

import math

import tensorflow as tf


def biased_gelu(x, bias):
    """Exact GELU of `x + bias`; in float32 inside, whatever their type.

    Args:
        x: Tensor `(rows, columns)`.
        bias: Tensor or variable `(columns,)`.

    Returns:
        A tensor of the type and shape of `x`.
    """
    return _biased_gelu(x, tf.convert_to_tensor(bias))


@tf.custom_gradient
def _biased_gelu(x, bias):
    return _forward(x, bias), lambda upstream: _backward(x, bias, upstream)


@tf.function(jit_compile=True, autograph=False)
def _forward(x, bias):
    z = _sum(x, bias)
    return tf.cast(z * _normal_cdf(z), x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _backward(x, bias, upstream):
    z = _sum(x, bias)
    density = tf.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    gradient = tf.cast(upstream, tf.float32) * (_normal_cdf(z) + z * density)
    # The sum over the rows costs next to nothing here, and a pass of its own elsewhere.
    total = tf.reduce_sum(gradient, axis=0)
    return tf.cast(gradient, x.dtype), tf.cast(total, bias.dtype)


def _sum(x, bias):
    return tf.cast(x, tf.float32) + tf.cast(bias, tf.float32)


def _normal_cdf(z):
    return 0.5 + 0.5 * tf.math.erf(z * math.sqrt(0.5))
