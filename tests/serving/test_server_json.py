"""The local server's JSON: requests to arrays, and back."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.serving.server import json_format
from keras_mixer.serving.server.errors import Code, ServingError

STRING, FLOAT = tf.string, tf.float32


def read(document, dtype=FLOAT):
    """Read a document, or bytes, for a model of one signature from tensor `x`."""
    signature = types.SimpleNamespace(input_name="x", spec=tf.TensorSpec([None], dtype))
    model = types.SimpleNamespace(signature=lambda name: signature)
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    found, array, by_row = json_format.read_request(body, model)
    assert found is signature
    return array, by_row


@pytest.mark.parametrize(
    "document, dtype, expected",
    [
        ({"instances": [1, 2.5]}, FLOAT, [1.0, 2.5]),
        ({"instances": [[1], [2]]}, FLOAT, [[1], [2]]),
        ({"instances": ["ü", {"b64": "AP8"}]}, STRING, ["ü".encode(), b"\x00\xff"]),
        ({"instances": [{"b64": "AP8="}]}, STRING, [b"\x00\xff"]),
        ({"instances": [{"x": "a"}, {"x": {"b64": ""}}]}, STRING, [b"a", b""]),
        ({"inputs": [1.5]}, FLOAT, [1.5]),
        ({"inputs": {"x": [1, 2]}}, FLOAT, [1, 2]),
        ({"inputs": []}, FLOAT, []),
        ({"inputs": ["a"]}, STRING, [b"a"]),
    ],
)
def test_read_request(document, dtype, expected):
    array, by_row = read(document, dtype)
    assert array.tolist() == expected
    assert array.dtype == dtype.as_numpy_dtype
    assert by_row == ("instances" in document)


@pytest.mark.parametrize(
    "document, dtype, message",
    [
        ({}, FLOAT, "'instances' and 'inputs'"),
        ({"inputs": 1, "instances": [1]}, FLOAT, "has one of the keys"),
        ({"instances": {"x": 1}}, FLOAT, "must be a list with values"),
        ({"instances": []}, FLOAT, "must be a list with values"),
        ({"instances": ["a"]}, FLOAT, "not of expected type: float32"),
        ({"instances": [None]}, FLOAT, "not of expected type: float32"),
        ({"instances": [True]}, FLOAT, "not of expected type: float32"),
        ({"instances": [10**400]}, FLOAT, "not of expected type: float32"),
        ({"instances": [[1], [1, 2]]}, FLOAT, "lists of the same length"),
        ({"instances": [["a"], "b"]}, STRING, "not of expected type: string"),
        ({"instances": [["a"], ["b", "c"]]}, STRING, "not of expected type: string"),
        ({"instances": [["a", ["b"]]]}, STRING, "not of expected type: string"),
        ({"instances": [1]}, STRING, "not of expected type: string"),
        ({"instances": [{"b64": 1}]}, STRING, "not of expected type: string"),
        ({"instances": [{"b64": "_-8="}]}, STRING, "URL-safe"),
        ({"instances": [{"b64": "a*c="}]}, STRING, "base64 decode"),
        ({"instances": [{"b64": "A"}]}, STRING, "base64 decode"),
        ({"instances": [{"b64": "ü"}]}, STRING, "base64 decode"),
        ({"instances": [{"b64": "A=A="}]}, STRING, "base64 decode"),
        ({"instances": ["\ud800"]}, STRING, "not of expected type: string"),
        ({"instances": [1, {"y": 1}]}, FLOAT, "keys must be equal to: x"),
        ({"instances": [{"x": 1, "y": 2}]}, FLOAT, "keys must be equal to: x"),
        ({"inputs": {"y": 1}}, FLOAT, "keys must be equal to: x"),
    ],
)
def test_read_request_refused(document, dtype, message):
    with pytest.raises(ServingError, match=message) as raised:
        read(document, dtype)
    assert raised.value.code == Code.INVALID_ARGUMENT
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("dtype", [STRING, FLOAT])
@pytest.mark.parametrize("depth", [70, 900, 5000])
def test_read_request_refuses_what_is_nested_too_deeply(dtype, depth):
    body = b'{"instances": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(ServingError):
        array, _ = read(body, dtype)
        # NumPy takes so many dimensions, and no signature has them.
        assert array.ndim <= 64
        raise ServingError(Code.INVALID_ARGUMENT, "")


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "Parse error"),
        (b"{", r"Parse error.* \(char 1\)"),
        (b"[1]", r"\[1\] Is not object"),
        (b"\xff", "Parse error"),
        (b"[" * 200_000, "Parse error"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Parse error"),
    ],
    ids=["empty", "cut off", "list", "not UTF-8", "deep", "digits"],
)
def test_read_request_refuses_what_is_no_object(body, message):
    with pytest.raises(ServingError, match=message):
        read(body)


def test_write_outputs_by_row_and_by_column():
    outputs = {
        "labels": np.array([[b"\xc3\xbc"], [b""]], object),
        "scores": np.array([[0.5], [np.nan]], "float32"),
    }
    by_column = json_format.write_outputs(outputs, False)
    assert by_column.decode() == (
        '{"outputs": {"labels": [["ü"], [""]], "scores": [[0.5], [NaN]]}}'
    )
    rows = json.loads(json_format.write_outputs(outputs, True))["predictions"]
    assert rows[0] == {"labels": ["ü"], "scores": [0.5]}
    empty = {name: output[:0] for name, output in outputs.items()}
    assert json.loads(json_format.write_outputs(empty, True)) == {"predictions": []}
