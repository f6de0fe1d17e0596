"""What tells a model from another one, for a run that goes on."""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_mixer.catalog import ENTRIES

if TYPE_CHECKING:
    import keras

_CHUNK = 1 << 20


def model_identity(
    model: "keras.Model | str | os.PathLike[str]",
    weights: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
) -> str:
    """Say in a line which model this is: its name, and SHA-256 of what it is read from.

    Args:
        model: As `open_predictor` takes it. A server is known by its URL alone.
        weights: As `open_predictor` takes them.
        labels: As `open_predictor` takes them.

    Returns:
        A line that changes with the model's weights, and with the names of its classes.

    Raises:
        ValueError: If there is no such model.
        OSError: If a file cannot be read.
    """
    digest = hashlib.sha256()
    if labels is not None and not isinstance(labels, (str, os.PathLike)):
        digest.update("\n".join(labels).encode("utf-8"))
    elif labels is not None and os.path.isfile(labels):
        _add_file(digest, labels)
    else:
        digest.update(str(labels).encode("utf-8"))
    if not isinstance(model, (str, os.PathLike)):
        return f"{model.name} {_of_weights(digest, model)}"
    name = os.fspath(model)
    if "://" in name:
        return f"{name} {digest.hexdigest()}"
    for path in _files_of(name, weights):
        digest.update(f"{path.name}\n".encode(errors="surrogateescape"))
        _add_file(digest, path)
    return f"{pathlib.Path(name).name} {digest.hexdigest()}"


def _of_weights(digest, model):
    digest.update(model.to_json().encode("utf-8"))
    for variable in model.weights:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def _files_of(name, weights):
    """The files that a model is read from."""
    from keras_mixer.models import VARIANTS
    from keras_mixer.weights import fetch, fetch_repository, is_address

    if name in VARIANTS:
        if is_address(weights):
            path = fetch_repository(weights)
            # Its config.json gives the crop, and the names of the classes.
            return [path, *path.parent.glob("config.json")]
        entry = ENTRIES.get((name, weights or "imagenet"))
        return [pathlib.Path(fetch(entry) if entry else os.fspath(weights))]
    path = pathlib.Path(name)
    if (path / "model.keras").is_file():
        path = path / "model.keras"
    if path.is_dir():
        # Of the versions of an exported model, the last one is taken.
        versions = [p for p in path.iterdir() if p.name.isdigit() and p.is_dir()]
        folder = max(versions, key=lambda p: int(p.name), default=path)
        return sorted(p for p in folder.rglob("*") if p.is_file())
    # OpenVINO's .bin, the labels of an exported file or of a training run.
    names = f"{path.stem}.", "labels.txt"
    return sorted(
        p for p in path.parent.iterdir() if p.name.startswith(names) and p.is_file()
    )


def _add_file(digest, path):
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
