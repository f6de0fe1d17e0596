"""The local server's JSON: requests to arrays, and back."""

import json

import numpy as np
import pytest
from tensorflow.core.protobuf import meta_graph_pb2

from keras_mixer.serving.server import json_format
from keras_mixer.serving.server.errors import ServingError


def signature(**inputs):
    definition = meta_graph_pb2.MetaGraphDef().signature_def["serving_default"]
    for name, dtype in inputs.items():
        definition.inputs[name].dtype = dtype
    return definition


STRING, FLOAT, INT32, BOOL = 7, 1, 3, 10


@pytest.mark.parametrize(
    "document, definition, expected",
    [
        ({"instances": [1, 2.5]}, signature(x=FLOAT), {"x": [1.0, 2.5]}),
        ({"instances": [[1], [2]]}, signature(x=INT32), {"x": [[1], [2]]}),
        ({"instances": [True]}, signature(x=BOOL), {"x": [True]}),
        ({"instances": ["ü", {"b64": "AP8"}]}, signature(x=STRING), None),
        ({"inputs": [1.5]}, signature(x=FLOAT), {"x": [1.5]}),
        (
            {"instances": [{"x": 1, "y": "a"}, {"y": "b", "x": 2}]},
            signature(x=INT32, y=STRING),
            {"x": [1, 2], "y": [b"a", b"b"]},
        ),
        (
            {"inputs": {"x": [1], "y": ["a"]}},
            signature(x=INT32, y=STRING),
            {"x": [1], "y": [b"a"]},
        ),
    ],
)
def test_predict_inputs(document, definition, expected):
    inputs, by_row = json_format.predict_inputs(document, definition)
    expected = expected or {"x": ["ü".encode(), b"\x00\xff"]}
    assert {name: value.tolist() for name, value in inputs.items()} == expected
    assert by_row == ("instances" in document)


@pytest.mark.parametrize(
    "document, definition, message",
    [
        ({}, signature(x=FLOAT), "Missing 'inputs' or 'instances'"),
        ({"inputs": 1, "instances": [1]}, signature(x=FLOAT), "only one of"),
        ({"instances": {"x": 1}}, signature(x=FLOAT), "list/array"),
        ({"instances": []}, signature(x=FLOAT), "No values"),
        ({"instances": ["a"]}, signature(x=FLOAT), "not of expected type: float32"),
        ({"instances": [None]}, signature(x=FLOAT), "not of expected type: float32"),
        ({"instances": [True]}, signature(x=FLOAT), "not of expected type: float32"),
        ({"instances": [1.5]}, signature(x=INT32), "not of expected type: int32"),
        ({"instances": [[1], [1, 2]]}, signature(x=FLOAT), "same length"),
        ({"instances": [["a"], "b"]}, signature(x=STRING), "same length"),
        ({"instances": [{"b64": 1}]}, signature(x=STRING), "keys must be equal to: x"),
        ({"instances": [{"b64": "_-8="}]}, signature(x=STRING), "URL-safe"),
        ({"instances": [{"b64": "a*c="}]}, signature(x=STRING), "base64 decode"),
        ({"instances": [{"b64": "A"}]}, signature(x=STRING), "base64 decode"),
        ({"instances": [{"b64": "ü"}]}, signature(x=STRING), "base64 decode"),
        ({"instances": [1, {"x": 1}]}, signature(x=FLOAT), "value/list but got object"),
        ({"instances": [{"x": 1}, 1]}, signature(x=FLOAT), "object but got list"),
        ({"instances": [{"z": 1}]}, signature(x=FLOAT), "keys must be equal to: x"),
        ({"instances": [1]}, signature(x=FLOAT, y=FLOAT), "multiple input tensors"),
        ({"inputs": {"y": 1}}, signature(x=FLOAT), "Missing named input: x"),
    ],
)
def test_predict_inputs_refused(document, definition, message):
    with pytest.raises(ServingError, match=message) as raised:
        json_format.predict_inputs(document, definition)
    assert raised.value.http_status == 400


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "Parse error"),
        (b"{", "Parse error.* at offset: 1"),
        (b"[1]", r"\[1\] Is not object"),
        (b"\xff", "Parse error"),
        (b"[" * 200_000, "Parse error"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Parse error"),
        (b'{"signature_name": 3}', "must be a string"),
    ],
    ids=["empty", "cut off", "list", "not UTF-8", "deep", "digits", "signature"],
)
def test_parse_object_refused(body, message):
    with pytest.raises(ServingError, match=message):
        json_format.parse_object(body)


def test_classify_examples_and_what_they_share():
    document = {
        "context": {"size": 3},
        "examples": [{"image": {"b64": "AP8="}}, {"image": "a", "weight": [1.5, 2.5]}],
    }
    (first, second), context = json_format.classify_examples(document)
    assert first.features.feature["image"].bytes_list.value == [b"\x00\xff"]
    assert second.features.feature["weight"].float_list.value == [1.5, 2.5]
    assert context.features.feature["size"].int64_list.value == [3]


def test_predict_response_tells_text_from_bytes():
    outputs = [np.array([b"\xc3\xbc"], object), np.array([b"\x00"], object)]
    row = json_format.predict_response(["text", "raw_bytes"], outputs, True)
    expected = {"predictions": [{"text": "ü", "raw_bytes": {"b64": "AA=="}}]}
    assert json.loads(row) == expected
