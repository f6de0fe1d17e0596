"""The model that is exported: in serving's precision, in ops that TensorFlow fuses."""

import keras
import tensorflow as tf
from keras import layers

from keras_mixer.catalog import check_choice
from keras_mixer.models import ChannelMixing, TokenMixing
from keras_mixer.serving.classifier import leaves

PRECISIONS = ("float32", "bfloat16")

# These compute in float32 also in a model built under mixed precision: normalised
# pixels, and what comes out of the model, need more than 8 significant bits.
_FLOAT32_LAYERS = ("preprocessing", "pre_head_norm", "pool", "head")


def served_model(model, precision):
    """Copy `model` to one of the given precision, in layers that fuse.

    A model built under `mixed_bfloat16` keeps float32 weights and casts them in every
    call, which costs most for small batches. Here they are stored as bfloat16, except
    for those of the head. Outputs are float32.

    Args:
        model: A Functional Keras model.
        precision: `"float32"` or `"bfloat16"`.

    Returns:
        A Functional `keras.Model` with weights of its own.

    Raises:
        ValueError: If the precision is unknown, or the model has other weights than a
            model of its configuration, as a quantized one has.
    """
    check_choice("precision", precision, PRECISIONS)
    *_, last = leaves(model)

    def clone(layer):
        config = layer.get_config()
        config["dtype"] = precision
        if layer is last or layer.name in _FLOAT32_LAYERS:
            config["dtype"] = "float32"
        if isinstance(layer, (TokenMixing, ChannelMixing)):
            config["kernel_initializer"] = "zeros"
        return served_class(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    shapes, expected = ([w.shape for w in m.weights] for m in (model, copy))
    if shapes != expected:
        raise ValueError(
            "model must have the weights of its configuration, as floats. Received: "
            f"{len(shapes)} weights where {len(expected)} are expected, as after "
            'model.quantize(). Export the model as it was before; precision="bfloat16" '
            "halves its size."
        )
    copy.set_weights(model.get_weights())
    return copy


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

    It has the variables of Keras' layer, and gives the same numbers.

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
