"""Serve exported models on this machine, with TensorFlow Serving's API.

    keras-mixer serve models/mixer
    keras-mixer serve --model_config_file=models.config

answers on http://127.0.0.1:8501 and over gRPC on 127.0.0.1:8500 as TensorFlow Serving
does: Predict and Classify, metadata and status, versions and labels, batching, metrics.
It is for development: it has no TLS, no authentication, and one process of Python.
Production runs TensorFlow Serving itself, on the same folder; see export/README.md.
"""

import pathlib

from absl import flags, logging

MODEL_NAME = flags.DEFINE_string("model_name", "mixer", "Name in the requests.")
MODEL_CONFIG_FILE = flags.DEFINE_string(
    "model_config_file",
    None,
    "A models.config of TensorFlow Serving, instead of the folder and --model_name; "
    "read again at each poll.",
)
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
    "file_system_poll_wait_seconds",
    1.0,
    "Seconds between looks for new versions.",
    lower_bound=0.01,
)
MAX_BODY_BYTES = flags.DEFINE_integer(
    "max_body_bytes", 64 * 2**20, "Size of the largest request.", 1
)
TIMEOUT_SECONDS = flags.DEFINE_float(
    "timeout_seconds",
    30.0,
    "Seconds a client may take to send, and a model to answer.",
    lower_bound=0.01,
)


def main(argv):
    """Serve the versions in the folder that `argv` names, until SIGINT or SIGTERM."""
    from keras_mixer.serving import needs_serve_extra

    if len(argv) > 2 or (len(argv) == 2) == bool(MODEL_CONFIG_FILE.value):
        raise ValueError(
            "serve takes the folder of a model's versions, or --model_config_file. "
            f"Received: {argv[1:]}, --model_config_file={MODEL_CONFIG_FILE.value}."
        )
    with needs_serve_extra():
        from keras_mixer.serving.server import config, run
    logging.set_verbosity(logging.INFO)
    if MODEL_CONFIG_FILE.value:

        def read_config():
            return config.read_config(MODEL_CONFIG_FILE.value)
    else:
        base_path = pathlib.Path(argv[1]).absolute()
        if not base_path.is_dir():
            raise ValueError(
                "serve takes the folder of a model's versions, as `keras-mixer export` "
                f"makes it. Received: {argv[1]!r}, which is none."
            )
        single = config.single_model_config(MODEL_NAME.value, base_path)

        def read_config():
            return single

    run.serve(
        read_config,
        host=HOST.value,
        port=PORT.value,
        grpc_port=GRPC_PORT.value,
        poll_seconds=POLL_SECONDS.value,
        max_body_bytes=MAX_BODY_BYTES.value,
        timeout_seconds=TIMEOUT_SECONDS.value,
    )
