"""What a Mixer makes of an image on the way: the outputs of its blocks."""

from collections.abc import Sequence

import keras

from keras_mixer.catalog import check_choice


def features(
    model: keras.Model,
    blocks: int | Sequence[int] = -1,
    pooling: str | None = "avg",
    norm: bool = True,
) -> keras.Model:
    """Build a model that gives the features of a Mixer's blocks.

    It shares the layers and the weights of `model`, and runs no block after the last
    one asked for. With the defaults it gives what the head classifies by.

    Args:
        model: A Mixer of this package, with or without a head.
        blocks: The number of a block, from 0; negative numbers count from the end. Or
            several of them.
        pooling: `"avg"` or `"max"` over the patches, or `None` for every patch.
        norm: Whether features go through the model's last normalisation
            (`pre_head_norm`), which was trained on those of the last block. timm's
            `forward_intermediates` has `norm=False` for its default.

    Returns:
        A Functional `keras.Model` from the images that `model` takes to float32
        `(batch, channels)`, or `(batch, patches, channels)` without pooling; a list of
        these, in the order of `blocks`, if `blocks` is a sequence.

    Raises:
        ValueError: If the model is no Mixer of this package, it has no such block, or
            `pooling` is unknown.

    Reference:
        timm, `MlpMixer.forward_intermediates` in `timm/models/mlp_mixer.py`.
    """
    check_choice("pooling", pooling, (None, "avg", "max"))
    layers = {layer.name: layer for layer in model.layers}
    count = sum(f"block{i}_channel_residual" in layers for i in range(len(layers)))
    if not count or "pre_head_norm" not in layers:
        raise ValueError(
            "model must be a Mixer of this package, whose layers are named as in "
            f"MlpMixer. Received: {type(model).__name__} {model.name!r}. Of a model "
            "that holds a Mixer as one of its layers, pass that layer."
        )
    wanted = [blocks] if isinstance(blocks, int) else list(blocks)
    for block in wanted:
        if (
            isinstance(block, bool)
            or not isinstance(block, int)
            or (not -count <= block < count)
        ):
            raise ValueError(
                f"blocks must be numbers from {-count} to {count - 1}, for a model of "
                f"{count} blocks. Received: blocks={blocks!r}."
            )
    if not wanted:
        raise ValueError("blocks must name at least one block. Received: none.")
    pool_classes = {
        None: keras.layers.Identity,
        "avg": keras.layers.GlobalAveragePooling1D,
        "max": keras.layers.GlobalMaxPooling1D,
    }
    outputs = {}
    for number in {block % count for block in wanted}:
        x = layers[f"block{number}_channel_residual"].output
        x = layers["pre_head_norm"](x) if norm else x
        name = f"block{number}_features"
        # What leaves a model is never half precision.
        x = pool_classes[pooling](name=name, dtype=keras.config.floatx())(x)
        outputs[number] = x
    given = [outputs[block % count] for block in wanted]
    return keras.Model(
        model.inputs[0] if len(model.inputs) == 1 else model.inputs,
        given[0] if isinstance(blocks, int) else given,
        name=f"{model.name}_features",
    )
