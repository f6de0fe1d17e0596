"""Serve an exported model by TensorFlow Serving's API.

    keras-mixer serve models/mixer

A page on http://127.0.0.1:8501 labels pictures; requests are answered there and over
gRPC on 127.0.0.1:8500, by the newest version in the folder. It is for development, with
no TLS, no authentication. TensorFlow Serving takes the same folder: export/README.md.
"""

import asyncio
import pathlib

from absl import flags, logging

from keras_mixer.catalog import needs_extra, settings_in_use, use_fastest_settings

ARGUMENTS = "FOLDER"
flags.DEFINE_string("model_name", "mixer", "Name in the requests.")
flags.DEFINE_string("host", "127.0.0.1", "0.0.0.0 opens it to the network.")
flags.DEFINE_integer("port", 8501, "Port of REST; 0 for a free one.", 0, 65535)
flags.DEFINE_integer("grpc_port", 8500, "Port of gRPC; 0 for a free one.", 0, 65535)
flags.DEFINE_integer("max_body_bytes", 64 * 2**20, "Size of the largest request.", 1)
flags.DEFINE_float("timeout_seconds", 30.0, "To send in, and to answer in.", 0.01)


def main(argv):
    """Serve the versions in the folder that `argv` names, until SIGINT or SIGTERM."""
    if len(argv) != 2 or not pathlib.Path(argv[1]).is_dir():
        raise ValueError(
            "serve takes the folder of a model's versions, as `keras-mixer export` "
            f"makes it. Received: {argv[1:]}."
        )
    with needs_extra("Serving and asking a server", "serve"):
        from keras_mixer.serving.server import run
    logging.set_verbosity(logging.INFO)
    use_fastest_settings(serves=True)
    logging.info(settings_in_use())
    asyncio.run(run.serve(pathlib.Path(argv[1]).absolute(), flags.FLAGS))
