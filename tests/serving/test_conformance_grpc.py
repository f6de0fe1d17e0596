"""Conformance to TensorFlow Serving's gRPC API; see `conformance_servers`."""

import grpc
import pytest
import tensorflow as tf
from conformance_servers import OUTPUTS, assert_same, newest_version
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def channel(server):
    if server.grpc is None:
        pytest.skip("No --server-grpc was given.")
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_of(server, *images, signature_name=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = server.model
    request.model_spec.signature_name = signature_name
    tensor = tf.make_tensor_proto(list(images), tf.string, shape=[len(images)])
    request.inputs["image_bytes"].CopyFrom(tensor)
    return request


def test_grpc_predict(server, predictions, files, answers):
    response = predictions.Predict(request_of(server, *files.values()), 60)
    assert response.model_spec.version.value == newest_version(server)
    columns = {k: tf.make_ndarray(t).tolist() for k, t in response.outputs.items()}
    assert columns.keys() == OUTPUTS
    for i, expected in enumerate(answers):
        row = {name: column[i] for name, column in columns.items()}
        row["top_k_labels"] = [label.decode() for label in row["top_k_labels"]]
        assert_same(row, expected)


def test_grpc_predict_gives_the_outputs_that_are_asked_for(server, predictions, files):
    request = request_of(server, files["cat"])
    request.output_filter.append("top_k_scores")
    assert predictions.Predict(request, 60).outputs.keys() == {"top_k_scores"}


def spoiled(server, files):
    """Requests, each with its code."""
    codes = grpc.StatusCode
    request = request_of(server, files["cat"])
    for part in ["signature", "model", "version", "label", "output", "dtype", "shape"]:
        spoiled = predict_pb2.PredictRequest()
        spoiled.CopyFrom(request)
        code = codes.INVALID_ARGUMENT
        if part == "signature":
            spoiled.model_spec.signature_name = "nope"
            code = codes.FAILED_PRECONDITION
        elif part == "model":
            spoiled.model_spec.name = "nope"
            code = codes.NOT_FOUND
        elif part == "version":
            spoiled.model_spec.version.value = 999_999
            code = codes.NOT_FOUND
        elif part == "label":
            spoiled.model_spec.version_label = "nope"
        elif part == "output":
            spoiled.output_filter.append("nope")
        elif part == "dtype":
            spoiled.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([1.0]))
        elif part == "shape":
            spoiled.inputs["image_bytes"].tensor_shape.dim.add(size=1)
        yield part, spoiled, code
    yield "no inputs", request_of(server), codes.INVALID_ARGUMENT
    unnamed = request_of(server, files["cat"])
    unnamed.inputs["nope"].CopyFrom(unnamed.inputs["image_bytes"])
    yield "input", unnamed, codes.INVALID_ARGUMENT
    unnamed = request_of(server, files["cat"])
    unnamed.model_spec.name = ""
    yield "no model", unnamed, codes.INVALID_ARGUMENT


def test_grpc_refuses_with_a_code_and_a_sentence(server, predictions, files):
    for part, request, code in spoiled(server, files):
        if part == "no inputs":
            request.inputs.clear()
        with pytest.raises(grpc.RpcError) as raised:
            predictions.Predict(request, 60)
        assert raised.value.code() == code, (part, raised.value.details())
        assert len(raised.value.details()) > 10
    assert server.ask(files["cat"])[0]["valid"]


def test_grpc_metadata(server, predictions):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = server.model
    request.metadata_field.append("signature_def")
    response = predictions.GetModelMetadata(request, 60)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].outputs.keys() == OUTPUTS
    request.metadata_field[0] = "nope"
    with pytest.raises(grpc.RpcError) as raised:
        predictions.GetModelMetadata(request, 60)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_status(server, channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = server.model
    statuses = stub.GetModelStatus(request, 60).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    versions = [s.version for s in statuses if s.state == available]
    assert newest_version(server) in versions
    request.model_spec.name = "nope"
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetModelStatus(request, 60)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
