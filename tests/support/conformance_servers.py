"""The servers that the conformance suite runs against.

    pytest -m serving --server=http://127.0.0.1:8501 --server-grpc=127.0.0.1:8500

Without `--server` they are the local server, and `tensorflow_model_server` where that
is on the PATH. A plugin of pytest.
"""

import contextlib
import shutil
import socket
import subprocess

import numpy as np
import pytest
import requests
import serving_support
from serving_support import Server

OUTPUTS = {"top_k_labels", "top_k_scores", "top_k_indices", "valid"}


def pytest_addoption(parser):
    group = parser.getgroup("serving")
    group.addoption(
        "--server",
        help="Base URL of a server for the conformance suite, http://HOST:PORT; "
        "without it a local server is started.",
    )
    group.addoption("--server-grpc", help="HOST:PORT of that server's gRPC API.")
    group.addoption("--server-model", help="Name of its model.", default="mixer")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "serving: conformance to TensorFlow Serving's API; see --server"
    )


def pytest_generate_tests(metafunc):
    if not metafunc.definition.get_closest_marker("serving"):
        return
    servers = ["local", "tensorflow_model_server"]
    if metafunc.config.getoption("--server") is not None:
        servers = ["given"]
    metafunc.parametrize("server", servers, indirect=True, scope="module")


@pytest.fixture(scope="module")
def server(request, exported, tmp_path_factory):
    if request.param == "given":
        options = request.config.option
        url = options.server.rstrip("/")
        yield Server(url, options.server_grpc, options.server_model)
    elif request.param == "local":
        yield request.getfixturevalue("local_server")
    elif shutil.which("tensorflow_model_server") is None:
        pytest.skip("tensorflow_model_server is not on the PATH.")
    else:
        with model_server(exported, tmp_path_factory.mktemp("log")) as running:
            yield running


@contextlib.contextmanager
def model_server(base_dir, directory):
    ports = [free_port(), free_port()]
    configs = serving_support.EXPORT / "tf_serving"
    command = [
        "tensorflow_model_server",
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        "--model_name=mixer",
        base_dir,
        "--enable_batching=true",
        "--enable_per_model_batching_parameters=true",
        f"--batching_parameters_file={configs / 'batching.config'}",
        f"--monitoring_config_file={configs / 'monitoring.config'}",
    ]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    running = Server(f"http://127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}")
    try:
        serving_support.wait_for(lambda: process.poll() is not None or is_up(running))
        yield running
    finally:
        serving_support.stop(process)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_up(running):
    try:
        return "AVAILABLE" in requests.get(running.model_url, timeout=5).text
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def answers(server, files):
    """What the server says of each photograph alone."""
    return [server.ask(file)[0] for file in files.values()]


def assert_same(answer, expected, tolerance=1e-6):
    assert answer["top_k_labels"] == expected["top_k_labels"]
    assert answer["top_k_indices"] == expected["top_k_indices"]
    assert answer["valid"] == expected["valid"]
    np.testing.assert_allclose(
        answer["top_k_scores"], expected["top_k_scores"], atol=tolerance, rtol=0
    )


def newest_version(server):
    statuses = requests.get(server.model_url, timeout=60).json()["model_version_status"]
    return max(int(s["version"]) for s in statuses if s["state"] == "AVAILABLE")
