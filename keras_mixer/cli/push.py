"""Publish a model on the Hugging Face Hub.

    keras-mixer push runs/flowers hf://me/flowers
    keras-mixer push model.keras hf://me/flowers@main --labels=labels.txt --private
    keras-mixer predict rose.jpg --model=hf://me/flowers

The repository is made if it is not there, and gets one commit: model.keras,
model.safetensors and config.json as timm has them, labels.txt, a picture of the
token-mixing units, and a card, README.md, with the figures of the run's report.json.
It needs a token that may write: `hf auth login`, or the environment variable HF_TOKEN.
"""

import json
import pathlib
import tempfile

from absl import flags

from keras_mixer.cli import _card, _flags

ARGUMENTS = "MODEL hf://ORG/REPO"
WEIGHTS = _flags.define_weights()
LABELS = _flags.define_labels()
LICENSE = flags.DEFINE_string(
    "license", None, "The licence that the card states, as the hub names it."
)
PRIVATE = flags.DEFINE_bool("private", False, "Make a new repository a private one.")

# timm makes these, and no others, by their names.
_TIMM = {
    f"MlpMixer{size}{patch}": f"mixer_{size.lower()}{patch}_224"
    for size in "SBL"
    for patch in (16, 32)
}
_PICTURE = "token_mixing.png"


def main(argv):
    """Push the model named first in `argv` to the repository named second."""
    if len(argv) != 3:
        raise ValueError(
            "push takes a model and a repository: keras-mixer push MODEL hf://org/repo."
            f" Received: {argv[1:]}."
        )
    from keras_mixer import images, models, visualize, weights
    from keras_mixer.catalog import ENTRIES, needs_extra

    with needs_extra("hf:// addresses", "hub"):
        import huggingface_hub  # noqa: F401, before anything takes long

    _, name, address = argv
    weights.parse_address(address)
    model = _flags.open_trained(name, WEIGHTS.value)
    arrays = weights.export_arrays(model, "timm")
    _check_is_whole(model, arrays)
    transform = images.transform_for(model)
    gelu = model.get_layer("block0_token_mixing").approximate_gelu
    classes = model.output_shape[-1]
    labels = images.class_names(
        LABELS.value or models.default_labels(name, WEIGHTS.value, classes), classes
    )
    variant = models.variant_name(*weights.model_sizes(model))
    config = _timm_config(model, arrays, variant, transform, labels)
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = pathlib.Path(name_of_folder)
        model.save(folder / "model.keras")
        weights.write_checkpoint(
            folder / weights.HUB_FILE,
            arrays,
            metadata=weights.constants_header(transform, gelu),
        )
        _write(folder / "config.json", json.dumps(config, indent=2))
        weights.labels_told(folder / weights.HUB_FILE)  # is read as it was meant
        _write(folder / "labels.txt", "\n".join(label for _, label in labels))
        figure = visualize.plot_token_mixing(
            model, range(min(3, weights.model_sizes(model)[1]))
        )
        visualize.save_figure(figure, folder / _PICTURE)
        entry = ENTRIES.get((name, WEIGHTS.value))
        card = _card.write_card(
            weights.parse_address(address)[0],
            _code(address, model, arrays, variant),
            _facts(model, transform, gelu, config),
            _card.read_report(name),
            entry,
            LICENSE.value or (entry and entry.licence.lower()),
            _PICTURE,
        )
        _write(folder / "README.md", card)
        print(weights.push_folder(address, folder, PRIVATE.value))


def _check_is_whole(model, arrays):
    """Refuse what is not a Mixer from square images to classes, and nothing more."""
    shape = model.input_shape
    if (
        shape[1] != shape[2]
        or "head.bias" not in arrays
        or model.count_params() != sum(array.size for array in arrays.values())
    ):
        raise ValueError(
            "A model for the hub is an MLP-Mixer from square images to classes, and "
            f"nothing more. Received: {model.name} from {shape} to "
            f"{model.output_shape}, with {model.count_params():,} parameters."
        )


def _timm_config(model, arrays, variant, transform, labels):
    """What timm's `save_config_for_hf` writes, of this model."""
    hidden_dim, size = arrays["norm.bias"].size, model.input_shape[1]
    widths = [arrays[f"blocks.0.mlp_{mlp}.fc1.bias"].size for mlp in _MLPS]
    arguments = {}
    if size != 224:
        arguments["img_size"] = size
    if widths != [hidden_dim // 2, hidden_dim * 4]:
        arguments["mlp_ratio"] = [width / hidden_dim for width in widths]
    config = {
        "architecture": _TIMM.get(variant, "mixer_of_keras_mixer"),
        "num_classes": len(labels),
        "num_features": hidden_dim,
        "global_pool": "avg",
        "label_names": [name for name, _ in labels],
    }
    if any(name != label for name, label in labels):
        config["label_descriptions"] = dict(labels)
    if arguments:
        config["model_args"] = arguments
    config["pretrained_cfg"] = {
        "input_size": [3, size, size],
        "fixed_input_size": True,
        "interpolation": transform.interpolation,
        "crop_pct": transform.crop_ratio,
        "mean": transform.mean,
        "std": transform.std,
        "num_classes": len(labels),
        "first_conv": "stem.proj",
        "classifier": "head",
    }
    return config


_MLPS = ("tokens", "channels")


def _code(address, model, arrays, variant):
    """How to load the model in Python."""
    from keras_mixer.models import VARIANTS
    from keras_mixer.weights import model_sizes

    arguments = [f'weights="{address}"']
    if variant is None or VARIANTS[variant].image_size != model.input_shape[1]:
        arguments.append(f"input_shape={model.input_shape[1:]}")
    if variant is None:
        hidden_dim, num_blocks, channels_mlp_dim, patch_size = model_sizes(model)
        tokens_mlp_dim = arrays["blocks.0.mlp_tokens.fc1.bias"].size
        sizes = hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim, patch_size
        arguments = [*map(str, sizes), *arguments]
    return "\n".join(
        [
            "import keras_mixer",
            "",
            f"model = keras_mixer.{variant or 'MlpMixer'}({', '.join(arguments)})",
            'image = keras_mixer.load_image("photo.jpg", weights=model)',
            "model.predict(image[None])  # a probability for each line of labels.txt",
        ]
    )


def _facts(model, transform, gelu, config):
    size = model.input_shape[1]
    facts = [
        f"{model.count_params():,} parameters, {config['num_classes']} classes, images "
        f"of {size} x {size} pixels.",
        f"Pixels are normalised by mean {list(transform.mean)} and deviation "
        f"{list(transform.std)}; GELU is in its {'tanh' if gelu else 'exact'} form.",
    ]
    if config["architecture"] not in _TIMM.values():
        facts.append("timm has no architecture of these sizes.")
    elif gelu:
        facts.append("timm's GELU is exact: its logits differ a little.")
    return facts


def _write(path, text):
    path.write_text(text + "\n", encoding="utf-8")
