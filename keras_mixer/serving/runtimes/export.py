"""Export of a trained model as a file for another runtime than TensorFlow."""

import dataclasses
import importlib
import importlib.util
import os
import pathlib
import warnings
from collections.abc import Sequence

import keras
import numpy as np

from keras_mixer.catalog import check_choice, needs_extra
from keras_mixer.serving import card, portable, publishing, served, verification
from keras_mixer.serving.classifier import check_backend, classifier_of
from keras_mixer.serving.runtimes import (
    RUNTIMES,
    SUFFIXES,
    calibration,
    card_path,
    labels_path,
)
from keras_mixer.weights import written_whole

PRECISIONS = ("float32", "int8")

# On how many images answers are compared.
_COMPARED = 32


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    weights: str | None = None,
    precision: str = "float32",
    calibrate: str | None = None,
    verify: bool | None = None,
    overwrite: bool = False,
    verbose: bool = False,
) -> pathlib.Path:
    """Export a classifier as a file for ONNX Runtime, OpenVINO or LiteRT.

    The file takes `images`, float32 `(batch, height, width, 3)`, the crops that
    `load_image` cuts, with pixels in [0, 255], and gives `probabilities`, float32
    `(batch, classes)`. It normalises pixels itself, and its batch may be of any size
    (with LiteRT, after `resize_tensor_input`).

    Beside `m.onnx` lie `m.onnx.labels.txt`, a name a line in the order of the classes,
    and `m.onnx.keras_mixer.json`, which says what was exported from what, and how
    images are prepared. `keras-mixer predict --model=m.onnx` reads both.

    Args:
        model: A classifier of this package, or one built on it: its last layer gives
            probabilities or logits of shape `(batch, classes)`.
        path: The file to make, in a folder that exists: `.onnx` for ONNX Runtime,
            `.xml` for OpenVINO, which keeps weights in a `.bin` beside it, `.tflite`
            for LiteRT.
        format: `"onnx"`, `"openvino"` or `"litert"`, for a path without such a suffix,
            which gets it. `None` goes by the suffix.
        labels: Names of the classes in output order: a list, the path of a text file
            with one name a line, or a tag of the catalogue such as `"imagenet"`.
            `None` names them by their index.
        weights: Tag of the catalogue whose preprocessing to use, for a model that was
            built with `include_preprocessing=False`.
        precision: `"float32"`, or `"int8"` to store weights in a quarter of the size
            and to multiply in 8 bits. Answers change a little: how far is printed if
            `verbose`.
        calibrate: For int8, the data set that is like the images to come:
            `"folder:PATH"`, `"digits"` or the name of a TensorFlow Dataset.
            OpenVINO's scales are measured on 256 images of its training split, and
            answers of every format are compared on 32. `None` takes windows of the
            two photographs that come with scikit-learn.
        verify: Whether to load the file by its runtime alone, in a process of its own,
            and compare its probabilities with the model's before it appears. `None`
            does where the runtime is installed.
        overwrite: Whether to replace files that exist.
        verbose: Whether to print what is being done, and how to load the file.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ImportError: If what writes the format, or what verifies it, is not installed.
        ValueError: If the model is not such a classifier or is quantized, an argument
            does not fit it, a file exists, the data set is not found, the runtime
            lacks an operation of the model, the file fails verification, or Keras'
            backend is not TensorFlow. No file is left then.
    """
    check_backend("A file for another runtime")
    runtime, target = _runtime_of(pathlib.Path(path), format)
    check_choice("precision", precision, PRECISIONS)
    if calibrate is not None and precision != "int8":
        raise ValueError(
            "calibrate names the images to measure int8 on. Received: "
            f"calibrate={calibrate!r}, and precision={precision!r}. Leave it out."
        )
    classifier = classifier_of(model, labels, weights)
    _check_place(target, overwrite)
    verify = _check_installed(runtime, precision, verify)
    say = print if verbose else lambda text: None

    plain = served.served_model(model, "float32", lambda layer, c: layer.from_config(c))
    plain = dataclasses.replace(classifier, model=plain)
    portables = served.served_model(model, "float32", portable.served_layer)
    exported = dataclasses.replace(classifier, model=portables)
    if precision == "int8":
        say(f"Taking {calibrate or 'windows of two photographs'} to measure int8 on")
        images = calibration.sample_images(calibrate, classifier)
    else:
        images = _probes(classifier.size)
    say(f"Converting {model.name} in {precision}")
    with publishing.scratch_folder(target.parent) as folder:
        file = folder / target.name
        _write(runtime, _from_pixels(exported), file, precision, images)
        if verify:
            say(f"Verifying it with {runtime.NAME} alone")
            images = images[:_COMPARED]
            expected = np.asarray(plain.probabilities(images))
            found = verification.verify_file(
                runtime.__file__, file, images, expected, precision
            )
            say(f"Verified: {found}")
        described = card.describe(
            classifier, weights, precision, ("keras", *runtime.PACKAGES)
        )
        card_path(file).write_text(card.as_text(described), encoding="utf-8")
        lines = "".join(f"{label}\n" for label in classifier.labels)
        labels_path(file).write_text(lines, encoding="utf-8")
        _move(file, target, overwrite)
    say(f"Load it by {runtime.how_to_load(target)}")
    return target


