r"""A model server for a developer's machine, with TensorFlow Serving's API.

    python export/local_server.py --model_base_path=models/mixer --model_name=mixer

answers on http://127.0.0.1:8501 and over gRPC on 127.0.0.1:8500 as TensorFlow Serving
does: Predict and Classify, metadata and status, versions and labels, batching, metrics.
It is for development: it has no TLS, no authentication, and one process of Python.
Production runs TensorFlow Serving itself, on the same directory; see `tf_serving/`.
"""

import ctypes
import os
import pathlib
import signal
import socket
import sys

from absl import app, flags, logging
from local_serving import model_config
from quiet import quiet_import

_MODEL_BASE_PATH = flags.DEFINE_string(
    "model_base_path", None, "Directory of the model's versions."
)
_MODEL_NAME = flags.DEFINE_string("model_name", "mixer", "Name in the requests.")
_MODEL_CONFIG_FILE = flags.DEFINE_string(
    "model_config_file",
    None,
    "A models.config of TensorFlow Serving, instead of the two flags above; read again "
    "at each poll.",
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 opens it to the network."
)
_PORT = flags.DEFINE_integer(
    "port", 8501, "Port of the REST API; 0 for a free one.", 0, 65535
)
_GRPC_PORT = flags.DEFINE_integer(
    "grpc_port", 8500, "Port of gRPC; 0 for a free one.", 0, 65535
)
_POLL_SECONDS = flags.DEFINE_float(
    "file_system_poll_wait_seconds", 1.0, "Seconds between looks for new versions."
)
_MAX_BODY_BYTES = flags.DEFINE_integer(
    "max_body_bytes", 64 * 2**20, "Size of the largest request."
)
_TIMEOUT_SECONDS = flags.DEFINE_float(
    "timeout_seconds", 30.0, "Seconds a client may take to send, and a model to answer."
)

_M_ARENA_MAX = -8  # malloc.h
# How long the requests under way may take to finish after SIGTERM.
_GRACE_SECONDS = 30


def main(argv):
    if len(argv) > 1:
        _fail(f"Arguments are given as flags. Received: {argv[1:]}.")
    logging.set_verbosity(logging.INFO)
    try:
        read_config = _config_reader()
        read_config()
        _serve(read_config, _listen(_HOST.value, _PORT.value))
    except (OSError, ValueError) as error:
        _fail(error)


def _share_one_heap():
    """Let all threads allocate from one heap, where the C library is glibc.

    By default each thread comes to have its own, and keeps as much as the largest batch
    that it ever ran: the server would grow for minutes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)


def _serve(read_config, listener):
    _share_one_heap()
    # As tf_serving/compose.yaml sets it.
    os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    # Only now: TensorFlow takes seconds to import.
    with quiet_import():
        import tensorflow as tf
        import uvicorn
        from local_serving import grpc_api, manager, metrics, rest

    # The session API is the one that TensorFlow Serving uses, deprecated or not.
    tf.get_logger().setLevel("ERROR")
    counted = metrics.Metrics()
    models = manager.Manager(read_config, counted)
    models.start(_POLL_SECONDS.value)
    grpc_server, grpc_port = grpc_api.start_server(
        f"{_HOST.value}:{_GRPC_PORT.value}",
        models,
        counted,
        _MAX_BODY_BYTES.value,
        _TIMEOUT_SECONDS.value,
    )
    api = rest.RestApi(models, counted, _MAX_BODY_BYTES.value, _TIMEOUT_SECONDS.value)
    server = uvicorn.Server(
        uvicorn.Config(
            api.app,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_SECONDS,
            lifespan="off",
        )
    )
    # From here on connections wait, if need be, and are not refused.
    listener.listen()
    print(
        "A server for development. REST: "
        f"http://{_HOST.value}:{listener.getsockname()[1]}, "
        f"gRPC: {_HOST.value}:{grpc_port}",
        flush=True,
    )
    # Returns after SIGINT or SIGTERM, when the REST requests under way are answered;
    # then uvicorn raises the signal again, which by default would end the process here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    grpc_server.stop(_GRACE_SECONDS).wait()
    models.close()


def _config_reader():
    if (_MODEL_BASE_PATH.value is None) == (_MODEL_CONFIG_FILE.value is None):
        raise ValueError(
            "What to serve is given by --model_base_path or by --model_config_file."
        )
    if _MODEL_CONFIG_FILE.value is not None:
        return lambda: model_config.read_config(_MODEL_CONFIG_FILE.value)
    base_path = pathlib.Path(_MODEL_BASE_PATH.value).absolute()
    if not base_path.is_dir():
        raise ValueError(
            f"--model_base_path must be a directory. Received: {base_path}."
        )
    config = model_config.single_model_config(_MODEL_NAME.value, base_path)
    return lambda: config


def _listen(host, port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"Cannot listen on {host}:{port}: {error.strerror}."
        ) from error
    return listener


def _fail(error):
    print(error, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    app.run(main)
