"""What is exported: the Keras model in the precision and the layers of serving."""

import keras

from keras_mixer.models.layers import ChannelMixing, TokenMixing
from keras_mixer.serving import served_layers

PRECISIONS = ("float32", "bfloat16")

# These compute in float32 also in a model built under mixed precision: normalised
# pixels, and what comes out of the model, need more than 8 significant bits.
_FLOAT32_LAYERS = ("preprocessing", "pre_head_norm", "pool", "head")


def served_model(model, precision):
    """Copy `model` to one of the given precision, in the layers of `served_layers`.

    A model built under `mixed_bfloat16` keeps float32 weights and casts them in every
    call, which costs most for small batches. Here they are stored as bfloat16, except
    for those of the head. Outputs are float32.

    Args:
        model: A Functional Keras model.
        precision: `"float32"` or `"bfloat16"`.

    Returns:
        A Functional `keras.Model` with weights of its own.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}. "
            f"Received: precision={precision!r}."
        )
    last = list(_leaves(model))[-1]

    def clone(layer):
        config = layer.get_config()
        config["dtype"] = precision
        if layer is last or layer.name in _FLOAT32_LAYERS:
            config["dtype"] = "float32"
        if isinstance(layer, (TokenMixing, ChannelMixing)):
            config["kernel_initializer"] = "zeros"
        return served_layers.served_class(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _leaves(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer
