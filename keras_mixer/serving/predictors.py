"""Whatever labels images, asked one way: a model, an exported one, or a server."""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_mixer.catalog import check_choice, check_positive
from keras_mixer.serving import client, publishing, runtimes
from keras_mixer.serving.answers import Answer, Predictor

if TYPE_CHECKING:
    import keras

# Nothing here imports Keras or TensorFlow before a model needs it: `keras-mixer query`
# asks servers without either.

PRECISIONS = ("float32", "bfloat16")


def open_predictor(
    model: "keras.Model | str | os.PathLike[str]",
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    top_k: int = 5,
    features: bool = False,
    precision: str = "float32",
) -> Predictor:
    """Open whatever labels images.

    Args:
        model: A Keras model; a named one, such as `"MlpMixerB16"`; the path of a
            `.keras` file or of a training run's folder; a repository of the Hugging
            Face Hub, `hf://org/repo`; an exported `.onnx`, `.xml` or `.tflite` file;
            the folder of a SavedModel or of its versions, of which the highest is
            taken; or the URL of a model on a server, `http://HOST:PORT/v1/models/NAME`
            or the same with `https` or `grpc`. A SavedModel is a program: open one only
            if you trust who made it.
        weights: For a named model: a tag of the catalogue, a path or `hf://org/repo`,
            `"imagenet"` if None. For a model that was built with
            `include_preprocessing=False`: the tag that says how to prepare images.
        labels: Names of the classes: a list, the path of a text file with one a line,
            or a tag. `None` finds them as `keras-mixer predict` says. A server and a
            SavedModel have their own.
        top_k: How many classes to name, at most; these may name fewer.
        features: Whether answers have the pooled embedding, too; of a Keras model.
        precision: `"float32"`, or `"bfloat16"` to compute the matrix products of a
            Keras model so. What was exported has its own.

    Returns:
        A `Predictor`.

    Raises:
        ImportError: If the runtime of an exported file is not installed.
        ValueError: If there is no such model, or an argument does not fit it.
    """
    check_positive("top_k", top_k)
    check_choice("precision", precision, PRECISIONS)
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    is_file = pathlib.Path(name).suffix in runtimes.SUFFIXES
    version = _saved_model(name)
    is_of_server = "://" in name and not name.startswith("hf://")
    if not is_file and version is None and not is_of_server:
        from keras_mixer.serving import crops

        return crops.open_keras(model, weights, labels, top_k, features, precision)
    _check_none(
        name,
        weights=weights,
        labels=None if is_file else labels,
        features=features or None,
        precision=None if precision == "float32" else precision,
    )
    if is_file:
        from keras_mixer.serving import crops

        return crops.open_file(pathlib.Path(name), labels, top_k)
    if version is not None:
        return SavedModelPredictor(version, top_k)
    return ServerPredictor(name, top_k)


def _saved_model(name):
    """The folder of a SavedModel that `name` is, or the highest version in it."""
    folders = [pathlib.Path(name), *publishing.versions(name).values()]
    found = [folder for folder in folders if (folder / "saved_model.pb").is_file()]
    return found[-1] if name and found else None


def _check_none(name, **arguments):
    for argument, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{argument} is for a Keras model; what was exported has its own. "
                f"Received: {argument}={value!r}, and {name}. Leave {argument} out."
            )


class ServerPredictor:
    """Asks a model server; the files go as they are.

    Args:
        url: As `keras_mixer.serving.client.connect` takes it.
        top_k: How many of the server's guesses to keep.
        timeout_seconds: How long a request may take.
        retries: How often to try again when the server is not there or busy.
    """

    def __init__(
        self,
        url: str,
        top_k: int | None = None,
        timeout_seconds: float = 60.0,
        retries: int = 3,
    ) -> None:
        self._client = client.connect(url, timeout_seconds)
        self._top_k = top_k
        self._retries = retries

    def prepare(self, file: bytes) -> bytes:
        return file

    def predict(self, prepared: Sequence[bytes]) -> list[Answer]:
        files = list(prepared)
        rows = client.with_retries(lambda: self._client.predict(files), self._retries)
        return [_answer(row, self._top_k, "server") for row in rows]


class SavedModelPredictor:
    """Runs a SavedModel here, by TensorFlow; the files go as they are.

    Args:
        folder: Of the SavedModel: a version.
        top_k: How many of its guesses to keep.

    Raises:
        ValueError: If it is not a SavedModel that this package exported.
    """

    def __init__(self, folder: pathlib.Path, top_k: int) -> None:
        import tensorflow as tf

        self._top_k = top_k
        try:
            self._loaded = tf.saved_model.load(os.fspath(folder))
            self._serve = self._loaded.signatures["serving_default"]
            inputs = self._serve.structured_input_signature[1]
        except Exception as error:  # TensorFlow meets what is damaged with any kind
            inputs, reason = {}, " ".join(str(error).split())[:300]
        else:
            reason = f"its inputs are {', '.join(inputs)}"
        if "image_bytes" not in inputs:
            raise ValueError(
                "A SavedModel must be whole and exported by this package. Received: "
                f"{folder} ({reason})."
            )

    def prepare(self, file: bytes) -> bytes:
        return file

    def predict(self, prepared: Sequence[bytes]) -> list[Answer]:
        import tensorflow as tf

        outputs = self._serve(image_bytes=tf.constant(list(prepared), tf.string))
        arrays = {name: value.numpy() for name, value in outputs.items()}
        rows = client.rows(arrays)
        return [_answer(row, self._top_k, "exported model") for row in rows]


def _answer(row, top_k, reader):
    if not row["valid"]:
        return Answer(error=f"not an image that the {reader} can read")
    ranked = zip(row["top_k_labels"], row["top_k_scores"], strict=True)
    guesses = [(label, label, score) for label, score in ranked]
    return Answer(tuple(guesses[:top_k]))
