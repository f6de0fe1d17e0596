"""MLP-Mixer as a Functional Keras model: `MlpMixer`, and the named variants of it."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_mixer.catalog import VARIANTS, ImageTransform, check_choice, check_positive
from keras_mixer.models.layers import (
    ChannelMixing,
    LayerNormalization,
    PatchEmbedding,
    PixelNormalization,
    StochasticDepth,
    TokenMixing,
)
from keras_mixer.weights import (
    check_fit,
    fill_model,
    fitted_tokens_mlp_dim,
    open_weights,
    tensor_shapes,
)

# Every source of published weights uses 1e-6; Keras' own default is 1e-3.
EPSILON = 1e-6


def MlpMixer(
    hidden_dim: int,
    num_blocks: int,
    tokens_mlp_dim: int,
    channels_mlp_dim: int,
    patch_size: int,
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Sequence[int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable[..., Any] | None = "softmax",
    include_preprocessing: bool = True,
    name: str = "mlp_mixer",
    dropout_rate: float = 0.0,
    stochastic_depth_rate: float = 0.0,
    approximate_gelu: bool | None = None,
    resize: str | None = None,
) -> keras.Model:
    """Build an MLP-Mixer of any size, as a Functional `keras.Model`.

    Its layers, each of which `model.get_layer(name)` finds: `preprocessing`, `stem`,
    `tokens`, then for each block i from 0 `block{i}_token_norm`,
    `block{i}_token_mixing`, `block{i}_token_residual`, `block{i}_channel_norm`,
    `block{i}_channel_mixing`, `block{i}_channel_residual`, and `pre_head_norm`,
    `pool`, `head`. Outputs are float32 under every mixed-precision policy.

    Args:
        hidden_dim: Channels of a token, C in the paper.
        num_blocks: Number of Mixer blocks.
        tokens_mlp_dim: Hidden width of the token-mixing MLP, D_S in the paper.
        channels_mlp_dim: Hidden width of the channel-mixing MLP, D_C in the paper.
        patch_size: Side of a square patch, in pixels.
        include_top: Whether to end in the classifier `head`.
        weights: `None` (random initialisation), a tag of the catalogue
            (`keras_mixer.list_weights()`), the path of a weights file (`.pdparams`,
            `.npz`, `.safetensors`, `.weights.h5`, `.keras`), or a repository of the
            Hugging Face Hub, `hf://org/repo` or `hf://org/repo@revision`. Weights also
            decide GELU flavour and preprocessing.
        input_tensor: A Keras tensor of shape `(batch, height, width, 3)` to build on.
        input_shape: `(height, width, 3)`; height and width are multiples of
            `patch_size`. `None` means `(224, 224, 3)`, or the shape of `input_tensor`.
        pooling: What to return when `include_top=False`: `None` the normalised tokens
            `(batch, patches, channels)`, `"avg"` or `"max"` their mean or maximum
            `(batch, channels)`.
        classes: Number of classes; `None` means as many as the weights have, or 1000.
            With weights of another number the backbone is loaded, the head is new,
            and a line says so.
        classifier_activation: Activation of `head`; `None` returns the logits.
        include_preprocessing: Whether the model takes pixels in [0, 255] and
            normalises them itself, by its first layer `preprocessing`. With `False` it
            takes what `keras_mixer.preprocess_input` returns.
        name: Name of the model.
        dropout_rate: Dropout inside the mixing MLPs, in [0, 1).
        stochastic_depth_rate: Probability of dropping the branches of the last block,
            in [0, 1); linear from 0 at the first block.
        approximate_gelu: `True` for the tanh form of GELU, `False` for the exact one,
            `None` for the one of the weights (exact without weights).
        resize: How to fit weights of another image size. An image K times larger on
            each side needs nothing: the token-mixing MLPs become the paper's
            block-diagonal ones, K^2 times wider, with the same features to begin with.
            `"interpolate"` fits any other size, approximately, by interpolating the
            token-mixing kernels over the grid of patches.

    Returns:
        A `keras.Model`. A new head starts at zero, as in Google's code, so that
        fine-tuning starts from uniform predictions.

    Raises:
        ValueError: If an argument is out of range, the image is not a multiple of the
            patch, the tag is unknown, or the weights do not fit the model.

    Reference:
        arXiv 2105.01601, section 2 and table 1; initialisers of
        google-research/vision_transformer, `vit_jax/models_mixer.py`.
    """
    sizes = {
        "hidden_dim": hidden_dim,
        "num_blocks": num_blocks,
        "tokens_mlp_dim": tokens_mlp_dim,
        "channels_mlp_dim": channels_mlp_dim,
        "patch_size": patch_size,
    }
    for argument, value in sizes.items():
        check_positive(argument, value)
    if classes is not None:
        check_positive("classes", classes)
    check_choice("pooling", pooling, (None, "avg", "max"))
    check_choice("resize", resize, (None, "interpolate"))
    image_shape = _image_shape(input_shape, input_tensor, patch_size)

    source, transform = None, ImageTransform()
    if weights is not None:
        source = open_weights(
            weights, variant_name(hidden_dim, num_blocks, channels_mlp_dim, patch_size)
        )
        transform = source.transform
        sizes["tokens_mlp_dim"] = fitted_tokens_mlp_dim(
            tokens_mlp_dim, source, image_shape, patch_size, resize
        )
        if approximate_gelu is None:
            approximate_gelu = source.approximate_gelu
        if include_top and classes is None:
            classes = source.classes
            if classes is None:
                raise ValueError(
                    "Weights without a head need classes=N for a new one, or "
                    f"include_top=False. Received: weights={source.origin}."
                )
        # Before anything is built, whose size the file would decide.
        patches = image_shape[0] * image_shape[1] // patch_size**2
        shapes = tensor_shapes(
            sizes.values(), patches, classes if include_top else None
        )
        check_fit(source, shapes, name, resize)

    model = build(
        **sizes,
        images=keras.Input(image_shape, name="images")
        if input_tensor is None
        else input_tensor,
        transform=transform if include_preprocessing else None,
        pooling="avg" if include_top else pooling,
        classes=(classes or 1000) if include_top else None,
        classifier_activation=classifier_activation,
        name=name,
        dropout_rate=dropout_rate,
        stochastic_depth_rate=stochastic_depth_rate,
        approximate_gelu=bool(approximate_gelu),
        kernel_initializer="zeros" if source else "lecun_normal",
    )
    if source is not None:
        report = fill_model(model, source, resize)
        if report.new_head:
            print(
                f"{source.origin} has {source.classes or 'no'} classes, {name} "
                f"{classes}: loaded the backbone, the head is new.",
                file=sys.stderr,
            )
    return model


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


def variant_name(hidden_dim, num_blocks, channels_mlp_dim, patch_size):
    """Name of the variant of these sizes, at whatever resolution, or None."""
    wanted = hidden_dim, num_blocks, channels_mlp_dim, patch_size
    for name, v in VARIANTS.items():
        # The token width grows with the resolution.
        if wanted == (v.hidden_dim, v.num_blocks, v.channels_mlp_dim, v.patch_size):
            return name
    return None


def _image_shape(input_shape, input_tensor, patch_size):
    if input_tensor is not None:
        if not isinstance(input_tensor, keras.KerasTensor):
            raise ValueError(
                "input_tensor must be a Keras tensor, such as keras.Input(...) "
                f"returns. Received: {type(input_tensor).__name__}."
            )
        if input_shape is not None and tuple(input_shape) != input_tensor.shape[1:]:
            raise ValueError(
                "input_shape and the shape of input_tensor must agree. Received: "
                f"input_shape={tuple(input_shape)}, "
                f"input_tensor.shape={input_tensor.shape}."
            )
        input_shape = input_tensor.shape[1:]
    shape = (224, 224, 3) if input_shape is None else tuple(input_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            "input_shape must be (height, width, 3) in known, positive numbers, since "
            "the token-mixing kernels have as many rows as the image has patches. "
            f"Received: {shape}."
        )
    if shape[2] != 3:
        raise ValueError(
            f"Images must have 3 channels, RGB. Received: input_shape={shape}. "
            "Repeat a grey channel three times with keras.ops.repeat(x, 3, axis=-1)."
        )
    for size in shape[:2]:
        if size % patch_size:
            below = size // patch_size * patch_size
            nearest = [str(n) for n in (below, below + patch_size) if n]
            raise ValueError(
                "image_size must be a multiple of patch_size. Received: "
                f"image_size={size}, patch_size={patch_size}. "
                f"The nearest that work: {' and '.join(nearest)}."
            )
    return shape


def _named(variant_name: str) -> Callable[..., keras.Model]:
    variant = VARIANTS[variant_name]
    image_shape = (variant.image_size, variant.image_size, 3)

    # The first two also by position, as in keras.applications.
    def build_variant(
        include_top: bool = True, weights: Any = None, **arguments: Any
    ) -> keras.Model:
        if arguments.get("input_tensor") is None:
            arguments.setdefault("input_shape", image_shape)
        arguments |= {"include_top": include_top, "weights": weights}
        return MlpMixer(*variant.sizes, **{"name": variant_name, **arguments})

    # The arguments are described once, in MlpMixer: here they are looked up.
    shared = inspect.signature(MlpMixer)
    parameters = [
        p.replace(default=variant_name) if p.name == "name" else p
        for p in shared.parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]
    parameters[:2] = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in parameters[:2]]
    build_variant.__signature__ = shared.replace(parameters=parameters)  # type: ignore
    build_variant.__name__ = build_variant.__qualname__ = variant_name
    build_variant.__doc__ = f"""Build {variant_name}: {variant.num_blocks} blocks, \
patch size {variant.patch_size}, {variant.hidden_dim} channels.

    The arguments, the result and the errors are those of `keras_mixer.MlpMixer`;
    `input_shape` defaults to `{image_shape}`.
    """
    return build_variant


MlpMixerS32 = _named("MlpMixerS32")
MlpMixerS16 = _named("MlpMixerS16")
MlpMixerS8 = _named("MlpMixerS8")
MlpMixerB32 = _named("MlpMixerB32")
MlpMixerB16 = _named("MlpMixerB16")
MlpMixerL32 = _named("MlpMixerL32")
MlpMixerL16 = _named("MlpMixerL16")
MlpMixerH14 = _named("MlpMixerH14")
MlpMixerNano4 = _named("MlpMixerNano4")
