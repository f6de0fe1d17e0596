"""How the model's arithmetic is computed, and where: the one place that asks.

Everywhere `keras.ops` and Keras' own layers do it. In training on a CPU under
TensorFlow, `cpu_kernels` does: the same numbers in fewer passes over memory.
"""

import keras
from keras import ops


def linear(x, kernel, bias, training=False):
    """Compute `x @ kernel + bias`.

    Args:
        x: Tensor `(rows, inputs)`.
        kernel: Tensor or variable `(inputs, outputs)`.
        bias: Tensor or variable `(outputs,)`.
        training: Whether a gradient will be taken.

    Returns:
        A tensor `(rows, outputs)` of the type of `x`.
    """
    if cpu := _cpu_kernels(training):
        return cpu.dense(x, kernel, bias)
    return ops.add(ops.matmul(x, kernel), bias)


def dense(x, layer, training=False):
    """Apply a built `keras.layers.Dense` to a tensor `(rows, inputs)`."""
    if cpu := _cpu_kernels(training):
        return cpu.dense(x, layer.kernel, layer.bias)
    return layer(x)


def gelu_dense(x, layer, approximate, training=False):
    """Apply a built `keras.layers.Dense`, and GELU to what comes out.

    Args:
        x: Tensor `(rows, inputs)`.
        layer: A built `keras.layers.Dense` without an activation.
        approximate: Whether GELU takes its tanh form.
        training: Whether a gradient will be taken.

    Returns:
        A tensor `(rows, outputs)`.
    """
    cpu = _cpu_kernels(training)
    if cpu and not approximate:
        return cpu.biased_gelu(ops.matmul(x, layer.kernel), layer.bias)
    return ops.gelu(layer(x), approximate=approximate)


def layer_norm(x, gamma, beta, epsilon, training=False):
    """Normalise over the last axis, in float32 inside.

    Args:
        x: Tensor `(batch, patches, channels)`.
        gamma: Variable `(channels,)`.
        beta: Variable `(channels,)`.
        epsilon: Number added to the variance.
        training: Whether a gradient will be taken.

    Returns:
        A tensor of the type and shape of `x`.
    """
    if cpu := _cpu_kernels(training):
        return cpu.layer_norm(x, gamma, beta, epsilon)
    return ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=epsilon)


def _cpu_kernels(training):
    if not training or keras.backend.backend() != "tensorflow":
        return None
    from keras_mixer.models import cpu_kernels

    return cpu_kernels if cpu_kernels.are_of_use() else None
