"""Copies of a model whose weights are stored in the precision they compute in."""

import keras

PRECISIONS = ("float32", "bfloat16")

# These compute in float32 also in a model built under mixed precision: normalised
# pixels, and what comes out of the model, need more than 8 significant bits.
_FLOAT32_LAYERS = ("preprocessing", "pre_head_norm", "pool", "head")


def in_precision(model, precision):
    """Return `model` with the given precision of weights and arithmetic.

    A model built under `mixed_bfloat16` keeps float32 weights and casts them in every
    call, which costs most for small batches. Here those of the matrix products are
    stored as bfloat16. Normalisation layers, the head and all outputs stay float32.

    Args:
        model: A Functional Keras model.
        precision: `"float32"` or `"bfloat16"`.

    Returns:
        A copy, or `model` itself if it is float32 throughout and shall be.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}. "
            f"Received: precision={precision!r}."
        )
    layers = list(_leaves(model))
    if precision == "float32" and all(x.compute_dtype == "float32" for x in layers):
        return model

    def clone(layer):
        config = layer.get_config()
        config["dtype"] = _policy(layer, precision, is_last=layer is layers[-1])
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _leaves(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _policy(layer, precision, is_last):
    if precision == "float32" or is_last or layer.name in _FLOAT32_LAYERS:
        return "float32"
    if isinstance(layer, keras.layers.LayerNormalization):
        # Keras computes mean and variance in float32, so gamma and beta stay so too.
        return "mixed_bfloat16"
    return "bfloat16"
