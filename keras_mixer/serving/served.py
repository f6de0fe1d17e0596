"""The model that is exported: a copy in one precision, in layers of the runtime."""

import keras
import numpy as np

from keras_mixer.catalog import check_choice
from keras_mixer.models import ChannelMixing, TokenMixing
from keras_mixer.serving.classifier import leaves

PRECISIONS = ("float32", "bfloat16")

# These compute in float32 also in a model built under mixed precision: normalised
# pixels, and what comes out of the model, need more than 8 significant bits.
_FLOAT32_LAYERS = ("preprocessing", "pre_head_norm", "pool", "head")


def served_model(model, precision, served_layer):
    """Copy `model` to one of the given precision, in layers that its runtime fuses.

    A model built under `mixed_bfloat16` keeps float32 weights and casts them in every
    call, which costs most for small batches. Here they are stored as bfloat16, except
    for those of the head. Outputs are float32.

    Args:
        model: A Functional Keras model.
        precision: `"float32"` or `"bfloat16"`.
        served_layer: Function from a layer and the configuration it is to have to the
            new layer: `fused.served_layer` for TensorFlow, or `portable.served_layer`.
            Where its weights are wider, they end in zeros.

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
        if not isinstance(layer, keras.Layer):  # an operation of keras.ops
            return type(layer).from_config(config)
        config["dtype"] = precision
        if layer is last or layer.name in _FLOAT32_LAYERS:
            config["dtype"] = "float32"
        if isinstance(layer, (TokenMixing, ChannelMixing)):
            config["kernel_initializer"] = "zeros"
        return served_layer(layer, config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if len(model.weights) != len(copy.weights):
        raise ValueError(
            "model must have the weights of its configuration, as floats. Received: "
            f"{len(model.weights)} weights where {len(copy.weights)} are expected, as "
            "after model.quantize(). Export the model as it was before: export_model "
            "has an int8 of its own."
        )
    for ours, theirs in zip(copy.weights, model.get_weights(), strict=True):
        wider = [(0, n - m) for n, m in zip(ours.shape, theirs.shape, strict=True)]
        ours.assign(np.pad(theirs, wider) if np.any(wider) else theirs)
    return copy
