"""TensorFlow Serving's text files: which models to serve, and how to batch."""

import os
import pathlib

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2


def single_model_config(name, base_path):
    """Return the `ModelServerConfig` of one model whose latest version is served."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform="tensorflow"
    )
    return config


def read_config(path):
    """Read a `models.config` of TensorFlow Serving.

    Args:
        path: Path of the file, a text-format `ModelServerConfig`.

    Returns:
        The message.

    Raises:
        ValueError: If the file is missing or is not such a message.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ValueError(
            f"{path} cannot be read as a models.config: {error}"
        ) from error


def _batching_parameters_class():
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto, which
    # tensorflow-serving-api leaves out.
    file = descriptor_pb2.FileDescriptorProto(
        name="local_serving/batching_parameters.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    field = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(
        [
            "max_batch_size",
            "batch_timeout_micros",
            "max_enqueued_batches",
            "num_batch_threads",
        ],
        start=1,
    ):
        message.field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    message.field.add(
        name="allowed_batch_sizes",
        number=6,
        label=field.LABEL_REPEATED,
        type=field.TYPE_INT64,
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters")
    )


BatchingParameters = _batching_parameters_class()


def read_parameters(path):
    """Read a `batching_params.pbtxt`, with TensorFlow Serving's defaults.

    Args:
        path: Path of the file, a text-format `BatchingParameters`.

    Returns:
        The message, all its fields set.

    Raises:
        ValueError: If the file is not such a message, a field is out of its range, or
            the last allowed batch size is not the maximum.
    """
    try:
        parameters = text_format.Parse(
            pathlib.Path(path).read_text(encoding="utf-8"), BatchingParameters()
        )
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ValueError(
            f"{path} cannot be read as batching parameters: {error}"
        ) from error
    return complete(parameters)


# A thread more than the cores gains nothing, and thousands of them cannot be started.
_RANGES = {
    "max_batch_size": (1, 100_000),
    "batch_timeout_micros": (0, 60_000_000),
    "max_enqueued_batches": (1, 100_000),
    "num_batch_threads": (1, 256),
}


def complete(parameters):
    """Fill the fields of `BatchingParameters` that are not set.

    Raises:
        ValueError: If a field is out of its range.
    """
    defaults = {
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        # With one thread the processor would wait while answers are written.
        "num_batch_threads": os.cpu_count(),
    }
    for name, value in defaults.items():
        field = getattr(parameters, name)
        if not parameters.HasField(name):
            field.value = value
        lowest, highest = _RANGES[name]
        if not lowest <= field.value <= highest:
            raise ValueError(
                f"{name} must be from {lowest} to {highest}. Received: {field.value}."
            )
    sizes = list(parameters.allowed_batch_sizes)
    limit = parameters.max_batch_size.value
    if sizes and (sorted(set(sizes)) != sizes or sizes[0] < 1 or sizes[-1] != limit):
        raise ValueError(
            "allowed_batch_sizes must ascend from at least 1 to max_batch_size. "
            f"Received: allowed_batch_sizes={sizes}, max_batch_size={limit}."
        )
    return parameters
