"""The constants that weights were trained with: what files say of them, checked.

The tensors of timm's Mixers do not say how pixels were normalised, and of the published
ones two, Alibaba MIIL's, were trained otherwise than the rest.
"""

import dataclasses
import json
import pathlib
import re
import sys

from keras_mixer.catalog import ENTRIES
from keras_mixer.weights import formats

# The key of this package's own entry in a file's header.
HEADER_KEY = "keras_mixer"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# 21,843 names of classes with their descriptions take 2 MB.
_MAX_CONFIG_BYTES = 8 << 20
# timm's names of the constants, and ours.
_NAMES = (
    ("mean", "mean"),
    ("std", "std"),
    ("interpolation", "interpolation"),
    ("crop_pct", "crop_ratio"),
)


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
    folder = pathlib.Path(path).parent
    if config := config_in(folder):
        found = {ours: config[theirs] for theirs, ours in _NAMES if theirs in config}
        return checked_constants(found, folder / "config.json")
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


def config_in(folder):
    """What a folder's `config.json` says of a Mixer of timm's, in one dict.

    Returns:
        The dict; empty where there is no such file, or it is of something else.

    Raises:
        ValueError: If it is damaged, or too large for what it is.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(
            f"A config.json has at most {_MAX_CONFIG_BYTES:,} bytes. Received: "
            f"{path.stat().st_size:,}, {path}. Remove it, or fetch it again."
        )
    config = _parsed(path.read_bytes(), path)
    # Other programs have files of the same name.
    if not str(config.get("architecture", "")).startswith("mixer_"):
        return {}
    # Older repositories have one flat dict.
    return {**config, **_object(config.get("pretrained_cfg", {}), path)}


def labels_told(path):
    """The names of classes in the `config.json` beside a `.safetensors` file.

    Args:
        path: The file.

    Returns:
        A list with a pair `(name, description)` for each class, or None where there is
        no such file, or it does not say.

    Raises:
        ValueError: If it says something impossible.
    """
    folder = pathlib.Path(path).parent
    config = config_in(folder)
    names = config.get("label_names", config.get("labels"))
    if names is None:
        return None
    known = config.get("label_descriptions") or {}
    if isinstance(names, dict) and all(str(i) in names for i in range(len(names))):
        names = [names[str(i)] for i in range(len(names))]
    is_possible = isinstance(names, list) and isinstance(known, dict)
    for name in names if is_possible else ():
        label = known.get(name, name) if isinstance(name, str) else None
        is_possible &= isinstance(label, str) and not _CONTROL.search(name + label)
    if not is_possible:
        raise ValueError(
            "label_names must be a list of names, and label_descriptions describe "
            f"them, without control characters. Received: others, in "
            f"{folder}/config.json. Mend it, or remove them."
        )
    return [(name, known.get(name, name)) for name in names]


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