def _runtime_of(path, name):
    if name is not None:
        check_choice("format", name, RUNTIMES)
        suffix = RUNTIMES[name].SUFFIX
        if path.suffix not in SUFFIXES:
            path = path.with_name(path.name + suffix)
        if path.suffix != suffix:
            raise ValueError(
                f"A file in the format {name} ends in {suffix}. Received: {path}."
            )
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"path must end in one of {', '.join(SUFFIXES)}, or format be one of "
            f"{', '.join(RUNTIMES)}. Received: {os.fspath(path)!r}, and format=None. "
            "A SavedModel is written by export_saved_model."
        )
    return RUNTIMES[SUFFIXES[path.suffix]], path


def _check_place(path, overwrite):
    if not path.parent.is_dir():
        raise ValueError(
            f"path must be in a folder that exists. Received: {str(path)!r}. Make the "
            "folder first."
        )
    _check_free(path, overwrite)


def _check_free(path, overwrite):
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(
            f"A file is replaced only when told so. Received: {str(path)!r}, which "
            "exists. Choose another name, or pass overwrite=True."
        )


def _check_installed(runtime, precision, verify):
    """Return whether to verify, having seen that everything needed is there."""
    with needs_extra(f"{runtime.SUFFIX} files", "runtimes"):
        for module in (
            *runtime.WRITERS[precision],
            *([runtime.RUNTIME] if verify else []),
        ):
            importlib.import_module(module)
    if verify is None:
        return importlib.util.find_spec(runtime.RUNTIME) is not None
    return verify


def _from_pixels(classifier):
    """The model from pixels in [0, 255] to probabilities, with names for both."""
    size = classifier.size
    images = keras.Input((size, size, 3), name="images", dtype="float32")
    model = keras.Model(images, {"probabilities": classifier.probabilities(images)})
    model(images)  # Keras exports to ONNX only what has been called
    return model


def _write(runtime, model, file, precision, images):
    try:
        with warnings.catch_warnings():
            # Of the converters, about NumPy and about themselves.
            warnings.simplefilter("ignore")
            runtime.write(model, file, precision, images)
    except Exception as error:  # each converter has kinds of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"The model must be made of operations that {runtime.NAME} has. Received: "
            f"{model.layers[-1].name!r}, which cannot be converted ({reason})."
        ) from error


def _probes(size):
    """Return images that are unlike each other: a pattern, noise, and grey."""
    ramp = np.linspace(0, 255, size)
    pattern = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1)
    noise = np.random.default_rng(0).uniform(0, 255, pattern.shape)
    return np.stack([pattern, noise, np.full_like(noise, 128)]).astype("float32")


def _move(file, target, overwrite):
    """Let what was written appear: the file that names the others last."""
    others = [path for path in sorted(file.parent.iterdir()) if path != file]
    places = {path: target.with_name(path.name) for path in (*others, file)}
    for place in places.values():
        _check_free(place, overwrite)
    for path, place in places.items():
        with written_whole(place) as temporary:
            os.replace(path, temporary)
