"""The local server among hostile, slow and broken clients, and its graceful end."""

import concurrent.futures
import http.client
import json
import socket
import subprocess
import time

import grpc
import psutil
import pytest
import requests
import serving_support
import test_conformance_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from program import PROGRAM
from serving_support import b64, running_server
from tensorflow_serving.apis import prediction_service_pb2_grpc


@pytest.fixture(scope="module")
def strict_server(exported, tmp_path_factory):
    """A server with a small limit and a short patience."""
    with running_server(
        tmp_path_factory.mktemp("strict"),
        exported,
        "--max_body_bytes=5000000",
        "--timeout_seconds=2",
    ) as server:
        yield server


@pytest.fixture
def address(strict_server):
    host, port = strict_server.url.removeprefix("http://").split(":")
    return host, int(port)


@pytest.fixture(autouse=True)
def still_answers(request, files):
    """After each test with the server, it answers as before."""
    yield
    if "strict_server" in request.fixturenames:
        server = request.getfixturevalue("strict_server")
        assert server.process.poll() is None
        assert all(row["valid"] for row in server.ask(*files.values()))


def test_server_listens_on_this_machine_alone(strict_server, address):
    assert address[0] == "127.0.0.1"
    for port in (address[1], int(strict_server.grpc.rpartition(":")[2])):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_server_refuses_100_megabytes_and_keeps_none(strict_server):
    process = psutil.Process(strict_server.process.pid)
    before = process.memory_info().rss

    def send():
        chunk = b" " * 1_000_000
        url = f"{strict_server.model_url}:predict"
        # Once with its length, once in chunks of unknown number.
        for data in (chunk * 100, (chunk for _ in range(100))):
            response = requests.post(url, data=data, timeout=60)
            assert response.status_code == 413, response.text
            assert "at most 5000000 bytes. Received: 100000000" in response.text
            peaks.append(process.memory_info().rss)

    peaks = []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(send) for _ in range(4)]:
            future.result()
    assert max(peaks) - before < 100_000_000


def test_server_refuses_large_messages_over_grpc(strict_server, files):
    with grpc.insecure_channel(strict_server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = test_conformance_grpc.request_of(strict_server, b"x" * 6_000_000)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(request, 60)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_server_does_not_wait_for_slow_clients(strict_server, address, files):
    head = f"POST /v1/models/mixer:predict HTTP/1.1\r\nHost: {address[0]}\r\n"
    head = f"{head}Content-Length: 1000\r\n\r\n".encode()
    slow = [socket.create_connection(address, timeout=20) for _ in range(20)]
    for connection in slow:
        connection.sendall(head + b"{")
    start = time.monotonic()
    assert strict_server.ask(files["cat"])[0]["valid"]
    assert time.monotonic() - start < 1.5
    for connection in slow:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_server_outlives_clients_that_leave(strict_server, address, files):
    body = json.dumps({"instances": [b64(file) for file in files.values()]}).encode()
    for sent in (0, 1, len(body) // 2, len(body)):
        connection = http.client.HTTPConnection(*address, timeout=20)
        connection.putrequest("POST", "/v1/models/mixer:predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:sent])
        connection.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
        )
        connection.close()


@pytest.mark.parametrize(
    "noise", [b"\0" * 1000, b"GET\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0", b"A" * 100_000]
)
def test_server_refuses_what_is_not_http(strict_server, address, noise):
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        received = connection.recv(4096)
    assert not received or b" 400 " in received


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("PUT", "/v1/models/mixer:predict", 405),
        ("DELETE", "/v1/models/mixer", 405),
        ("GET", "/", 404),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/", 400),
        ("POST", "/v1/models/mixer:predict/", 400),
        ("POST", "/v1/models/..%2f..%2fetc:predict", 404),
        ("POST", "/v1/models/mixer%00:predict", 404),
        ("GET", "/v1/models/" + "m" * 5000, 404),
        ("POST", "/v1/models/mixer/versions/" + "9" * 3000 + ":predict", 400),
    ],
)
def test_server_refuses_what_it_does_not_offer(strict_server, method, path, status):
    body = json.dumps({"instances": ["x"]})
    response = requests.request(method, strict_server.url + path, data=body, timeout=60)
    assert response.status_code == status, response.text


def test_server_refuses_deep_json(strict_server):
    response = requests.post(
        f"{strict_server.model_url}:predict", data="[" * 1_000_000, timeout=60
    )
    assert response.status_code == 400
    assert "JSON Parse error" in response.json()["error"]


def test_server_counts_no_made_up_models(strict_server):
    """Names that clients make up would fill the server's memory."""
    for i, (body, status) in enumerate([('{"instances": [1]}', 404), ("{", 400)]):
        url = f"{strict_server.url}/v1/models/made-up-{i}:predict"
        response = requests.post(url, data=body, timeout=60)
        assert response.status_code == status
    url = f"{strict_server.url}/monitoring/prometheus/metrics"
    page = requests.get(url, timeout=60).text
    assert "made-up" not in page
    assert 'request_count{model_name="",status="NOT_FOUND"}' in page


def test_server_tells_its_health(strict_server):
    with grpc.insecure_channel(strict_server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), 60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_server_answers_before_it_ends(exported, tmp_path, photos):
    large = serving_support.encoded(photos["china"].resize((3000, 2000)))
    with running_server(tmp_path, exported) as server:
        assert server.ask(large)[0]["valid"]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = pool.submit(server.ask, *[large] * 32)
            time.sleep(0.3)
            assert not asked.done(), "The answer came too fast for this test."
            server.process.terminate()
            assert all(row["valid"] for row in asked.result(60))
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_server_says_in_a_line_what_is_wrong_with_its_flags(
    strict_server, exported, tmp_path
):
    (tmp_path / "broken.config").write_text("nope")
    taken = strict_server.url.rpartition(":")[2]
    cases = {
        "or --model_config_file. Received: []": [],
        "as `keras-mixer export` makes it": [tmp_path / "none"],
        "cannot be read as a models.config": [
            f"--model_config_file={tmp_path / 'broken.config'}"
        ],
        f"Cannot listen on 127.0.0.1:{taken}": [exported, f"--port={taken}"],
        "serve takes the folder": [exported, "--model_config_file=some"],
    }
    for sentence, flags in cases.items():
        finished = subprocess.run(
            [PROGRAM, "serve", *map(str, flags)],
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 1
        assert sentence in finished.stderr
        assert finished.stderr.count("\n") == 1, finished.stderr
        assert finished.stdout == ""
