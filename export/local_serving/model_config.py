"""What to serve: `ModelServerConfig`, read without importing TensorFlow."""

import pathlib

from google.protobuf import text_format
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
