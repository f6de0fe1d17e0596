"""Serve an exported model on this machine, with TensorFlow Serving's API.

    keras-mixer serve models/mixer

answers on http://127.0.0.1:8501 and over gRPC on 127.0.0.1:8500 as TensorFlow Serving
does: Predict, metadata and status, batching, new versions as they appear in the folder.
A browser finds a page there that labels pictures.
It is for development: it has no TLS, no authentication, and one process of Python.
Production runs TensorFlow Serving itself, on the same folder; see export/README.md.
"""

import asyncio
import pathlib

from absl import flags, logging

MODEL_NAME = flags.DEFINE_string("model_name", "mixer", "Name in the requests.")
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 opens it to the network."
)
PORT = flags.DEFINE_integer(
    "port", 8501, "Port of the REST API; 0 for a free one.", 0, 65535
)
GRPC_PORT = flags.DEFINE_integer(
    "grpc_port", 8500, "Port of gRPC; 0 for a free one.", 0, 65535
)
POLL_SECONDS = flags.DEFINE_float(
    "file_system_poll_wait_seconds", 1.0, "Seconds between looks for versions.", 0.01
)
MAX_BODY_BYTES = flags.DEFINE_integer(
    "max_body_bytes", 64 * 2**20, "Size of the largest request.", 1
)
TIMEOUT_SECONDS = flags.DEFINE_float(
    "timeout_seconds", 30.0, "Seconds to send a request in, and to answer it.", 0.01
)


def main(argv):
    """Serve the versions in the folder that `argv` names, until SIGINT or SIGTERM."""
    from keras_mixer.serving import needs_serve_extra

    if len(argv) != 2 or not pathlib.Path(argv[1]).is_dir():
        raise ValueError(
            "serve takes the folder of a model's versions, as `keras-mixer export` "
            f"makes it. Received: {argv[1:]}."
        )
    with needs_serve_extra():
        from keras_mixer.serving.server import run
    logging.set_verbosity(logging.INFO)
    asyncio.run(
        run.serve(
            pathlib.Path(argv[1]).absolute(),
            MODEL_NAME.value,
            HOST.value,
            PORT.value,
            GRPC_PORT.value,
            POLL_SECONDS.value,
            MAX_BODY_BYTES.value,
            TIMEOUT_SECONDS.value,
        )
    )
