"""What a server runs before its first request: batch sizes and warm-up records."""

import itertools
import pathlib

import numpy as np
import tensorflow as tf

RECORDS = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")


def sample_files(size):
    """Return `(jpeg, png)`: two small image files, the bytes of the same pattern.

    Args:
        size: Side of the images in pixels.
    """
    ramp = np.linspace(0, 255, size)
    pattern = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1)
    pattern = tf.constant(pattern.astype("uint8"))
    return tf.io.encode_jpeg(pattern).numpy(), tf.io.encode_png(pattern).numpy()


def sample_inputs(spec, size):
    """Return items for the input of a signature, of every kind that is common.

    Args:
        spec: `tf.TensorSpec` of the input.
        size: Side of the model's images in pixels.

    Returns:
        A JPEG and a PNG file, or examples with them, or one image `(size, size, 3)`.
    """
    if spec.dtype == tf.float32:
        return [np.full((size, size, 3), 128, "float32")]
    files = sample_files(2 * size)
    return [example_of(f) for f in files] if spec.name == "inputs" else list(files)


def example_of(file):
    """Return a serialized `tf.Example` with an image file in the feature `image`."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    features = tf.train.Features(feature={"image": feature})
    return tf.train.Example(features=features).SerializeToString()


def check_batch_sizes(batch_sizes):
    """Return the allowed batch sizes as a list.

    Raises:
        ValueError: If they are not positive integers that ascend.
    """
    sizes = list(batch_sizes)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
    if not sizes or not whole or sizes[0] < 1 or sorted(set(sizes)) != sizes:
        raise ValueError(
            "batch_sizes must be positive integers that ascend, such as (1, 2, 4, 8). "
            f"Received: batch_sizes={batch_sizes!r}."
        )
    return sizes


def write_batching_parameters(directory, batch_sizes):
    """Write `batching_params.pbtxt`, which the server reads beside the model.

    The server reads it with `--enable_per_model_batching_parameters`; how many threads
    run batches is not the model's to say.

    Args:
        directory: `pathlib.Path` of the version.
        batch_sizes: The allowed batch sizes, ascending.
    """
    lines = [
        f"max_batch_size {{ value: {batch_sizes[-1]} }}",
        # A batch starts as soon as a thread is free, with the requests that wait.
        "batch_timeout_micros { value: 0 }",
        "max_enqueued_batches { value: 64 }",
        *(f"allowed_batch_sizes: {size}" for size in batch_sizes),
    ]
    text = "".join(f"{line}\n" for line in lines)
    (directory / "batching_params.pbtxt").write_text(text, encoding="utf-8")


def write_records(directory, signatures, size, batch_sizes):
    """Write a warm-up request for each signature and batch size.

    Args:
        directory: `pathlib.Path` of the version.
        signatures: Dict of concrete functions with one input each.
        size: Side of the model's images in pixels.
        batch_sizes: The allowed batch sizes.
    """
    path = directory / RECORDS
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, function in signatures.items():
            (spec,) = function.structured_input_signature[0]
            items = sample_inputs(spec, size)
            for batch_size in batch_sizes:
                writer.write(_prediction_log(name, spec, items, batch_size))


def _prediction_log(signature_name, spec, items, batch_size):
    """Serialize a `tensorflow.serving.PredictionLog` of a Predict request.

    By hand, since its classes come with tensorflow-serving-api, which this package
    does not need otherwise. The field numbers are in tensorflow_serving/apis/:
    prediction_log.proto, predict.proto, model.proto.
    """
    if spec.dtype == tf.float32:
        # One value stands for all that follow: 32 images would be 19 MB.
        tensor = tf.make_tensor_proto(
            items[0].flat[0], shape=[batch_size, *items[0].shape]
        )
    else:
        chosen = itertools.islice(itertools.cycle(items), batch_size)
        tensor = tf.make_tensor_proto(list(chosen))
    entry = _field(1, spec.name.encode()) + _field(2, tensor.SerializeToString())
    request = _field(1, _field(3, signature_name.encode())) + _field(2, entry)
    return _field(6, _field(1, request))


def _field(number, payload):
    """Serialize a field of protobuf's wire type 2: key, length, bytes."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value):
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
