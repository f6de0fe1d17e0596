"""Layers of exported models in the ops that runtimes beside TensorFlow have and fuse.

Each is written as these look for it: ONNX Runtime makes of it `LayerNormalization`,
`Gelu` and `FastGelu`, OpenVINO `MVN` and `Gelu`, LiteRT `GELU`.
"""

import math

import keras
import tensorflow as tf
from keras import layers, ops

from keras_mixer.models import ChannelMixing, TokenMixing


def served_layer(layer, config):
    """Return the layer that computes `layer` in a file for another runtime.

    Args:
        layer: A built Keras layer, as it is trained.
        config: The configuration that the new one is to have.

    Returns:
        A layer with the variables of `layer`, not built.
    """
    if normalises_channels(layer):
        return PortableLayerNormalization.from_config(config)
    if type(layer) is TokenMixing:
        return PortableTokenMixing.from_config(config)
    if type(layer) is ChannelMixing:
        return PortableChannelMixing.from_config(config)
    copy = type(layer).from_config(config)
    if getattr(layer, "activation", None) is keras.activations.gelu:
        copy.activation = gelu
    return copy


def normalises_channels(layer):
    """Whether a built layer is a layer normalisation over the last axis alone."""
    if not isinstance(layer, layers.LayerNormalization):
        return False
    has_both = layer.center and layer.scale and not layer.rms_scaling
    return has_both and layer.axis in ([-1], [len(layer.input.shape) - 1])


def gelu(x, approximate=False):
    """GELU, the exact one by `Erf`: TensorFlow's own has `Erfc`, which others lack."""
    if approximate:
        cubed = x + 0.044715 * tf.pow(x, 3.0)
        return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * cubed))
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2)))


class PortableLayerNormalization(layers.LayerNormalization):
    """Layer normalisation over the last axis, written as its definition."""

    def call(self, x):
        # A list as axis: OpenVINO 2026.4 fails at a scalar. `pow`: ONNX Runtime 1.32
        # does not know the square by `Mul` for a part of it, nor a product with
        # `rsqrt` for the division.
        centred = x - tf.reduce_mean(x, [-1], keepdims=True)
        variance = tf.reduce_mean(tf.pow(centred, 2.0), [-1], keepdims=True)
        normal = centred / tf.sqrt(variance + self.epsilon)
        return normal * self.gamma.value + self.beta.value


class _PortableMixing:
    def mlp(self, x, training):
        # On rows: a Dense of a rank-3 tensor computes its shape anew in each call.
        y = ops.reshape(x, (-1, x.shape[-1]))
        y = self.fc2(gelu(self.fc1(y), self.approximate_gelu))
        return ops.reshape(y, (-1, *x.shape[1:]))


class PortableTokenMixing(_PortableMixing, TokenMixing):
    """`TokenMixing` at inference."""


class PortableChannelMixing(_PortableMixing, ChannelMixing):
    """`ChannelMixing` at inference."""
