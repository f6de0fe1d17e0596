"""`keras_mixer.json`: what was exported, from what, by what."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform

import numpy as np


def describe(classifier, tag, precision, packages, **more):
    """Return the card of an exported model, as a dict.

    Args:
        classifier: The `Classifier` that is exported, with the model as it was given.
        tag: Tag of the weights whose preprocessing it has, or None.
        precision: The precision that it was exported in.
        packages: Names of the distributions that wrote it.
        **more: What else there is to say of this kind of export.
    """
    model = classifier.model
    now = datetime.datetime.now(datetime.UTC)
    return {
        "model": model.name,
        "parameters": model.count_params(),
        "weights": {"tag": tag, "sha256": _digest(model)},
        "precision": precision,
        "image_size": classifier.size,
        "preprocessing": dataclasses.asdict(classifier.transform),
        "classes": len(classifier.names),
        **more,
        "created": now.isoformat(timespec="seconds"),
        "versions": {
            **{name: _installed_version(name) for name in ("keras-mixer", *packages)},
            "python": platform.python_version(),
        },
    }


def as_text(card):
    """Return the text of a card's file."""
    return f"{json.dumps(card, indent=2)}\n"


def _digest(model):
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.asarray(variable).tobytes())
    return digest.hexdigest()


def _installed_version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        # Used from a checkout that is not installed.
        return None
