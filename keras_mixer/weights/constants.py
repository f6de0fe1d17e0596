"""What a `.safetensors` file was trained with, as far as it can be told.

The tensors of timm's Mixers do not say how pixels were normalised, and of the published
ones two, Alibaba MIIL's, were trained otherwise than the rest.
"""

import dataclasses
import json
import math
import pathlib
import sys

from keras_mixer.catalog import ENTRIES
from keras_mixer.weights.formats import checkpoints

# The key of this package's own entry in a file's header.
HEADER_KEY = "keras_mixer"
_MAX_CONFIG_BYTES = 1 << 20


def constants(path, classes):
    """The constants of the weights in a `.safetensors` file.

    Told, in this order, by the file's own header, if this package wrote it; by the
    `config.json` beside it, as in timm's repositories; by a number of classes that only
    one published set of weights has. Otherwise the usual normalisation is assumed, and
    a line on standard error says so.

    Args:
        path: The file.
        classes: Number of classes of its head, or None.

    Returns:
        A dict with the fields of `ImageTransform` and, from this package's files,
        `approximate_gelu`.

    Raises:
        ValueError: If the header or the `config.json` says something impossible.
    """
    header = checkpoints.read_safetensors_metadata(path)
    if HEADER_KEY in header:
        return _checked(_parsed(header[HEADER_KEY], path), path)
    config_path = pathlib.Path(path).with_name("config.json")
    if config_path.is_file() and config_path.stat().st_size <= _MAX_CONFIG_BYTES:
        config = _parsed(config_path.read_bytes(), config_path)
        # Older repositories have one flat dict, and other programs their own files.
        if str(config.get("architecture", "")).startswith("mixer_"):
            config = _object(config.get("pretrained_cfg", config), config_path)
            names = [
                ("mean", "mean"),
                ("std", "std"),
                ("interpolation", "interpolation"),
                ("crop_pct", "crop_ratio"),
            ]
            found = {ours: config[theirs] for theirs, ours in names if theirs in config}
            return _checked(found, config_path)
    transforms = {
        entry.transform
        for entry in ENTRIES.values()
        if (entry.format, entry.classes) == ("safetensors", classes)
    }
    if len(transforms) == 1:
        return dataclasses.asdict(transforms.pop())
    print(
        f"{path} does not say how its pixels are normalised: taken to be mean 0.5 and "
        "deviation 0.5, as for all published weights but MIIL's, which have 0 and 1. "
        "The config.json of its repository, put beside it, would say.",
        file=sys.stderr,
    )
    return {}


def header(transform, approximate_gelu):
    """The entries of a file's header from which `constants` reads these back."""
    known = {**dataclasses.asdict(transform), "approximate_gelu": approximate_gelu}
    return {"format": "pt", HEADER_KEY: json.dumps(known)}


def _parsed(text, path):
    try:
        return _object(json.loads(text), path)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return _object(None, path)


def _object(value, path):
    if not isinstance(value, dict):
        raise ValueError(
            "What describes weights must be a JSON object. Received: another text in "
            f"{path}. Remove it, or fetch it again."
        )
    return value


def _checked(found, path):
    """The values as `ImageTransform` has them, each possible."""

    def numbers(low):
        def check(value):
            return (
                isinstance(value, list)
                and len(value) == 3
                and all(_is_number(number) and number >= low for number in value)
            )

        return check

    rules = {
        "mean": (numbers(0), "three numbers of at least 0"),
        "std": (numbers(1e-6), "three positive numbers"),
        "interpolation": (
            lambda value: value in ("bicubic", "bilinear"),
            "bicubic or bilinear",
        ),
        "crop_ratio": (
            lambda value: _is_number(value) and 0 < value <= 1,
            "a number in (0, 1]",
        ),
        "approximate_gelu": (lambda value: isinstance(value, bool), "true or false"),
    }
    for name, value in found.items():
        is_possible, rule = rules.get(name, (lambda value: False, "left out"))
        if not is_possible(value):
            raise ValueError(
                f"{name} of weights must be {rule}. Received: {str(value)[:60]}, in "
                f"{path}. Mend it, or name the weights by their tag."
            )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def _is_number(value):
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
