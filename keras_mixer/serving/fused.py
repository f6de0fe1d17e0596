"""Layers of exported models in the ops that TensorFlow fuses."""

import tensorflow as tf
from keras import layers, ops

from keras_mixer.models import ChannelMixing
from keras_mixer.serving.portable import normalises_channels

# In float32 numbers: a page of memory (4 KB), and a line of the cache (64 bytes).
_PAGE, _LINE = 1024, 16


def served_layer(layer, config):
    """Return the layer that computes `layer` in a SavedModel.

    Args:
        layer: A built Keras layer, as it is trained.
        config: The configuration that the new one is to have.

    Returns:
        A layer with the variables of `layer`, some of them wider, not built.
    """
    if normalises_channels(layer):
        return FusedLayerNormalization.from_config(config)
    if type(layer) is ChannelMixing:
        return WidenedChannelMixing.from_config(config)
    return type(layer).from_config(config)


class FusedLayerNormalization(layers.LayerNormalization):
    """Layer normalisation over the last axis, in ops of which oneDNN makes one kernel.

    It has the variables of Keras' layer, and gives the same numbers.

    TensorFlow has no op for it, but knows two forms of it, of which it makes
    `_MklLayerNorm` (`FindMklLayerNorm` in its `remapper.cc`). Where oneDNN is off they
    are computed as they stand.

    The one is for float32: Keras' own ops, with gamma and beta as they are when it is
    traced, since TensorFlow looks for constants. (Where gamma is 1 throughout, as in a
    new model, it leaves the product out, and then does not find the form.) TensorFlow
    2.21 gives the kernel an epsilon of 0.001, whichever the graph has. So that is what
    the graph has, and the input is multiplied by what makes it the layer's.

    The other, a batch normalisation, is for bfloat16: its sums are in float32 also
    where nothing is fused. There it takes longer than Keras' ops.
    """

    def call(self, x):
        x = tf.cast(x, self.compute_dtype)
        in_sums = x.dtype == tf.float32 and self.epsilon > 0
        form = _in_sums if in_sums else _as_batch
        return form(x, self.gamma, self.beta, self.epsilon)


# Of the kernel that TensorFlow makes of sums: what `_MklLayerNorm` has by default.
_KERNEL_EPSILON = 1e-3


def _in_sums(x, gamma, beta, epsilon):
    with tf.init_scope():
        gamma, beta = gamma.numpy(), beta.numpy()
    # var(s x) + s^2 e = s^2 (var(x) + e)
    x *= (_KERNEL_EPSILON / epsilon) ** 0.5
    axis = [x.shape.rank - 1]  # not -1: TensorFlow looks
    mean = tf.reduce_mean(x, axis, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis, keepdims=True)
    scale = tf.math.rsqrt(variance + _KERNEL_EPSILON) * gamma
    return x * scale + (beta - mean * scale)


def _as_batch(x, gamma, beta, epsilon):
    channels = x.shape[-1]
    # Of `x`: an op that looked at the reshaped tensor would keep it from fusing.
    tokens = tf.size(x) // channels
    # One "image" with a channel for each token.
    y = tf.reshape(x, [1, tokens, channels, 1])
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=y,
        scale=tf.fill([tokens], 1.0),
        offset=tf.fill([tokens], 0.0),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,
    )
    y = tf.reshape(y, tf.shape(x))
    return y * gamma.value + beta.value


class WidenedChannelMixing(ChannelMixing):
    """Channel mixing at inference, the rows of its kernels no multiple of a page.

    Where a row takes whole pages of memory, as 3,072 columns of float32 do, the rows
    fall into the same few sets of the cache, and an MLP over the tokens of one image
    takes up to 1.8 times as long. Such a kernel is a line of the cache wider here, in
    zeros. In the hidden layer they stay zeros, as GELU(0) is; of the outputs they are
    cut off. `benchmarks/kernel_rows.py` measures it.
    """

    def build(self, input_shape):
        width = input_shape[-1]
        self.fc1, self.fc2 = (
            layers.Dense(
                self._off_pages(units),
                name=name,
                kernel_initializer="zeros",
                dtype=self.dtype_policy,
            )
            for name, units in (("fc1", self.mlp_dim), ("fc2", width))
        )
        self.fc1.build((None, width))
        self.fc2.build((None, self.fc1.units))

    def _off_pages(self, units):
        # Weights in bfloat16 are for processors where the server packs them.
        whole = self.compute_dtype == "float32" and units % _PAGE == 0
        return units + _LINE if whole else units

    def call(self, x, training=None):
        width = x.shape[-1]
        y = ops.reshape(x, (-1, width))
        y = self.fc2(ops.gelu(self.fc1(y), approximate=self.approximate_gelu))
        return ops.reshape(y[:, :width], (-1, *x.shape[1:]))
