"""TensorFlow Serving's JSON: requests in row and column format to arrays, and back."""

import base64
import json
from reprlib import repr as brief

import numpy as np
import tensorflow as tf

from keras_mixer.serving.server.errors import ServingError


def read_request(body, model):
    """Return `(signature, rows, by_row)` of the bytes of a request to a `SavedModel`.

    By row there is a list of items, in `instances`, and else the tensor, in `inputs`.
    """
    try:
        document = json.loads(body)
    # For what is nested too deeply, no UTF-8, or a number of thousands of digits, too.
    except (ValueError, RecursionError) as error:
        raise ServingError(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise ServingError(f"JSON Value: {brief(document)} Is not object")
    signature = model.signature(document.get("signature_name"))
    by_row = "instances" in document
    if by_row == ("inputs" in document):
        raise ServingError("A request has one of the keys 'instances' and 'inputs'")
    value = document["instances" if by_row else "inputs"]
    if by_row and (not isinstance(value, list) or not value):
        raise ServingError("JSON Value: 'instances' must be a list with values")
    name, dtype = signature.input_name, signature.spec.dtype
    value = [_unnamed(x, name) for x in value] if by_row else _unnamed(value, name)
    return signature, _array(value, dtype), by_row


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
        raise ServingError(f"JSON object keys must be equal to: {name}")
    return value[name]


def _array(value, dtype):
    """Return an array of strings, or of floats, as a signature takes them."""
    try:
        if dtype == tf.string:
            array = np.array(_bytes(value), object)
            fits = all(isinstance(x, bytes) for x in array.ravel())
        else:
            array = np.array(value)
            fits = array.dtype.kind in "iuf"
    # For lists of unlike lengths, or nested too deeply, and for half a character.
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        what = f"{dtype.name}, in lists of the same length"
        raise ServingError(
            f"JSON Value: {brief(value)} is not of expected type: {what}"
        )
    return array.astype(dtype.as_numpy_dtype)


def _bytes(value):
    """Return lists of bytes, from text and from `{"b64": ...}`."""
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or not isinstance(value.get("b64"), str):
        raise ServingError(
            f"JSON Value: {brief(value)} is not of expected type: string"
        )
    # The server does not ask for the padding.
    text = value["b64"] + "=" * (-len(value["b64"]) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        sentence = "Unable to base64 decode. The URL-safe alphabet is not the standard."
        raise ServingError(sentence) from error
