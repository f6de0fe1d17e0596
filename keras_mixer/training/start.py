"""What a run starts from, a named model or any other Mixer, and resumes with."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import keras

from keras_mixer import images, models
from keras_mixer.catalog import TrainConfig
from keras_mixer.weights import is_address, model_sizes, model_variables

# The file in a run's folder that holds the model object that it began with.
START = "start.keras"
_RULE = "A model to train must be"


@dataclasses.dataclass(frozen=True)
class Start:
    """What the model of a run is built by.

    Attributes:
        name: Its name.
        sizes: Its sizes, and the side of the images that it was made for.
        weights: What `MlpMixer` takes as `weights`.
    """

    name: str
    sizes: models.Variant
    weights: str | None


def open_start(config):
    """Find what a `TrainConfig` starts from.

    Args:
        config: A `TrainConfig`.

    Returns:
        A `Start`.

    Raises:
        ValueError: If there is no such model, or it cannot be trained.
    """
    if config.model in models.VARIANTS:
        return Start(config.model, models.VARIANTS[config.model], config.weights)
    model = models.open_model(config.model)
    is_remote = is_address(config.model)
    weights = config.model if is_remote else str(models.model_file(config.model))
    known = check_mixer(model, config.precision, config.model)
    sizes = {f.name: known[f.name] for f in dataclasses.fields(models.Variant)}
    return Start(model.name, models.Variant(**sizes), weights)


def check_mixer(model, precision, origin=None):
    """Check that a model is what `MlpMixer` builds, so that it can be built again.

    Args:
        model: Anything.
        precision: The precision of the training.
        origin: What the user calls the model.

    Returns:
        All that decides what the model computes, but for its weights and its head: the
        fields of `Variant` and of `ImageTransform`, and `approximate_gelu`.

    Raises:
        ValueError: If it is another model, or one that training would silently change.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"{_RULE} built by keras_mixer.MlpMixer or a named model. Received: "
            f"{model!r:.100}. Name a file in the configuration: TrainConfig(model=...)."
        )
    received = f"Received: {origin or model.name}"
    hidden_dim, num_blocks, channels_mlp_dim, patch_size = model_sizes(model)
    layers = {layer.name: layer for layer in model.layers}
    if "preprocessing" not in layers:
        raise ValueError(
            f"{_RULE} built with include_preprocessing=True, since training feeds it "
            f"pixels in [0, 255]. {received} without the layer preprocessing."
        )
    frozen = [name for name, layer in layers.items() if not layer.trainable]
    if frozen or not model.trainable:
        raise ValueError(
            f"{_RULE} trainable as a whole; TrainConfig(freeze_backbone=True) trains "
            f"the head alone. {received} with frozen layers: "
            f"{', '.join(frozen[:5]) or 'all'}."
        )
    policies = {layer.dtype_policy.name for layer in model.layers}
    if not policies <= {"float32", precision}:
        raise ValueError(
            f"{_RULE} of the dtype policy float32 or of the training's precision, "
            f"{precision}. {received} of {', '.join(sorted(policies))}."
        )
    shape = model.input_shape[1:] if len(model.inputs) == 1 else None
    if shape is None or shape[0] != shape[1]:
        raise ValueError(
            f"{_RULE} one of square images, as training cuts them. {received} from "
            f"{model.input_shape}."
        )
    mixing = layers["block0_token_mixing"]
    width = model_variables(model)["block0_token_mixing/fc1/bias"].shape[0]
    sizes = hidden_dim, num_blocks, width, channels_mlp_dim, patch_size
    transform = images.transform_for(model)
    known = {
        **dataclasses.asdict(models.Variant(*sizes, image_size=shape[0])),
        **dataclasses.asdict(transform),
        "approximate_gelu": mixing.approximate_gelu,
    }
    drop = layers.get(f"block{num_blocks - 1}_token_drop")
    pool = layers.get("pool")
    with_head = "head" in layers
    average = with_head or isinstance(pool, keras.layers.GlobalAveragePooling1D)
    again = models.build(
        *sizes,
        images=keras.Input(shape, name="images"),
        transform=transform,
        pooling="avg" if average else None,
        classes=1 if with_head else None,
        classifier_activation=None,
        name=model.name,
        dropout_rate=mixing.dropout_rate,
        stochastic_depth_rate=drop.rate if drop else 0.0,
        approximate_gelu=mixing.approximate_gelu,
        kernel_initializer="zeros",
    )
    ours, theirs = _graph(again), _graph(model)
    names = [*theirs, *ours]
    others = [name for name in names if ours.get(name) != theirs.get(name)]
    if others:
        raise ValueError(
            f"{_RULE} as keras_mixer.MlpMixer builds it, unchanged. {received}, whose "
            f"layers differ: {', '.join(dict.fromkeys(others[:5]))}. Of a larger "
            "model, pass the Mixer in it."
        )
    return known


