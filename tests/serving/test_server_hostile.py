"""The local server among hostile, slow and broken clients, and its graceful end."""

import concurrent.futures
import contextlib
import http.client
import json
import select
import socket

import grpc
import psutil
import pytest
import requests
import serving_support
import test_conformance_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from program import keras_mixer_main
from serving_support import b64, running_server
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


@pytest.fixture(scope="module")
def strict_server(exported, tmp_path_factory):
    """A server with small limits, and more patience than a busy machine needs."""
    with running_server(
        tmp_path_factory.mktemp("strict"),
        exported,
        "--max_body_bytes=5000000",
        "--timeout_seconds=300",
        max_files=200,
    ) as server:
        yield server
        server.process.terminate()
        assert server.process.wait(60) == 0


BEGUN = pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /v1/mo",
        b"POST /v1/models/mixer:predict HTTP/1.1\r\n"
        b"Host: x\r\nContent-Length: 9\r\n\r\n{",
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["nothing", "head", "body", "body that nobody reads"],
)


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
    assert strict_server.ask(files["cat"])[0]["valid"]
    # It has given up none of them: the answer did not come after its patience.
    assert not select.select(slow, [], [], 0)[0]
    for connection in slow:
        connection.close()


@BEGUN
def test_server_can_be_reached_among_300_half_sent_requests(
    strict_server, address, files, begun
):
    """It may have 200 connections open, and nobody waits for its patience to end."""
    half_sent = []
    for _ in range(300):
        half_sent.append(socket.create_connection(address, timeout=20))
        # Some of the first are closed by now.
        with contextlib.suppress(OSError):
            half_sent[-1].sendall(begun)
    assert strict_server.ask(files["cat"])[0]["valid"]
    for connection in half_sent:
        connection.close()


@pytest.fixture(scope="module")
def impatient_server(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("impatient")
    with running_server(folder, exported, "--timeout_seconds=0.5") as server:
        yield server


@BEGUN
def test_server_answers_half_a_request_when_its_patience_ends(impatient_server, begun):
    """And nothing where none has begun."""
    host, port = impatient_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(begun)
        assert connection.recv(10) == (b"HTTP/1.1 4" if begun else b"")


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
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/", 400),
        ("POST", "/v1/models/mixer:predict/", 400),
        ("POST", "/v1/models/..%2f..%2fetc:predict", 404),
        ("POST", "/v1/models/mixer%00:predict", 404),
        ("GET", "/v1/models/" + "m" * 5000, 404),
        ("POST", "/v1/models/mixer/versions/" + "9" * 3000 + ":predict", 400),
        ("POST", "/v1/models/mixer/versions/9223372036854775808:predict", 400),
        ("GET", "/v1/models/mixer/versions/9223372036854775807", 404),
        ("GET", "/v1/models/mixer/labels/stable", 400),
        ("GET", "/v1/models/mixer/labels/%ff%00", 400),
        ("POST", "/v1/models/mixer:classify", 400),
        ("GET", "/monitoring/prometheus/metrics", 404),
    ],
)
def test_server_refuses_what_it_does_not_offer(strict_server, method, path, status):
    body = json.dumps({"instances": ["x"]})
    response = requests.request(method, strict_server.url + path, data=body, timeout=60)
    assert response.status_code == status, response.text


@pytest.mark.parametrize(
    "body",
    [
        "[" * 1_000_000,
        '{"instances": %s}' % ("[" * 900 + "]" * 900),
        '{"signature_name": "images", "instances": %s}' % ("[" * 900 + "]" * 900),
        r'{"instances": ["\ud800"]}',
        r'{"instances": [{"b64": "\ud800"}]}',
        r'{"instances": [{"\ud800": "x"}]}',
        r'{"signature_name": "\ud800", "instances": ["x"]}',
        '{"signature_name": "images", "instances": ["NaN"]}',
        '{"instances": %s}' % ("9" * 5000),
    ],
    ids=lambda body: f"{body[:40]}...",
)
def test_server_refuses_json_that_no_tensor_has(strict_server, body):
    url = f"{strict_server.model_url}:predict"
    response = requests.post(url, data=body, timeout=60)
    assert response.status_code == 400, response.text
    assert len(response.json()["error"]) > 10


def declaring(server, signature_name, input_name, dtype, shape):
    """A request of a few bytes with a tensor that declares a shape."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = server.model
    request.model_spec.signature_name = signature_name
    tensor = request.inputs[input_name]
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.append(1.0)
    return request


STRING, FLOAT, NONE = 7, 1, 99


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("", "image_bytes", STRING, [2**28]), "size 268435456 is larger"),
        (("", "image_bytes", STRING, [2**44]), "size 17592186044416 is larger"),
        (("images", "images", FLOAT, [8]), "Input must be"),
        (("images", "images", FLOAT, [8, 2**20, 24, 3]), "Input must be"),
        (("images", "images", FLOAT, [2**44, 24, 24, 3]), "is larger than maximum"),
        (("images", "images", FLOAT, [-1, 24, 24, 3]), "Input must be"),
        (("images", "images", FLOAT, [-5, 24, 24, 3]), "is not a tensor"),
        (("images", "images", NONE, [1, 24, 24, 3]), "is not a tensor"),
    ],
    ids=str,
)
def test_server_makes_nothing_of_a_size_that_is_only_declared(
    strict_server, arguments, sentence
):
    process = psutil.Process(strict_server.process.pid)
    before = process.memory_info().rss
    with grpc.insecure_channel(strict_server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError, match=sentence) as raised:
            stub.Predict(declaring(strict_server, *arguments), 60)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert process.memory_info().rss - before < 100_000_000


def test_server_tells_its_health(strict_server):
    with grpc.insecure_channel(strict_server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), 60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
def test_server_answers_before_it_ends(exported, tmp_path, photos):
    large = serving_support.encoded(photos["china"].resize((3000, 2000)))
    with running_server(tmp_path, exported) as server:
        assert server.ask(large)[0]["valid"]
        process = psutil.Process(server.process.pid)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            before = process.cpu_times().user
            asked = pool.submit(server.ask, *[large] * 8)
            serving_support.wait_for(
                lambda: process.cpu_times().user > before + 0.1, 30
            )
            assert not asked.done(), "The answer came too fast for this test."
            server.process.terminate()
            assert all(row["valid"] for row in asked.result(60))
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_server_says_in_a_line_what_is_wrong_with_its_flags(
    strict_server, exported, tmp_path
):
    taken = strict_server.url.rpartition(":")[2]
    cases = {
        "as `keras-mixer export` makes it. Received: []": [],
        "serve takes the folder": [tmp_path / "none"],
        f"Cannot listen on 127.0.0.1, ports {taken} and": [exported, f"--port={taken}"],
    }
    for sentence, flags in cases.items():
        finished = keras_mixer_main("serve", *flags)
        assert finished.returncode == 1
        assert sentence in finished.stderr
        assert finished.stderr.count("\n") == 1, finished.stderr
        assert finished.stdout == ""
