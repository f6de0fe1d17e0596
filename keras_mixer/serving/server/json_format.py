"""TensorFlow Serving's JSON: requests in row and column format to arrays, and back."""

import base64
import json
from reprlib import repr as brief

import numpy as np
import tensorflow as tf

from keras_mixer.serving.server.errors import invalid_argument


def parse_object(body):
    """Return the dict that the bytes of a request are."""
    try:
        document = json.loads(body)
    # For what is nested too deeply, no UTF-8, or a number of thousands of digits, too.
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {brief(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid_argument("'signature_name' key must be a string value.")
    return document


def read_input(document, name, dtype):
    """Read the tensor of a request.

    Args:
        document: Dict with `instances`, a list with an element for each item of the
            batch, or `inputs`, the tensor itself.
        name: Name of the tensor, which may be given.
        dtype: Its `tf.DType`: strings, or floats.

    Returns:
        `(array, by_row)`: the tensor, and whether the request was in row format.
    """
    by_row = "instances" in document
    if by_row == ("inputs" in document):
        raise invalid_argument("A request has one of the keys 'instances' and 'inputs'")
    value = document["instances" if by_row else "inputs"]
    if by_row and (not isinstance(value, list) or not value):
        raise invalid_argument("JSON Value: 'instances' must be a list with values")
    try:
        value = [_unnamed(x, name) for x in value] if by_row else _unnamed(value, name)
        array = np.array(_bytes(value), "O") if dtype == tf.string else np.array(value)
    # For lists of unlike lengths, or nested too deeply, and for half a character.
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Value: {brief(value)}: {error}") from error
    if dtype == tf.string:
        fits = all(isinstance(x, bytes) for x in array.ravel())
    else:
        fits = array.dtype.kind in "iuf"
    if not fits:
        sentence = f"JSON Value: {brief(value)} is not of expected type: {dtype.name}"
        raise invalid_argument(sentence)
    return array.astype(dtype.as_numpy_dtype), by_row


def write_outputs(outputs, by_row):
    """Return the JSON, as bytes, of a dict of arrays, in the format of the request."""
    columns = {
        # Objects are bytes, and all that an exported model has of them is text.
        name: (np.vectorize(bytes.decode, "O")(x) if x.dtype == object else x).tolist()
        for name, x in outputs.items()
    }
    answer = {"outputs": columns}
    if by_row:
        rows = zip(*columns.values(), strict=True)
        answer = {"predictions": [dict(zip(columns, x, strict=True)) for x in rows]}
    return json.dumps(answer, ensure_ascii=False).encode()


def _unnamed(value, name):
    """Return the value of `{name: value}`; what has no name is returned as it is."""
    if not isinstance(value, dict) or value.keys() == {"b64"}:
        return value
    if value.keys() != {name}:
        keys = brief([*value])
        raise invalid_argument(f"JSON object keys must be [{name!r}]. Received: {keys}")
    return value[name]


def _bytes(value):
    """Return nested lists of bytes, from text and from `{"b64": ...}`."""
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or not isinstance(value.get("b64"), str):
        sentence = f"JSON Value: {brief(value)} is not of expected type: string"
        raise invalid_argument(sentence)
    # The server does not ask for the padding.
    text = value["b64"] + "=" * (-len(value["b64"]) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        sentence = "Unable to base64 decode. The URL-safe alphabet is not the standard."
        raise invalid_argument(sentence) from error
