"""What `weights=` names: a tag of the catalogue, fetched and cached, or a file."""

import importlib.resources
import os
import sys

import keras

from keras_mixer import catalog
from keras_mixer.catalog.checks import check_choice
from keras_mixer.weights import download, fill, names


def open_weights(weights, variant_name):
    """Open what `weights=` names.

    Args:
        weights: A tag of the catalogue, or a path.
        variant_name: Name of the model that asks, or None for one without a name.

    Returns:
        A `porting.Source`.

    Raises:
        ValueError: If there is no such tag or file, or the file is damaged.
    """
    entry = catalog.ENTRIES.get((variant_name, weights))
    if entry is not None:
        return fill.open_source(fetch_weights(entry), entry.transform)
    path = os.fspath(weights)
    tags = [tag for name, tag in catalog.ENTRIES if name == variant_name]
    if not os.path.exists(path) and not path.endswith(names.SUFFIXES):
        raise ValueError(
            f"weights must be None, the path of a {', '.join(names.SUFFIXES)} file, "
            f"or one of the tags of {variant_name or 'a named variant'}: "
            f"{', '.join(tags) or 'none'}. Received: {path!r}."
        )
    return fill.open_source(path)


def fetch_weights(entry):
    """The path of a `catalog.WeightsEntry`'s file: in the package, or in the cache.

    The cache is filled at first use.
    """
    if entry.url is None:
        assets = importlib.resources.files("keras_mixer.catalog").joinpath("assets")
        return assets.joinpath(f"{entry.model}-{entry.tag}.{entry.format}")
    for tag in filter(None, (entry.tag, entry.fallback)):
        candidate = catalog.ENTRIES[entry.model, tag]
        if download.cached_path(candidate).exists():
            return _fill_cache(candidate)
    try:
        return _fill_cache(entry)
    except download.DownloadError as error:
        if entry.fallback is None:
            raise
        print(f"{error}\nTrying {entry.fallback!r}, the same weights.", file=sys.stderr)
        try:
            return _fill_cache(catalog.ENTRIES[entry.model, entry.fallback])
        except download.DownloadError as second_error:
            raise download.DownloadError(f"{error} {second_error}") from second_error


def _fill_cache(entry):
    """Make sure that `.weights.h5` is cached, from the source file."""

    def write_weights(source_path, weights_path):
        # In float32, whatever policy the user has set: the cache serves them all.
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float32")
        try:
            model, _ = port(source_path, entry.model, entry.transform)
            model.save_weights(weights_path)
        finally:
            keras.config.set_dtype_policy(policy)

    return download.cached(entry, write_weights)


def port(path, model=None, transform=None):
    """Build the model that a weights file was made for, and fill it.

    Args:
        path: A weights file, as `MlpMixer(weights=...)` takes it.
        model: Name of the model it has to be, or None for what the file's shapes say.
        transform: The weights' `catalog.ImageTransform`, where it is known.

    Returns:
        A pair: the model, which ends in its logits (in its pooled features, for a file
        without a head), and the `porting.Report`.

    Raises:
        ValueError: If there is no such model, or the file does not fit it.
    """
    from keras_mixer.models import mixer

    source = fill.open_source(path, transform)
    if model is None:
        *sizes, image_size = source.sizes()
    else:
        check_choice("model", model, mixer.VARIANTS)
        variant = mixer.VARIANTS[model]
        sizes, image_size = variant.sizes, variant.image_size
    built = mixer.build(
        *sizes,
        images=keras.Input((image_size, image_size, 3), name="images"),
        transform=source.transform,
        pooling="avg",
        classes=source.classes,
        classifier_activation=None,
        approximate_gelu=source.approximate_gelu,
        name=model or "mlp_mixer",
        kernel_initializer="zeros",
    )
    return built, fill.fill(built, source)