def check_same_mixer(model, other, precision):
    """Refuse a model of another architecture than that which a run began with.

    Args:
        model: The model object, of which `check_mixer` holds.
        other: The path of the file that the run began with.
        precision: The precision of the training.

    Raises:
        ValueError: With what differs.
    """
    now = check_mixer(model, precision)
    before = check_mixer(models.open_model(other), precision, other)
    differing = [
        f"{name}={before[name]} before, {name}={value} now"
        for name, value in now.items()
        if before[name] != value
    ]
    if differing:
        raise ValueError(
            "A run resumes with a model of the architecture that it began with. "
            f"Received: {'; '.join(differing)} ({other}). {_ANEW}"
        )


def continued(config, folder):
    """Return a configuration as the run in a folder began with it, or refuse it."""
    path = folder / "config.json"
    try:
        before = TrainConfig.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{error} ({path}) {_ANEW}") from error
    for name, to_choose in [("batch_size", 0), ("warmup_steps", -1)]:
        if getattr(config, name) == to_choose:
            chosen = getattr(before, name)
            config = dataclasses.replace(config, **{name: chosen})
    own = str(folder / START)
    has_own = pathlib.Path(before.model).name == START and pathlib.Path(own).exists()
    if has_own and config.model in (own, before.model):
        # The folder may have moved.
        before = dataclasses.replace(before, model=own)
        config = dataclasses.replace(config, model=own)
    then, now = dataclasses.asdict(before), dataclasses.asdict(config)
    differing = [
        f"{name}={then[name]} before, {name}={value} now"
        for name, value in now.items()
        if then[name] != value and name not in _FREE_FIELDS
    ]
    if differing:
        raise ValueError(
            "A run resumes with the configuration that it began with. Received: "
            f"{'; '.join(differing)} ({path}). {_ANEW}"
        )
    return config


_ANEW = "Use another --output_dir, or delete that one to start anew."
# What may change between two parts of a run.
_FREE_FIELDS = frozenset(
    (
        *("strategy", "data_service", "jit_compile", "data_dir"),
        *("checkpoint_minutes", "checkpoint_steps", "tracker"),
    )
)


# What does not decide what the trained model computes. A head is made anew.
_FREE = frozenset(
    ("dtype", "kernel_initializer", "bias_initializer", "units", "activation")
)


def _graph(model):
    """The layers of a model, `{name: (class, inputs, settings)}`."""
    config: dict[str, Any] = model.get_config()
    images = config["input_layers"]
    images = images[0] if isinstance(images[0], str) else images[0][0]
    graph = {}
    for layer in config["layers"]:
        text = json.dumps(layer["inbound_nodes"])
        inputs = re.findall(r'"keras_history": \["(.*?)"', text)
        settings = {k: v for k, v in layer["config"].items() if k not in _FREE}
        name = layer["name"]
        if name == images:  # may have any name
            name = settings["name"] = "images"
        inputs = ["images" if i == images else i for i in inputs]
        kind = layer["registered_name"] or layer["class_name"]
        # As JSON, which does not tell a tuple from a list.
        graph[name] = json.dumps([kind, inputs, settings], sort_keys=True, default=str)
    return graph
