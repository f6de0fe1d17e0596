"""Export of a trained model as a SavedModel for TensorFlow Serving."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.catalog import TAGS, ImageTransform, transform_of
from keras_mixer.images import preprocess
from keras_mixer.serving import model_card, publishing, verification, warm_up
from keras_mixer.serving.served_model import served_model
from keras_mixer.serving.signatures import Classifier


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

    The SavedModel takes the bytes of JPEG and PNG files, and decodes, crops and
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
        ValueError: If the model is not such a classifier, an argument does not fit it,
            the version exists, or it fails verification. Nothing is published then.
    """
    classifier = _classifier(model, labels, top_k, weights, features)
    batch_sizes = warm_up.check_batch_sizes(batch_sizes)
    _check_keep(keep)
    classifier = dataclasses.replace(classifier, model=served_model(model, precision))
    say = print if verbose else lambda text: None
    with publishing.new_version(base_dir, version) as (directory, target):
        say(f"Tracing {model.name} in {precision}")
        signatures = classifier.signatures()
        say(f"Writing version {target.name}")
        _save(directory, classifier, signatures)
        model_card.write(directory, classifier, signatures, weights, precision)
        warm_up.write_batching_parameters(directory, batch_sizes)
        warm_up.write_records(directory, signatures, classifier.size, batch_sizes)
        if verify:
            say("Verifying it with TensorFlow alone")
            verification.verify(directory, signatures, _probes(classifier.size))
    if keep is not None:
        removed = publishing.prune(base_dir, keep)
        if removed:
            say(f"Removed version {', '.join(map(str, removed))}")
    return target


def _classifier(model, labels, top_k, weights, features):
    """Check the arguments against the model, and put them together."""
    classes = _check_shapes(model)
    from_logits = _gives_logits(model)
    transform, normalise = _transform(model, weights)
    labels = _labels(labels, classes)
    if top_k is None:
        top_k = min(5, classes)
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise ValueError(f"top_k must be an integer. Received: top_k={top_k!r}.")
    if not 1 <= top_k <= classes:
        raise ValueError(
            "top_k must be from 1 to the number of classes. Received: "
            f"top_k={top_k}, and a model of {classes} classes. Pass top_k={classes} to "
            "get them all."
        )
    if features and "pool" not in [layer.name for layer in model.layers]:
        raise ValueError(
            "features are the outputs of the layer `pool`. Received: features=True, "
            f"and model {model.name!r} without such a layer. Leave features out."
        )
    return Classifier(
        model=model,
        transform=transform,
        normalise=normalise,
        from_logits=from_logits,
        labels=labels,
        top_k=top_k,
        feature_layer="pool" if features else None,
    )


def _check_shapes(model):
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            "model must take images of shape (batch, height, width, 3). Received: "
            f"{type(model).__name__} with input shape {shape}."
        )
    _, height, width, _ = shape
    if height is None or height != width:
        raise ValueError(
            "The exported model crops squares of a known size. Received: a model for "
            f"images of {height} x {width} pixels."
        )
    if len(model.output_shape) != 2:
        raise ValueError(
            "model must be a classifier, with outputs of shape (batch, classes). "
            f"Received: output shape {model.output_shape}. Build it with "
            "include_top=True."
        )
    return model.output_shape[1]


def _gives_logits(model):
    activation = getattr(model.layers[-1], "activation", None)
    if activation not in (keras.activations.softmax, keras.activations.linear):
        raise ValueError(
            "The last layer of model must be a classifier whose activation is softmax "
            "or None (logits), so that the scores are probabilities. Received: layer "
            f"{model.layers[-1].name!r} with activation "
            f"{getattr(activation, '__name__', None)}. Build it with include_top=True."
        )
    return activation is keras.activations.linear


def _transform(model, weights):
    """Return the `ImageTransform`, and whether the model leaves normalising to it."""
    layer = preprocess.preprocessing_layer(model)
    if layer is not None:
        if weights is not None:
            raise ValueError(
                "weights is for a model without a layer named `preprocessing`. "
                f"Received: weights={weights!r}, and model {model.name!r}, which "
                "normalises its own input. Leave weights out."
            )
        transform = ImageTransform(
            layer.mean, layer.std, layer.interpolation, layer.crop_ratio
        )
        return transform, False
    if weights is None:
        raise ValueError(
            "The exported model takes image files, and has to know how its weights "
            f"expect them. Received: model {model.name!r} without a layer named "
            "`preprocessing`, and weights=None. Name the tag of its weights, as in "
            'weights="imagenet".'
        )
    return transform_of(weights), True


def _labels(labels, classes):
    source = "labels"
    if labels is None:
        labels = [str(index) for index in range(classes)]
    elif isinstance(labels, str) and labels == "imagenet":
        source = 'labels="imagenet"'
        labels = [label for _, label in preprocess.imagenet_labels(classes)]
    elif isinstance(labels, str) and labels in TAGS:
        source = f"labels={labels!r}"
        labels = [label for _, label in preprocess.weights_labels(labels)]
    elif isinstance(labels, (str, os.PathLike)):
        source = f"the file {os.fspath(labels)!r}"
        labels = _read_labels(labels)
    labels = [str(label) for label in labels]
    if len(labels) != classes:
        raise ValueError(
            "labels must name each class of the model, in the order of its outputs. "
            f"Received: {source} with {len(labels)} names, and a model of {classes} "
            "classes."
        )
    for index, label in enumerate(labels):
        if not label or "\n" in label:
            raise ValueError(
                "A label must be a line of text that is not empty. Received: "
                f"{label!r} for class {index} in {source}."
            )
    return tuple(labels)


def _read_labels(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            "labels must be a list, the path of a UTF-8 text file with one name a "
            'line, or a tag of the catalogue such as "imagenet". Received: '
            f"{os.fspath(path)!r} ({error})."
        ) from error


def _check_keep(keep):
    if keep is None:
        return
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(
            f"keep must be a positive integer or None. Received: keep={keep!r}."
        )


def _save(directory, classifier, signatures):
    module = tf.Module()
    # The variables alone: tracking the Keras model would store its Python side too.
    module.model_variables = [v.value for v in classifier.model.variables]
    tf.saved_model.save(module, os.fspath(directory), signatures=signatures)
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
