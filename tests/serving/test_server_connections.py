"""Clients that begin and do not end, on a server of uvicorn's with a short patience."""

import asyncio
import contextlib
import json
import socket

import grpc
import pytest
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keras_mixer.serving.server import connections, rest, run

LARGE = b"x" * 50_000_000


async def app(scope, receive, send):
    """Answers with 50 MB, or at `/short` with a word, when it has the whole request."""
    more = True
    while more:
        more = (await receive()).get("more_body")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = b"short" if scope["path"] == "/short" else LARGE
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def connected(patience_seconds):
    """Start a server; yield it, and the streams of a client."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=connections.ImpatientProtocol,
        timeout_keep_alive=patience_seconds,
        lifespan="off",
        log_level="error",
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    yield server, reader, writer
    writer.close()
    server.should_exit = True
    await serving
    assert not connections.ImpatientProtocol._waiting


async def received(sent, reads, patience_seconds):
    """Return what a client gets, who sends, and reads at once or only at the end."""
    async with connected(patience_seconds) as (server, reader, writer):
        writer.write(sent)
        if not reads:
            writer.transport.pause_reading()
            while not (opened := set(server.server_state.connections)):
                await asyncio.sleep(0.01)
            while opened & server.server_state.connections:
                await asyncio.sleep(0.01)
            writer.transport.resume_reading()
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""


def ask(sent, reads=True, patience_seconds=0.4):
    return asyncio.run(asyncio.wait_for(received(sent, reads, patience_seconds), 60))


REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
SHORT = REQUEST.replace(b"/", b"/short", 1) + b"abcd"


@pytest.mark.parametrize("sent", [REQUEST[:9], REQUEST, REQUEST + b"abc"])
def test_connection_does_not_wait_for_the_rest_of_a_request(sent):
    head, _, body = ask(sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body) == {"error": "The request did not come in time."}


def test_connection_ends_in_silence_before_a_request():
    """Who asks at that moment would take a word for the answer."""
    assert ask(b"") == b""
    answer = ask(SHORT)
    assert answer.startswith(b"HTTP/1.1 200 ")
    # The body in chunks: one, and none.
    assert answer.endswith(b"\r\n\r\n5\r\nshort\r\n0\r\n\r\n")


async def timers():
    """Return those of a connection: for a request, when it begins, and for its rest."""
    waiting = connections.ImpatientProtocol._waiting
    async with connected(patience_seconds=50) as (server, reader, writer):
        writer.write(SHORT)
        await reader.readuntil(b"0\r\n\r\n")
        (connection,) = server.server_state.connections
        while not (idle := waiting.get(connection)):
            await asyncio.sleep(0.01)
        writer.write(REQUEST[:9])
        while (begun := waiting[connection]) is idle:
            await asyncio.sleep(0.01)
        writer.write(REQUEST[9:])
        while connection.cycle.response_complete:
            await asyncio.sleep(0.01)
        return idle, begun, waiting[connection]


def test_connection_waits_for_a_request_and_anew_for_its_rest():
    """But not anew for each piece."""
    idle, begun, rest = asyncio.run(asyncio.wait_for(timers(), 40))
    assert idle.when() < begun.when()
    assert rest is begun


def test_connection_gives_whole_answers_to_those_who_read():
    close = REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close")
    answer = ask(close + b"abcd", patience_seconds=50)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"x" * 1000) == len(LARGE) // 1000


def test_connection_does_not_wait_for_who_does_not_read():
    """By itself uvicorn would, for ever."""
    assert len(ask(REQUEST + b"abcd", reads=False)) < len(LARGE)


async def serve_to_the_end(app, grace_seconds, sent, when_under_way):
    """Serve by REST and gRPC while one request is under way, until they have ended.

    Args:
        app: The ASGI application.
        grace_seconds: How long requests may take once the end was asked for.
        sent: Bytes of the request.
        when_under_way: Coroutine function of the server and gRPC's address, which asks
            for the end.

    Returns:
        The client's socket, whose answer has not been read.
    """
    grpc_server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(
        health.aio.HealthServicer(), grpc_server
    )
    address = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    await grpc_server.start()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=connections.ImpatientProtocol,
        timeout_keep_alive=50,
        timeout_graceful_shutdown=grace_seconds,
        lifespan="off",
        log_level="error",
    )
    server = run.BothServers(config, grpc_server)
    client = socket.create_connection(listener.getsockname())
    client.sendall(sent)

    async def watch():
        while not server.server_state.tasks:
            await asyncio.sleep(0.01)
        await when_under_way(server, address)

    watching = asyncio.create_task(watch())
    await server.serve([listener])
    await watching
    return client


def answer_of(client):
    with client, client.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")
    return head, body


def test_request_that_outlasts_the_servers_grace_is_told_to_come_again():
    api = rest.RestApi(None, max_bytes=9, timeout_seconds=30)
    sent = REQUEST.replace(b"/ ", b"/v1/models/mixer:predict ") + b"abc"

    async def end(server, address):
        server.should_exit = True

    # The loop is closed before the answer is looked at, as when the process ends.
    head, body = answer_of(asyncio.run(serve_to_the_end(api.app, 0.2, sent, end)))
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error"].startswith("The server ends.")


def test_rest_and_grpc_end_side_by_side():
    """One after the other they could take twice as long as whoever ends them waits."""

    async def serve():
        is_refused = asyncio.Event()

        async def late(scope, receive, send):
            await is_refused.wait()
            await app(scope, receive, send)

        async def end(server, address):
            async with grpc.aio.insecure_channel(address) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                await check(health_pb2.HealthCheckRequest())
                server.should_exit = True
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    while True:
                        await check(health_pb2.HealthCheckRequest())
                        await asyncio.sleep(0.01)
                assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
            is_refused.set()

        return await asyncio.wait_for(serve_to_the_end(late, 50, SHORT, end), 60)

    head, body = answer_of(asyncio.run(serve()))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"short" in body
