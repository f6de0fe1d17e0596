"""Parts of a training step for CPUs under TensorFlow, with gradients of their own.

Op by op, an exact GELU and its gradient are some twenty passes over the widest tensors
of the model, the slowest by TensorFlow's `Erfc`; layer normalisation takes as many over
the stream of tokens. XLA compiles them to one or two, in float32 inside.

The products stay oneDNN's, which XLA's do not come near to in bfloat16. Of those only
the bias is dealt with here: TensorFlow adds up its gradient in bfloat16, where a sum of
thousands of numbers stops growing.
"""

import math

import tensorflow as tf


def are_of_use():
    """Whether TensorFlow computes on CPUs alone.

    GPUs and TPUs have fast kernels of their own, and round the products by which the
    means of `layer_norm` are taken to fewer bits.
    """
    return not any(map(tf.config.list_logical_devices, ("GPU", "TPU")))


@tf.custom_gradient
def _dense(x, kernel, bias):
    def gradient(upstream):
        ones = tf.ones((1, tf.shape(upstream)[0]), upstream.dtype)
        return (
            tf.matmul(upstream, kernel, transpose_b=True),
            tf.matmul(x, upstream, transpose_a=True),
            tf.matmul(ones, upstream)[0],
        )

    return tf.nn.bias_add(tf.matmul(x, kernel), bias), gradient


def dense(x, kernel, bias):
    """`x @ kernel + bias`.

    Args:
        x: Tensor `(rows, inputs)`.
        kernel: Tensor or variable `(inputs, outputs)`.
        bias: Tensor or variable `(outputs,)`.

    Returns:
        A tensor `(rows, outputs)` of the type of `x`.
    """
    return _dense(x, tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias))


def biased_gelu(x, bias):
    """Exact GELU of `x + bias`.

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


def layer_norm(x, gamma, beta, epsilon):
    """Layer normalisation over the last axis.

    Args:
        x: Tensor `(batch, patches, channels)`.
        gamma: Tensor or variable `(channels,)`.
        beta: Tensor or variable `(channels,)`.
        epsilon: Number added to the variance.

    Returns:
        A tensor of the type and shape of `x`.
    """

    @tf.custom_gradient
    def normalise(x, gamma, beta):
        y, mean, rate = _normalise(x, gamma, beta, epsilon)
        return y, lambda upstream: _unnormalise(x, gamma, beta, mean, rate, upstream)

    rows = tf.reshape(x, (-1, x.shape[-1]))
    rows = normalise(rows, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta))
    return tf.reshape(rows, tf.shape(x))


@tf.function(jit_compile=True, autograph=False)
def _normalise(x, gamma, beta, epsilon):
    x32 = tf.cast(x, tf.float32)
    mean = _mean(x32)
    rate = tf.math.rsqrt(_mean(tf.square(x32 - mean)) + epsilon)
    y = (x32 - mean) * rate * tf.cast(gamma, tf.float32) + tf.cast(beta, tf.float32)
    return tf.cast(y, x.dtype), mean, rate


@tf.function(jit_compile=True, autograph=False)
def _unnormalise(x, gamma, beta, mean, rate, upstream):
    upstream = tf.cast(upstream, tf.float32)
    normal = (tf.cast(x, tf.float32) - mean) * rate
    gradient = upstream * tf.cast(gamma, tf.float32)
    along = _mean(gradient * normal)
    gradient = (gradient - _mean(gradient) - normal * along) * rate
    return (
        tf.cast(gradient, x.dtype),
        tf.cast(tf.reduce_sum(upstream * normal, axis=0), gamma.dtype),
        tf.cast(tf.reduce_sum(upstream, axis=0), beta.dtype),
    )


def _mean(x):
    # As a product of matrices: XLA does not vectorise sums along rows on a CPU.
    columns = x.shape[-1]
    return tf.matmul(x, tf.fill((columns, 1), 1 / columns))


def _sum(x, bias):
    return tf.cast(x, tf.float32) + tf.cast(bias, tf.float32)


def _normal_cdf(z):
    return 0.5 + 0.5 * tf.math.erf(z * math.sqrt(0.5))
