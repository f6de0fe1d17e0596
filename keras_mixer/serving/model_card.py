"""`keras_mixer.json`: what was exported, from what, by what."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform

import keras
import numpy as np
import tensorflow as tf


def write(directory, classifier, signatures, weights, precision):
    """Write `keras_mixer.json` beside a SavedModel.

    Args:
        directory: `pathlib.Path` of the version.
        classifier: The `Classifier` that was exported.
        signatures: Names of its signatures.
        weights: Tag of the catalogue, or `None`.
        precision: `"float32"` or `"bfloat16"`.
    """
    model = classifier.model
    now = datetime.datetime.now(datetime.timezone.utc)
    card = {
        "model": model.name,
        "parameters": model.count_params(),
        "weights": {"tag": weights, "sha256": _digest(model)},
        "precision": precision,
        "image_size": classifier.size,
        "preprocessing": dataclasses.asdict(classifier.transform),
        "classes": len(classifier.labels),
        "top_k": classifier.top_k,
        "signatures": sorted(signatures),
        "created": now.isoformat(timespec="seconds"),
        "versions": {
            "keras-mixer": _installed_version("keras-mixer"),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }
    text = f"{json.dumps(card, indent=2)}\n"
    (directory / "keras_mixer.json").write_text(text, encoding="utf-8")


def _digest(model):
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).view("uint8"))
    return digest.hexdigest()


def _installed_version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        # Used from a checkout that is not installed.
        return None
