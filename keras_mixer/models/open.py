"""A model by its name, its file, its training run's folder, or its repository."""

import concurrent.futures
import json
import math
import pathlib

import keras
import numpy as np

from keras_mixer.catalog import CLASS_LISTS, TAGS
from keras_mixer.models import mixer
from keras_mixer.weights import (
    checked_constants,
    is_address,
    labels_of_weights,
    open_weights,
    read_keras_config,
)

# Layers that compute a tensor from a tensor. Those that run code of the file, read
# other files or enlarge their input are left out.
_KERAS_LAYERS = """
    InputLayer Dense Conv2D DepthwiseConv2D SeparableConv2D Embedding Identity
    Activation ReLU LeakyReLU PReLU ELU Softmax Dropout SpatialDropout1D
    SpatialDropout2D GaussianDropout GaussianNoise ActivityRegularization
    LayerNormalization BatchNormalization GroupNormalization UnitNormalization
    RMSNormalization Normalization Rescaling Add Average Concatenate Dot Maximum Minimum
    Multiply Subtract Flatten Permute Reshape AveragePooling1D AveragePooling2D
    MaxPooling1D MaxPooling2D GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalMaxPooling1D GlobalMaxPooling2D CenterCrop Cropping2D RandomBrightness
    RandomContrast RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom
"""
_KNOWN = {
    "keras.layers": {*_KERAS_LAYERS.split()},
    "keras": {"DTypePolicy", "Functional", "Sequential"},
    "keras.models": {"Functional", "Sequential"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.models.sequential": {"Sequential"},
}
# Modules of which any class may be named.
_HARMLESS = ("keras.initializers", "keras.regularizers", "keras.constraints")
_MAX_PIXELS = 1 << 24


def open_model(
    model: str | pathlib.Path, weights: str | pathlib.Path | None = None
) -> keras.Model:
    """A named model, one in a file, or one of the hub; a stranger's, too.

    Nothing in a file runs: it may name this package's layers and plain ones of Keras,
    and is refused before anything is built that it does not hold the weights of.

    Args:
        model: A name, such as `"MlpMixerB16"`, the path of a `.keras` file, the folder
            of a training run, or a repository of the Hugging Face Hub with a Mixer of
            any size, `hf://org/repo` or `hf://org/repo@revision`.
        weights: For a named model: a tag of the catalogue, the path of a file, or
            `hf://org/repo`.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: If there is no such model or file, or the file is damaged, holds
            other layers, or numbers that are not finite.
    """
    if str(model) in mixer.VARIANTS:
        return getattr(mixer, str(model))(weights=weights)
    if is_address(model):
        *sizes, side = open_weights(model, None).sizes()
        return mixer.MlpMixer(*sizes, input_shape=(side, side, 3), weights=model)
    path = model_file(model)
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"The model must be one of {', '.join(mixer.VARIANTS)}, the path of a "
            ".keras file, the folder of a training run, or hf://org/repo. Received: "
            f"{str(model)!r}."
        )
    config = read_keras_config(path)
    try:
        loaded = _load(path, config)
    except _Refused as error:
        raise ValueError(f"{error}, in {path}.") from error
    except Exception as error:  # Keras meets what is damaged with any kind of error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            "A .keras file must be whole and written by model.save. Received: "
            f"{path}, which cannot be loaded ({reason}). Save the model again."
        ) from error
    return loaded


def default_labels(
    model: str | pathlib.Path,
    weights: str | pathlib.Path | None,
    classes: int,
) -> list[tuple[str, str]] | str | pathlib.Path | None:
    """What names the classes of a model, where the user does not say.

    Args:
        model: What `open_model` takes.
        weights: What `open_model` takes.
        classes: How many classes the model has.

    Returns:
        The tag of a named model; the names in the `config.json` of its weights or its
        repository, as pairs; `labels.txt` that a training run left beside a file;
        `"imagenet"` where it has a list of so many classes; or None.
    """
    if str(model) in mixer.VARIANTS:
        if weights in TAGS:
            return str(weights)
        if weights is not None and (names := labels_of_weights(weights)):
            return names
    elif is_address(model):
        if names := labels_of_weights(model):
            return names
    elif (path := model_file(model).with_name("labels.txt")).is_file():
        return path
    return "imagenet" if classes in CLASS_LISTS else None


def model_file(model: str | pathlib.Path) -> pathlib.Path:
    """The `.keras` file of what `open_model` takes, but for named models."""
    path = pathlib.Path(model)
    return path / "model.keras" if path.is_dir() else path


class _Refused(ValueError):
    """The rule and what was received, for a sentence that ends in the file."""


def _load(path, config):
    config = json.loads(config)
    _check_objects(config, path)
    # Its thread forgets the variables of the model that is not meant to be.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        parameters = executor.submit(_count_parameters, config).result()
    if 2 * parameters > path.stat().st_size:
        raise _Refused(
            "A .keras file must hold the weights of its model. Received: "
            f"{parameters:,} parameters in {path.stat().st_size:,} bytes"
        )
    loaded = keras.models.load_model(path, compile=False)
    for variable in loaded.weights:
        value = keras.ops.convert_to_numpy(variable)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise _Refused(
                f"Weights must be finite. Received: NaN or infinity for {variable.path}"
            )
    return loaded


def _check_objects(value, path):
    """Refuse objects that are not known, and impossible constants."""
    if isinstance(value, list):
        for item in value:
            _check_objects(item, path)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key != "compile_config":  # is not read
            _check_objects(item, path)
    if "class_name" not in value or value["class_name"] == "__keras_tensor__":
        return
    name, module = str(value["class_name"]), value.get("module")
    if name == "QuantizedDTypePolicy":
        raise _Refused(
            "A model is opened as it was before model.quantize(), which Keras cannot "
            "load again. Received: one quantized to "
            f"{str(value.get('config'))[:80]}. Open the model from before it: "
            "keras-mixer export --precision=int8 makes a file of it for another runtime"
        )
    registered = value.get("registered_name") or name
    if registered == f"keras_mixer>{name}":
        is_known = keras.saving.get_registered_object(registered) is not None
    else:
        is_harmless = module in _HARMLESS and name[:1].isupper()
        is_known = registered == name and (
            is_harmless or name in _KNOWN.get(str(module), ())
        )
    if not is_known:
        raise _Refused(
            "A model from a file may have the layers of keras_mixer and plain ones of "
            f"Keras. Received: {str(module)[:60]}.{name[:60]}. If you trust who made "
            "it, load it in Python by keras.models.load_model"
        )
    if name == "PixelNormalization":
        constants = ("mean", "std", "interpolation", "crop_ratio")
        checked_constants({key: value["config"][key] for key in constants}, path)


def _count_parameters(config):
    """The parameters of the model that a configuration describes, not built."""
    config = {key: config[key] for key in config if key != "compile_config"}
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config)
        for tensor in model.inputs:
            if math.prod(size or 1 for size in tensor.shape) > _MAX_PIXELS:
                raise _Refused(
                    f"An image has at most {_MAX_PIXELS:,} values. Received: "
                    f"{tensor.shape}"
                )
        return sum(math.prod(variable.shape) for variable in model.variables)
