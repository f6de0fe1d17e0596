"""Clients of TensorFlow Serving's Predict API for image files, over REST and gRPC."""

import base64
import re
import time

from keras_mixer.catalog import needs_extra

_URL = re.compile(
    r"(?P<scheme>https?|grpc)://(?P<address>[^/]+)"
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?/?"
)

# Statuses that say "not now", not "not so".
_TRY_AGAIN = {429, 502, 503, 504}

MAX_MESSAGE_BYTES = 64 * 2**20


class ServerError(ValueError):
    """A request that was not answered.

    Args:
        message: A sentence.
        try_again: Whether the same request may succeed later.
    """

    def __init__(self, message, try_again):
        super().__init__(message)
        self.try_again = try_again


def connect(url, timeout_seconds):
    """Return a client of the model at `url`. A client belongs to one thread.

    Args:
        url: `http://HOST:PORT/v1/models/NAME`, or the same with `https` or `grpc`;
            `/versions/N` or `/labels/LABEL` may follow.
        timeout_seconds: How long a request may take.

    Returns:
        An object with `predict(files)`: from a list of the bytes of image files to a
        list of dicts with `valid`, `top_k_labels`, `top_k_scores`, `top_k_indices`.
        It raises `ServerError`.

    Raises:
        ValueError: If the URL is not so formed.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(
            "The URL of a model is http://HOST:PORT/v1/models/NAME, or "
            "grpc://HOST:PORT/v1/models/NAME; /versions/N or /labels/LABEL may follow. "
            f"Received: {url}."
        )
    if match["scheme"] == "grpc":
        return _GrpcClient(match, timeout_seconds)
    return _RestClient(url.rstrip("/"), timeout_seconds)


def with_retries(call, retries):
    """Call until it succeeds, `retries` more times at most, waiting longer each time.

    Args:
        call: Function without arguments.
        retries: How many more times; each waits twice as long, from 0.2 seconds.

    Returns:
        What `call` returns.

    Raises:
        ServerError: The last one, or one that trying again cannot mend.
    """
    for attempt in range(retries):
        try:
            return call()
        except ServerError as error:
            if not error.try_again:
                raise
        time.sleep(0.2 * 2**attempt)
    return call()


class _RestClient:
    def __init__(self, url, timeout_seconds):
        with needs_extra("Serving and asking a server", "serve"):
            import requests

        self._requests = requests
        self._url = f"{url}:predict"
        self._timeout_seconds = timeout_seconds
        self._session = requests.Session()

    def predict(self, files):
        instances = [{"b64": base64.b64encode(file).decode()} for file in files]
        try:
            response = self._session.post(
                self._url, json={"instances": instances}, timeout=self._timeout_seconds
            )
        except self._requests.RequestException as error:
            message = f"{self._url} cannot be reached: {type(error).__name__}."
            raise ServerError(message, try_again=True) from error
        try:
            answer = response.json()
            if response.status_code == 200:
                return answer["predictions"]
            message = answer["error"]
        except (ValueError, KeyError, TypeError):
            message = f"not an answer of a model server: {response.text[:80]!r}"
        raise ServerError(
            f"{self._url} answered {response.status_code}: {message}",
            try_again=response.status_code in _TRY_AGAIN,
        )


class _GrpcClient:
    def __init__(self, match, timeout_seconds):
        # Only here: a client of the REST API needs neither TensorFlow nor gRPC.
        with needs_extra("Serving and asking a server", "serve"):
            import grpc
            import tensorflow as tf
            from tensorflow_serving.apis import (
                predict_pb2,
                prediction_service_pb2_grpc,
            )

        self._grpc, self._tf = grpc, tf
        self._address = match["address"]
        self._timeout_seconds = timeout_seconds
        self._request = predict_pb2.PredictRequest()
        self._request.model_spec.name = match["name"]
        if match["version"]:
            self._request.model_spec.version.value = int(match["version"])
        if match["label"]:
            self._request.model_spec.version_label = match["label"]
        # gRPC's own limit for what a client receives is 4 MiB.
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        channel = grpc.insecure_channel(self._address, options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def predict(self, files):
        tensor = self._tf.make_tensor_proto(files, shape=[len(files)])
        self._request.inputs["image_bytes"].CopyFrom(tensor)
        try:
            response = self._stub.Predict(self._request, self._timeout_seconds)
        except self._grpc.RpcError as error:
            codes = self._grpc.StatusCode
            raise ServerError(
                f"grpc://{self._address} answered {error.code().name}: "
                f"{error.details()}",
                try_again=error.code()
                in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.ABORTED),
            ) from error
        outputs = response.outputs.items()
        return rows({name: self._tf.make_ndarray(tensor) for name, tensor in outputs})


def rows(outputs):
    """Return what a model says of each image, as a list of dicts.

    Args:
        outputs: Dict of the arrays of the signature `serving_default`.
    """
    columns = {name: array.tolist() for name, array in outputs.items()}
    labels = columns["top_k_labels"]
    columns["top_k_labels"] = [[x.decode() for x in row] for row in labels]
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
