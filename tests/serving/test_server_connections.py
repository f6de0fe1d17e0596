"""Clients that begin and do not end, on a server of uvicorn's with a short patience."""

import asyncio
import json
import socket

import pytest
import uvicorn

from keras_mixer.serving.server import connections

LARGE = b"x" * 50_000_000


async def app(scope, receive, send):
    """Answers with 50 MB, or at `/short` with a word, when it has the whole request."""
    more = True
    while more:
        more = (await receive()).get("more_body")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = b"short" if scope["path"] == "/short" else LARGE
    await send({"type": "http.response.body", "body": body})


async def received(sent, reads, patience_seconds):
    """Return what a client gets, who sends, and reads at once or only at the end."""
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
    writer.write(sent)
    if not reads:
        writer.transport.pause_reading()
        while not (opened := set(server.server_state.connections)):
            await asyncio.sleep(0.01)
        while opened & server.server_state.connections:
            await asyncio.sleep(0.01)
        writer.transport.resume_reading()
    try:
        answer = await reader.read(-1)
    except ConnectionResetError:
        answer = b""
    writer.close()
    server.should_exit = True
    await serving
    assert not connections.ImpatientProtocol._waiting
    return answer


def ask(sent, reads=True, patience_seconds=0.4):
    return asyncio.run(asyncio.wait_for(received(sent, reads, patience_seconds), 60))


REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("sent", [REQUEST[:9], REQUEST, REQUEST + b"abc"])
def test_connection_does_not_wait_for_the_rest_of_a_request(sent):
    head, _, body = ask(sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body) == {"error": "The request did not come in time."}


def test_connection_ends_in_silence_before_a_request():
    """Who asks at that moment would take a word for the answer."""
    assert ask(b"") == b""
    answer = ask(REQUEST.replace(b"/", b"/short", 1) + b"abcd")
    assert answer.startswith(b"HTTP/1.1 200 ")
    # The body in chunks: one, and none.
    assert answer.endswith(b"\r\n\r\n5\r\nshort\r\n0\r\n\r\n")


def test_connection_gives_whole_answers_to_those_who_read():
    close = REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close")
    answer = ask(close + b"abcd", patience_seconds=50)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"x" * 1000) == len(LARGE) // 1000


def test_connection_does_not_wait_for_who_does_not_read():
    """By itself uvicorn would, for ever."""
    assert len(ask(REQUEST + b"abcd", reads=False)) < len(LARGE)
