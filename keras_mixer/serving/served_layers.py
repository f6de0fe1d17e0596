"""Layers of an exported model, in the ops that TensorFlow fuses on a CPU.

Each has the variables of the Keras layer it stands for, and gives the same numbers.
"""

import tensorflow as tf
from keras import layers


def served_class(layer):
    """Return the class that computes `layer` in an exported model.

    Args:
        layer: A built Keras layer, as it is trained.

    Returns:
        A class of this module that takes the layer's configuration, or the class of
        `layer` itself where there is none.
    """
    if isinstance(layer, layers.LayerNormalization) and _normalises_channels(layer):
        return FusedLayerNormalization
    return type(layer)


class FusedLayerNormalization(layers.LayerNormalization):
    """Layer normalisation over the last axis, as one kernel of oneDNN.

    TensorFlow has no op for it, but where it finds this batch normalisation of one
    "image" with a channel for each token, followed by gamma and beta, it runs
    `_MklLayerNorm` instead (`FindMklLayerNorm` in its `remapper.cc`). Elsewhere the ops
    below compute the same.
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


def _normalises_channels(layer):
    has_both = layer.center and layer.scale and not layer.rms_scaling
    return has_both and layer.axis in ([-1], [len(layer.input.shape) - 1])
