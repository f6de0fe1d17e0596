"""TensorFlow Serving's gRPC API: Predict, Classify, metadata, status and health."""

import concurrent.futures
import contextlib
import time

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_mixer.serving.server.errors import ServingError, invalid_argument

# Requests wait in threads of their own while they are batched.
_THREADS = 64


def start_server(address, manager, metrics, max_message_bytes, timeout_seconds):
    """Start a gRPC server.

    Args:
        address: `"host:port"`; port 0 takes a free one.
        manager: The `Manager` of the models.
        metrics: The server's `Metrics`.
        max_message_bytes: Size of the largest message that is read.
        timeout_seconds: How long a request may take to be answered.

    Returns:
        `(server, port)`.

    Raises:
        ValueError: If the address cannot be listened on.
    """
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Without it two servers could listen on the same port.
            ("grpc.so_reuseport", 0),
        ],
    )
    predictions = _Predictions(manager, metrics, timeout_seconds)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        predictions, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(manager), server)
    health_servicer = health.HealthServicer()
    health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ValueError(f"Cannot listen on {address} for gRPC: {error}") from error
    server.start()
    return server, port


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, manager, metrics, timeout_seconds):
        self._manager = manager
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    def Predict(self, request, context):
        with self._counted(request, context, "predict"):
            return self._predict(request, context)

    def Classify(self, request, context):
        with self._counted(request, context, "classify"):
            return self._classify(request, context)

    def GetModelMetadata(self, request, context):
        with _aborting(context):
            if list(request.metadata_field) != ["signature_def"]:
                raise invalid_argument(
                    "GetModelMetadataRequest must ask for the metadata_field "
                    f"signature_def. Received: {list(request.metadata_field)}"
                )
            with self._manager.use(request.model_spec) as servable:
                response = get_model_metadata_pb2.GetModelMetadataResponse()
                _fill_spec(response.model_spec, servable, "")
                response.metadata["signature_def"].Pack(
                    get_model_metadata_pb2.SignatureDefMap(
                        signature_def=servable.signatures
                    )
                )
                return response

    def _predict(self, request, context):
        spec = request.model_spec
        with self._manager.use(spec) as servable:
            signature = servable.signature(spec.signature_name)
            wanted = list(request.output_filter) or list(signature.outputs)
            for name in wanted:
                if name not in signature.outputs:
                    raise invalid_argument(
                        f"output tensor alias not found in signature: {name} Outputs "
                        "expected to be in the set "
                        f"{{{','.join(sorted(signature.outputs))}}}."
                    )
            declared = {name: _declared(name, t) for name, t in request.inputs.items()}
            servable.check(spec.signature_name, declared)
            inputs = {name: _ndarray(name, t) for name, t in request.inputs.items()}
            future = servable.submit(spec.signature_name, inputs)
            names = servable.output_names(spec.signature_name)
            response = predict_pb2.PredictResponse()
            _fill_spec(response.model_spec, servable, spec.signature_name)
        outputs = dict(zip(names, self._wait(future, context), strict=True))
        for name in wanted:
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    def _classify(self, request, context):
        spec = request.model_spec
        examples, context_example = _examples(request.input)
        with self._manager.use(spec) as servable:
            future = servable.classify(spec.signature_name, examples, context_example)
            response = classification_pb2.ClassificationResponse()
            _fill_spec(response.model_spec, servable, spec.signature_name)
        classes, scores = self._wait(future, context)
        for labels, values in zip(classes.tolist(), scores.tolist(), strict=True):
            classifications = response.result.classifications.add()
            for label, score in zip(labels, values, strict=True):
                classifications.classes.add(label=label.decode(), score=score)
        return response

    def _wait(self, future, context):
        timeout_seconds = self._timeout_seconds
        if context.time_remaining() is not None:
            timeout_seconds = min(timeout_seconds, context.time_remaining())
        # A client that has gone is no longer waited for, nor computed for.
        context.add_callback(future.cancel)
        try:
            return future.result(timeout_seconds)
        except concurrent.futures.CancelledError:
            raise ServingError(
                grpc.StatusCode.CANCELLED, "The client has gone."
            ) from None
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "The model did not answer in time."
            ) from None

    @contextlib.contextmanager
    def _counted(self, request, context, api):
        start_seconds = time.monotonic()
        status = "OK"
        try:
            with _aborting(context):
                try:
                    yield
                except ServingError as error:
                    status = error.code.name
                    raise
        finally:
            name = request.model_spec.name
            self._metrics.request(
                # Names that clients make up would fill the memory.
                name if self._manager.knows(name) else "",
                status,
                api,
                "GRPC",
                time.monotonic() - start_seconds,
            )


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, manager):
        self._manager = manager

    def GetModelStatus(self, request, context):
        with _aborting(context):
            if not request.HasField("model_spec"):
                raise invalid_argument("Missing ModelSpec")
            return self._manager.status(request.model_spec)


@contextlib.contextmanager
def _aborting(context):
    try:
        yield
    except ServingError as error:
        context.abort(error.code, error.message)


def _declared(name, tensor):
    """Return the `(dtype, shape)` that a `TensorProto` says it has."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        dtype = tf.dtypes.as_dtype(tensor.dtype)
    except TypeError:
        dtype = None
    if dtype is None or tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid_argument(
            f"Input {name} is not a tensor: its type or its shape is not one."
        )
    return dtype, shape


def _ndarray(name, tensor):
    try:
        return tf.make_ndarray(tensor)
    except Exception as error:
        raise invalid_argument(f"Input {name} is not a tensor: {error}") from error


def _examples(request_input):
    """Return the list of examples, and the example of what they share."""
    if request_input.WhichOneof("kind") == "example_list_with_context":
        found = request_input.example_list_with_context
        return list(found.examples), found.context
    return list(request_input.example_list.examples), tf.train.Example()


def _fill_spec(spec, servable, signature_name):
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name
