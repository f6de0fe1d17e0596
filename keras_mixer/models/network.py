"""The graph of MLP-Mixer, as a Functional Keras model.

Reference:
    arXiv 2105.01601, figure 1.
"""

import dataclasses

import keras

from keras_mixer.models.layers import (
    ChannelMixing,
    LayerNormalization,
    PatchEmbedding,
    PixelNormalization,
    StochasticDepth,
    TokenMixing,
)

# Every source of published weights uses 1e-6; Keras' own default is 1e-3.
EPSILON = 1e-6


def build(
    hidden_dim,
    num_blocks,
    tokens_mlp_dim,
    channels_mlp_dim,
    patch_size,
    *,
    images,
    transform,
    pooling,
    classes,
    classifier_activation,
    name,
    dropout_rate=0.0,
    stochastic_depth_rate=0.0,
    approximate_gelu=False,
    kernel_initializer="lecun_normal",
):
    """Build the graph: `MlpMixer` with its arguments checked and resolved.

    Args, where they are not those of `MlpMixer`:
        images: Keras tensor `(batch, height, width, 3)`.
        transform: The `ImageTransform` of the layer `preprocessing`, or None for none.
        classes: Number of classes of the head, or None for no head.
        kernel_initializer: What the mixing kernels start as.
    """
    x = images
    if transform is not None:
        x = PixelNormalization(**dataclasses.asdict(transform), name="preprocessing")(x)
    x = PatchEmbedding(hidden_dim, patch_size, name="stem")(x)
    x = keras.layers.Reshape((-1, hidden_dim), name="tokens")(x)
    mlp = {
        "approximate_gelu": approximate_gelu,
        "dropout_rate": dropout_rate,
        "kernel_initializer": kernel_initializer,
    }
    for i in range(num_blocks):
        drop_rate = stochastic_depth_rate * i / max(num_blocks - 1, 1)
        for branch, mixing, mlp_dim in [
            ("token", TokenMixing, tokens_mlp_dim),
            ("channel", ChannelMixing, channels_mlp_dim),
        ]:
            y = LayerNormalization(epsilon=EPSILON, name=f"block{i}_{branch}_norm")(x)
            y = mixing(mlp_dim, name=f"block{i}_{branch}_mixing", **mlp)(y)
            if drop_rate:
                y = StochasticDepth(drop_rate, name=f"block{i}_{branch}_drop")(y)
            x = keras.layers.Add(name=f"block{i}_{branch}_residual")([x, y])

    # From here on in the variables' type (float32 under mixed precision): what leaves
    # the model is never half precision.
    dtype = keras.config.dtype_policy().variable_dtype
    x = LayerNormalization(epsilon=EPSILON, name="pre_head_norm", dtype=dtype)(x)
    if pooling == "avg":
        x = keras.layers.GlobalAveragePooling1D(name="pool", dtype=dtype)(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling1D(name="pool", dtype=dtype)(x)
    if classes is not None:
        x = keras.layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer="zeros",
            name="head",
            dtype=dtype,
        )(x)
    inputs = keras.utils.get_source_inputs(images)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], x, name=name)
