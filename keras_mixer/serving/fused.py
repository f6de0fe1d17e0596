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

    TensorFlow has no op for it, but where it finds this batch normalisation of one
    "image" with a channel for each token, followed by gamma and beta, it runs
    `_MklLayerNorm` instead (`FindMklLayerNorm` in its `remapper.cc`). Elsewhere the ops
    below compute the same, more slowly than Keras' own would. Of those, with gamma and
    beta as constants, TensorFlow 2.21 makes the same kernel, but with an epsilon of
    0.001, whichever is theirs.
    """

    def call(self, x):
        x = tf.cast(x, self.compute_dtype)
        channels = x.shape[-1]
        # Of `x`: an op that looked at the reshaped tensor would keep it from fusing.
        tokens = tf.size(x) // channels
        y = tf.reshape(x, [1, tokens, channels, 1])
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=y,
            scale=tf.fill([tokens], 1.0),
            offset=tf.fill([tokens], 0.0),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            data_format="NCHW",
            is_training=True,
        )
        y = tf.reshape(y, tf.shape(x))
        return y * self.gamma.value + self.beta.value
