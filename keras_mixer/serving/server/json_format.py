"""TensorFlow Serving's JSON: requests in row and column format to arrays, and back."""

import base64
import binascii
import contextlib
import json

import numpy as np
import tensorflow as tf

from keras_mixer.serving.server.errors import invalid_argument


@contextlib.contextmanager
def _the_clients_mistakes():
    """Refuse what Python cannot read, whatever it raises: depth, surrogates, digits."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise invalid_argument(
            f"JSON Parse error: {type(error).__name__}. It is nested too deeply, or "
            "has text or numbers that no tensor has."
        ) from error


@_the_clients_mistakes()
def parse_object(body):
    """Parse a request's body.

    Args:
        body: Bytes, a JSON object in UTF-8.

    Returns:
        The dict.

    Raises:
        ServingError: If it is not one.
    """
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid_argument(
            f"JSON Parse error: {error.msg} at offset: {error.pos}"
        ) from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_brief(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid_argument(
            "JSON Value is not formatted correctly. 'signature_name' key must be a "
            "string value."
        )
    return document


@_the_clients_mistakes()
def predict_inputs(document, signature):
    """Turn a Predict request into arrays.

    Args:
        document: Dict with `instances`, a list with an element for each item of the
            batch, or `inputs`, the tensors themselves.
        signature: The `SignatureDef`.

    Returns:
        `(inputs, by_row)`: dict of arrays, and whether the request was in row format.

    Raises:
        ServingError: If a value does not fit the signature.
    """
    by_row = "instances" in document
    if by_row == ("inputs" in document):
        raise invalid_argument(
            "Missing 'inputs' or 'instances' key"
            if not by_row
            else "JSON Value is not formatted correctly, expecting only one of "
            "'inputs' or 'instances' keys to exist"
        )
    if by_row:
        values = _columns(document["instances"], signature)
    else:
        values = document["inputs"]
    if not _is_named(values):
        if len(signature.inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple "
                f"input tensors required: {_names(signature)}"
            )
        values = {next(iter(signature.inputs)): values}
    inputs = {}
    for name, info in signature.inputs.items():
        if name not in values:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        inputs[name] = _array(values[name], tf.dtypes.as_dtype(info.dtype))
    return inputs, by_row


def predict_response(names, outputs, by_row):
    """Write the answer of Predict in the format of its request.

    Args:
        names: Names of the outputs.
        outputs: List of arrays, the batch first.
        by_row: Whether the request was in row format.

    Returns:
        JSON, as bytes.
    """
    columns = {
        name: _plain(name, output) for name, output in zip(names, outputs, strict=True)
    }
    if not by_row:
        only = next(iter(columns.values()))
        return _dump({"outputs": columns if len(columns) > 1 else only})
    rows = [
        dict(zip(columns, row, strict=True)) if len(columns) > 1 else row[0]
        for row in zip(*columns.values(), strict=True)
    ]
    return _dump({"predictions": rows})


@_the_clients_mistakes()
def classify_examples(document):
    """Turn a Classify request into `tf.train.Example`s.

    Args:
        document: Dict with `examples`, a list of objects `{feature: value}`, and
            optionally `context`, features that all of them share.

    Returns:
        `(examples, context)`: a list, and one example.

    Raises:
        ServingError: If it is not so formed.
    """
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise invalid_argument(
            "When method is classify, key 'examples' is expected with a list that is "
            "not empty"
        )
    context = _example(document.get("context", {}))
    return [_example(item) for item in examples], context


def classify_response(classes, scores):
    """Write the answer of Classify: for each item a list of `[label, score]`."""
    return _dump(
        {
            "results": [
                [[label.decode(), score] for label, score in zip(*row, strict=True)]
                for row in zip(classes.tolist(), scores.tolist(), strict=True)
            ]
        }
    )


def _columns(instances, signature):
    if not isinstance(instances, list):
        raise invalid_argument("JSON Value: Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument("JSON Value: No values in 'instances' array")
    if not _is_named(instances[0]):
        for index, item in enumerate(instances):
            if _is_named(item):
                raise invalid_argument(
                    f"Expecting value/list but got object at item {index} of input list"
                )
        return instances
    columns = {name: [] for name in signature.inputs}
    for index, item in enumerate(instances):
        if not _is_named(item):
            raise invalid_argument(
                f"Expecting object but got list at item {index} of input list"
            )
        if set(item) != set(columns):
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object "
                f"keys must be equal to: {_names(signature)}"
            )
        for name, value in item.items():
            columns[name].append(value)
    return columns


# Which kinds of JSON numbers (NumPy's letters) a tensor of a kind takes.
_KINDS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}


def _array(value, dtype):
    try:
        if dtype == tf.string:
            array = np.array(_bytes(value), dtype=object)
            ragged = any(isinstance(item, list) for item in array.flat)
        else:
            array, ragged = np.array(value), False
    except ValueError:
        ragged = True
    if ragged:
        raise invalid_argument(
            "JSON Value: the lists of a tensor must have the same length at each "
            f"level. Received: {_brief(value)}"
        )
    if dtype == tf.string:
        return array
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    if array.size and array.dtype.kind not in _KINDS[numpy_dtype.kind]:
        raise invalid_argument(
            f"JSON Value: {_brief(value)} is not of expected type: {dtype.name}"
        )
    return array.astype(numpy_dtype)


def _bytes(value):
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise invalid_argument(
                f"JSON Value: {_brief(value)} is no text: it has half a character."
            ) from error
    if not _is_base64(value):
        raise invalid_argument(
            f"JSON Value: {_brief(value)} is not of expected type: string. Bytes are "
            'written as {"b64": "..."}.'
        )
    # The server does not ask for the padding.
    digits = value["b64"].rstrip("=")
    try:
        decoded = binascii.a2b_base64(digits + "=" * (-len(digits) % 4))
    except ValueError:
        decoded = None
    # It skips what is not of the alphabet; asking it not to takes longer than this.
    if decoded is None or len(decoded) != len(digits) * 3 // 4:
        raise invalid_argument(
            "Unable to base64 decode. The alphabet is the standard one, with + and /, "
            "not the URL-safe one."
        )
    return decoded


def _example(features):
    if not isinstance(features, dict):
        raise invalid_argument(
            f"Example must be JSON object but got JSON {_brief(features)}"
        )
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) or _is_base64(value):
                kind, value = "bytes", _bytes(value)
            elif isinstance(value, float):
                kind = "float"
            elif isinstance(value, int):
                kind, value = "int64", int(value)
            else:
                raise invalid_argument(
                    f"Feature: {name} has element with unexpected JSON type: "
                    f"{_brief(value)}"
                )
            if feature.WhichOneof("kind") not in (None, f"{kind}_list"):
                raise invalid_argument(
                    f"Unexpected element type in feature: {name}: {_brief(value)}"
                )
            try:
                getattr(feature, f"{kind}_list").value.append(value)
            except ValueError as error:
                raise invalid_argument(f"Feature: {name}: {error}") from error
    return example


def _plain(name, array):
    if array.dtype != object:
        return array.tolist()
    # An output whose name ends so is bytes, the others are text.
    as_bytes = name.endswith("_bytes")

    def convert(value):
        if isinstance(value, list):
            return [convert(item) for item in value]
        if as_bytes:
            return {"b64": base64.b64encode(value).decode()}
        return value.decode(errors="replace")

    return convert(array.tolist())


def _is_base64(value):
    is_alone = isinstance(value, dict) and list(value) == ["b64"]
    return is_alone and isinstance(value["b64"], str)


def _is_named(value):
    return isinstance(value, dict) and not _is_base64(value)


def _names(signature):
    return ",".join(sorted(signature.inputs))


def _brief(value):
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dump(value):
    return json.dumps(value, ensure_ascii=False).encode()
