"""The constants that weights were trained with: what files say of them, checked.

The tensors of timm's Mixers do not say how pixels were normalised, and of the published
ones two, Alibaba MIIL's, were trained otherwise than the rest.
"""

import dataclasses
import json
import pathlib
import sys

from keras_mixer.catalog import ENTRIES
from keras_mixer.weights import formats

# The key of this package's own entry in a file's header.
HEADER_KEY = "keras_mixer"
_MAX_CONFIG_BYTES = 1 << 20


def constants_told(path, classes):
    """The constants of the weights in a `.safetensors` file, as far as it can be told.

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
    header = formats.read_metadata(path)
    if HEADER_KEY in header:
        return checked_constants(_parsed(header[HEADER_KEY], path), path)
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
            return checked_constants(found, config_path)
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


def constants_header(transform, approximate_gelu):
    """The entries of a file's header from which `constants_told` reads these back."""
    known = {**dataclasses.asdict(transform), "approximate_gelu": approximate_gelu}
    return {"format": "pt", HEADER_KEY: json.dumps(known)}


def _parsed(text, path):
    try:
        return _object(json.loads(text), path)
    except (ValueError, RecursionError):
        return _object(None, path)


def _object(value, path):
    if not isinstance(value, dict):
        raise ValueError(
            "What describes weights must be a JSON object. Received: another text in "
            f"{path}. Remove it, or fetch it again."
        )
    return value


def _numbers(low, high):
    def check(value):
        is_list = isinstance(value, list | tuple) and len(value) == 3
        return is_list and all(_is_number(number, low, high) for number in value)

    return check, f"three numbers in [{low:g}, {high:g}]"


def _is_number(value, low, high):
    # Not a number is in no range, and an integer of 400 digits is compared exactly.
    return type(value) in (int, float) and low <= value <= high


_RULES = {
    "mean": _numbers(0, 1),
    "std": _numbers(1e-3, 1e3),
    "interpolation": (
        lambda value: value in ("bicubic", "bilinear"),
        "bicubic or bilinear",
    ),
    "crop_ratio": (
        lambda value: _is_number(value, 0.01, 1),
        "a number in [0.01, 1]",
    ),
    "approximate_gelu": (lambda value: type(value) is bool, "true or false"),
}


def checked_constants(found, origin):
    """The constants that a file gives, if each is possible; for every format.

    Args:
        found: A dict with fields of `ImageTransform` and `approximate_gelu`.
        origin: The file, for messages.

    Returns:
        The dict, with tuples of floats for `mean` and `std`.

    Raises:
        ValueError: If a constant is impossible or of another name.
    """
    for name, value in found.items():
        is_possible, rule = _RULES.get(name, (lambda value: False, "left out"))
        if not is_possible(value):
            raise ValueError(
                f"{str(name)[:60]} of weights must be {rule}. Received: "
                f"{_brief(value)}, in {origin}. Mend it, or name the weights by their "
                "tag."
            )
    return {
        name: tuple(map(float, value)) if name in ("mean", "std") else value
        for name, value in found.items()
    }


def _brief(value):
    try:
        return str(value)[:60]
    except ValueError:  # more digits than Python turns into text
        return "a huge number"
