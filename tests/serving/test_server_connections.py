"""Clients that begin and do not end, on a server of uvicorn's with a short patience."""

import asyncio
import contextlib
import json
import socket

import pytest
import uvicorn

from keras_mixer.serving.server import connections, rest

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
async def connected(patience_seconds, app=app, grace_seconds=None):
    """Start a server; yield it, and the streams of a client."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=connections.ImpatientProtocol,
        timeout_keep_alive=patience_seconds,
        timeout_graceful_shutdown=grace_seconds,
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


def test_request_that_outlasts_the_servers_grace_is_told_to_come_again():
    api = rest.RestApi(None, max_bytes=9, timeout_seconds=30)

    async def answer():
        async with connected(30, api.app, 0.2) as (server, reader, writer):
            writer.write(REQUEST.replace(b"/ ", b"/v1/models/mixer:predict ") + b"abc")
            while not server.server_state.tasks:
                await asyncio.sleep(0.01)
            server.should_exit = True
            return await reader.read(-1)

    head, _, body = asyncio.run(asyncio.wait_for(answer(), 60)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["error"].startswith("The server ends.")
