"""Layers of exported models in the ops that TensorFlow fuses."""

import tensorflow as tf
from keras import layers

from keras_mixer.serving.portable import normalises_channels


def served_layer(layer, config):
    """Return the layer that computes `layer` in a SavedModel.

    Args:
        layer: A built Keras layer, as it is trained.
        config: The configuration that the new one is to have.

    Returns:
        A layer with the variables of `layer`, not built.
    """
    if normalises_channels(layer):
        return FusedLayerNormalization.from_config(config)
    return type(layer).from_config(config)


class FusedLayerNormalization(layers.LayerNormalization):
    """Layer normalisation over the last axis, as one kernel of oneDNN.

    It has the variables of Keras' layer, and gives the same numbers.

    TensorFlow has no op for it, but where it finds these, with gamma and beta as
    constants, it runs `_MklLayerNorm` instead (`IsCommonNormPattern` in its
    `remapper.cc`). Where oneDNN is off they are the ops of Keras' own layer.
    """

    def call(self, x):
        x = tf.cast(x, self.compute_dtype)
        gamma, beta = _constant(self.gamma), _constant(self.beta)
        axis = [len(x.shape) - 1]  # -1 would not be recognised
        mean = tf.reduce_mean(x, axis, keepdims=True)
        variance = tf.reduce_mean(
            tf.math.squared_difference(x, mean), axis, keepdims=True
        )
        scale = tf.math.rsqrt(variance + self.epsilon) * gamma
        return x * scale + (beta - mean * scale)


def _constant(variable):
    with tf.init_scope():  # where a function is traced, this is outside of it
        value = variable.numpy()
    return tf.constant(value)
