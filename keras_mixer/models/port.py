"""Weights files into models: into one that is built, or one built for the file."""

import os

import keras

from keras_mixer.catalog import VARIANTS, check_choice
from keras_mixer.models.mixer import build, variant_name
from keras_mixer.weights import (
    Report,
    check_fit,
    check_same_constants,
    fill_model,
    model_sizes,
    open_file,
    open_weights,
    tensor_shapes,
)


def port(path, model=None):
    """Build the model that a weights file was made for, and fill it.

    Args:
        path: A weights file, as `MlpMixer(weights=...)` takes it.
        model: Name of the model it has to be, or None for what the file's shapes say.

    Returns:
        A pair: the model, which ends in its logits (in its pooled features, for a file
        without a head), and the `weights.Report`.

    Raises:
        ValueError: If there is no such model, or the file does not fit it.
    """
    source = open_file(path)
    if model is None:
        *sizes, image_size = source.sizes()
    else:
        check_choice("model", model, VARIANTS)
        variant = VARIANTS[model]
        sizes, image_size = variant.sizes, variant.image_size
    name = model or "mlp_mixer"
    patches = (image_size // sizes[-1]) ** 2
    check_fit(source, tensor_shapes(sizes, patches, source.classes), name)
    built = build(
        *sizes,
        images=keras.Input((image_size, image_size, 3), name="images"),
        transform=source.transform,
        pooling="avg",
        classes=source.classes,
        classifier_activation=None,
        approximate_gelu=source.approximate_gelu,
        name=name,
        kernel_initializer="zeros",
    )
    return built, fill_model(built, source)


def load_weights(
    model: keras.Model,
    weights: str | os.PathLike[str],
    *,
    resize: str | None = None,
) -> Report:
    """Load weights into a model that is already built; all of them, or none.

    Args:
        model: An MLP-Mixer of this package.
        weights: What `MlpMixer(weights=...)` takes: a tag or a path.
        resize: `"interpolate"` to fit weights of another image size approximately.

    Returns:
        A report of what went where; `print` shows it as a table.

    Raises:
        ValueError: With every missing, unexpected, misshapen and non-finite tensor, or
            if the model normalises pixels, or has a GELU, unlike the weights'.
    """
    source = open_weights(weights, variant_name(*model_sizes(model)))
    check_same_constants(model, source)
    return fill_model(model, source, resize)
