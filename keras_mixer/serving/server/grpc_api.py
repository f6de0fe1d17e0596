"""TensorFlow Serving's gRPC API: Predict, metadata, status, and gRPC's health."""

import asyncio

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc as models_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as predictions_pb2

from keras_mixer.serving.server.errors import ServingError

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    # Without it two servers could listen on the same port.
    ("grpc.so_reuseport", 0),
    # Who connects and says nothing is not waited for.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
]


async def make_server(versions, max_bytes, timeout_seconds):
    """Return a `grpc.aio.Server` for `Versions`, to be given a port and started."""
    limit = ("grpc.max_receive_message_length", max_bytes)
    server = grpc.aio.server(options=[*_OPTIONS, limit])
    api = _Api(versions, timeout_seconds)
    predictions_pb2.add_PredictionServiceServicer_to_server(api, server)
    models_pb2.add_ModelServiceServicer_to_server(api, server)
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server


def _aborting(method):
    async def call(self, request, context):
        try:
            return await method(self, request)
        except ServingError as error:
            await context.abort(error.code, str(error))

    return call


class _Api(predictions_pb2.PredictionServiceServicer, models_pb2.ModelServiceServicer):
    def __init__(self, versions, timeout_seconds):
        self._versions = versions
        self._timeout_seconds = timeout_seconds

    @_aborting
    async def Predict(self, request):
        model = self._versions.find(request.model_spec)
        signature = model.signature(request.model_spec.signature_name)
        rows = await asyncio.to_thread(_rows, request, signature)
        outputs = await signature.predict(rows, self._timeout_seconds)
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        response.model_spec.version.value = model.number
        for name in request.output_filter or outputs:
            if name not in outputs:
                raise ServingError(
                    f"output tensor alias not found in signature: {name}"
                )
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    @_aborting
    async def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise ServingError("The metadata_field is signature_def, and no other.")
        return self._versions.metadata(request.model_spec)

    @_aborting
    async def GetModelStatus(self, request):
        return self._versions.status(request.model_spec)


def _rows(request, signature):
    """Return the array of a `PredictRequest`, once it declares to be what it should."""
    name = signature.input_name
    if list(request.inputs) != [name]:
        raise ServingError(f"inputs must be [{name!r}]. Received: {[*request.inputs]}")
    proto = request.inputs[name]
    try:
        signature.check(tf.TensorSpec(tf.TensorShape(proto.tensor_shape), proto.dtype))
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise ServingError(f"{name} is not a tensor: {error}") from error
