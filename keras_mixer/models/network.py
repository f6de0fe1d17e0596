"""The Functional graph of MLP-Mixer, and the sizes of the named models."""

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


@dataclasses.dataclass(frozen=True)
class Variant:
    """The sizes of a named model."""

    hidden_dim: int
    num_blocks: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    patch_size: int
    image_size: int = 224


# arXiv 2105.01601, table 1. S8 is S at patch size 8, for which Google published
# weights; Nano4 is the small one that ships in the package.
VARIANTS = {
    "MlpMixerS32": Variant(512, 8, 256, 2048, 32),
    "MlpMixerS16": Variant(512, 8, 256, 2048, 16),
    "MlpMixerS8": Variant(512, 8, 256, 2048, 8),
    "MlpMixerB32": Variant(768, 12, 384, 3072, 32),
    "MlpMixerB16": Variant(768, 12, 384, 3072, 16),
    "MlpMixerL32": Variant(1024, 24, 512, 4096, 32),
    "MlpMixerL16": Variant(1024, 24, 512, 4096, 16),
    "MlpMixerH14": Variant(1280, 32, 640, 5120, 14),
    "MlpMixerNano4": Variant(128, 8, 64, 512, 4, image_size=32),
}


def variant_name(hidden_dim, num_blocks, channels_mlp_dim, patch_size):
    """Name of the variant of these sizes, or None."""
    # Without the token width: it grows with the resolution.
    for name, v in VARIANTS.items():
        if (hidden_dim, num_blocks, channels_mlp_dim, patch_size) == (
            v.hidden_dim,
            v.num_blocks,
            v.channels_mlp_dim,
            v.patch_size,
        ):
            return name
    return None


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
):
    """Build the Functional model; the arguments are those of `MlpMixer`, resolved.

    Args:
        hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim, patch_size: Sizes.
        images: Keras tensor `(batch, height, width, 3)`.
        transform: The `ImageTransform` of the `preprocessing` layer, or None for none.
        pooling: `"avg"`, `"max"` or None.
        classes: Number of classes of the head, or None for no head.
        classifier_activation: Activation of the head, or None.
        name: Name of the model.
        dropout_rate: Dropout inside the mixing MLPs.
        stochastic_depth_rate: Probability of dropping the last block's branches.
        approximate_gelu: Whether GELU takes its tanh form.

    Returns:
        A `keras.Model`.
    """
    x = images
    if transform is not None:
        x = PixelNormalization(
            transform.mean,
            transform.std,
            transform.interpolation,
            transform.crop_ratio,
            name="preprocessing",
        )(x)
    x = PatchEmbedding(hidden_dim, patch_size, name="stem")(x)
    x = keras.layers.Reshape((-1, hidden_dim), name="tokens")(x)
    mlp = {"approximate_gelu": approximate_gelu, "dropout_rate": dropout_rate}
    for i in range(num_blocks):
        drop_rate = stochastic_depth_rate * i / max(num_blocks - 1, 1)
        y = _norm(f"block{i}_token_norm")(x)
        y = TokenMixing(tokens_mlp_dim, name=f"block{i}_token_mixing", **mlp)(y)
        if drop_rate:
            y = StochasticDepth(drop_rate, name=f"block{i}_token_drop")(y)
        x = keras.layers.Add(name=f"block{i}_token_residual")([x, y])
        y = _norm(f"block{i}_channel_norm")(x)
        y = ChannelMixing(channels_mlp_dim, name=f"block{i}_channel_mixing", **mlp)(y)
        if drop_rate:
            y = StochasticDepth(drop_rate, name=f"block{i}_channel_drop")(y)
        x = keras.layers.Add(name=f"block{i}_channel_residual")([x, y])

    # From here on in the variables' type (float32 under mixed precision): what leaves
    # the model is never half precision.
    dtype = keras.config.dtype_policy().variable_dtype
    x = _norm("pre_head_norm", dtype)(x)
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


def _norm(name, dtype=None):
    return LayerNormalization(epsilon=EPSILON, name=name, dtype=dtype)
