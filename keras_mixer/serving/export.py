"""Export of a trained model as a SavedModel for TensorFlow Serving."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.serving import card, fused, publishing, served, verification, warm_up
from keras_mixer.serving.classifier import check_backend, classifier_of
from keras_mixer.serving.runtimes import SUFFIXES
from keras_mixer.serving.signatures import signatures_of


def export_saved_model(
    model: keras.Model,
    base_dir: str | os.PathLike[str],
    *,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    top_k: int | None = None,
    version: int | None = None,
    weights: str | None = None,
    precision: str = "float32",
    features: bool = False,
    batch_sizes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    verify: bool = False,
    keep: int | None = None,
    verbose: bool = False,
) -> pathlib.Path:
    """Export a classifier as `base_dir/<version>/`, ready for TensorFlow Serving.

    The SavedModel takes the bytes of image files, and decodes, crops and
    normalises them as `load_image` and the model's weights expect. Signatures, the
    batch first in every tensor:

    - `serving_default`: `image_bytes` string `(batch,)` to `top_k_labels` string,
      `top_k_scores` float32 and `top_k_indices` int32, each `(batch, top_k)`, and
      `valid` bool `(batch,)`. A file that cannot be used is not `valid` and has
      zeros and empty labels; the others of its batch are unaffected.
    - `images`: `images` float32 `(batch, height, width, 3)`, the evaluation crop with
      pixels in [0, 255], to the same without `valid`, and `probabilities` float32
      `(batch, classes)`.
    - `classify`: `inputs` string `(batch,)`, serialized `tf.Example`s with the file in
      the feature `image`, to `classes` and `scores`: the Classify API.
    - `features`, on request: `image_bytes` to `features` float32 `(batch, channels)`,
      the pooled tokens before the head, and `valid`.

    Beside the SavedModel lie `assets/labels.txt`, `batching_params.pbtxt`, warm-up
    requests, and `keras_mixer.json`, which says what was exported from what.

    Args:
        model: A classifier of this package, or one built on it: its last layer gives
            probabilities or logits of shape `(batch, classes)`.
        base_dir: Directory of the model's versions, TensorFlow Serving's
            `--model_base_path`.
        labels: Names of the classes in output order: a list, the path of a text file
            with one name a line, or a tag of the catalogue such as `"imagenet"`.
            `None` names them by their index.
        top_k: How many classes to return for an image, from 1 to their number. `None`
            returns five, or all where there are fewer.
        version: A positive integer that is not taken, or `None` for the next one.
        weights: Tag of the catalogue whose preprocessing to use, for a model that was
            built with `include_preprocessing=False`.
        precision: `"float32"`, or `"bfloat16"` to compute the matrix products in
            bfloat16 and to store their weights so. Outputs are float32.
        features: Whether to add the signature `features`.
        batch_sizes: The sizes to which a server pads its batches, ascending; a request
            larger than the last one is refused.
        verify: Whether to load the version in a process of its own, with TensorFlow
            alone, and compare its answers before it is published.
        keep: How many versions to keep, the new one included; older ones are removed.
            `None` keeps all.
        verbose: Whether to print what is being done.

    Returns:
        `pathlib.Path` of the version's directory.

    Raises:
        ValueError: If the model is not such a classifier or is quantized, an argument
            does not fit it, the version exists, it fails verification, or Keras'
            backend is not TensorFlow. Nothing is published then.
    """
    _check_place(base_dir)
    classifier = classifier_of(model, labels, weights)
    signatures = signatures_of(classifier, top_k, features)
    batch_sizes = warm_up.check_batch_sizes(batch_sizes)
    _check_keep(keep)
    copy = served.served_model(model, precision, fused.served_layer)
    signatures = dataclasses.replace(
        signatures, classifier=dataclasses.replace(classifier, model=copy)
    )
    say = print if verbose else lambda text: None
    with publishing.new_version(base_dir, version) as (directory, target):
        say(f"Tracing {model.name} in {precision}")
        functions = signatures.functions()
        say(f"Writing version {target.name}")
        _save(directory, signatures.classifier, functions)
        described = card.describe(
            classifier,
            weights,
            precision,
            ("keras", "tensorflow"),
            top_k=signatures.top_k,
            signatures=sorted(functions),
        )
        path = directory / "keras_mixer.json"
        path.write_text(card.as_text(described), encoding="utf-8")
        warm_up.write_batching_parameters(directory, batch_sizes)
        warm_up.write_records(directory, functions, classifier.size, batch_sizes)
        if verify:
            say("Verifying it with TensorFlow alone")
            verification.verify(directory, functions, _probes(classifier.size))
    if keep is not None:
        removed = publishing.prune(base_dir, keep)
        if removed:
            say(f"Removed version {', '.join(map(str, removed))}")
    return target


def _check_place(base_dir):
    check_backend("A SavedModel")
    suffix = pathlib.Path(base_dir).suffix
    if suffix in (*SUFFIXES, ".keras", ".h5", ".pb"):
        raise ValueError(
            "base_dir is the folder of a SavedModel's versions. Received: "
            f"{os.fspath(base_dir)!r}, the name of a file. export_model writes files "
            f"that end in {', '.join(SUFFIXES)}."
        )


def _check_keep(keep):
    if keep is None:
        return
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(
            f"keep must be a positive integer or None. Received: keep={keep!r}."
        )


def _save(directory, classifier, functions):
    module = tf.Module()
    # The variables alone: tracking the Keras model would store its Python side too.
    module.model_variables = [v.value for v in classifier.model.variables]
    tf.saved_model.save(module, os.fspath(directory), signatures=functions)
    # TensorFlow 2 saves every signature as one for Predict. Classify asks for its own
    # method name, unless the server was told not to check.
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(
        os.fspath(directory)
    )
    updater.replace_method_name(
        signature_key="classify", method_name="tensorflow/serving/classify"
    )
    updater.save()
    lines = "".join(f"{label}\n" for label in classifier.labels)
    (directory / "assets").mkdir(exist_ok=True)
    (directory / "assets" / "labels.txt").write_text(lines, encoding="utf-8")


def _probes(size):
    """Return inputs for verification: of files two good ones, and two that are none."""
    jpeg, png = warm_up.sample_files(2 * size)
    files = [jpeg, png, b"not an image", b""]
    examples = [warm_up.example_of(file) for file in files]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))
    return {
        "serving_default": np.array(files, object),
        "features": np.array(files, object),
        "classify": np.array(examples, object),
        "images": pixels.astype("float32"),
    }
