"""The server's life: from its ports to the last answer after SIGTERM."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket

import uvicorn

from keras_mixer.serving.server import connections, grpc_api, models, rest

# How long the requests under way may take to finish after SIGTERM.
_GRACE_SECONDS = 30
_M_ARENA_MAX = -8  # malloc.h


async def serve(
    base_path, name, host, port, grpc_port, poll_seconds, max_bytes, timeout_seconds
):
    """Serve a model until SIGINT or SIGTERM, by the flags of `keras-mixer serve`.

    Prints a line with both addresses when it answers.

    Raises:
        ValueError: If a port is taken.
    """
    versions = models.Versions(name, base_path)
    grpc_server = await grpc_api.make_server(versions, max_bytes, timeout_seconds)
    try:
        listener = socket.create_server((host, port))
        grpc_port = grpc_server.add_insecure_port(f"{host}:{grpc_port}")
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"Cannot listen on {host}, ports {port} and {grpc_port}: {error}."
        ) from error
    _share_one_heap()
    # As tf_serving/compose.yaml sets it.
    os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    await versions.look()
    watching = asyncio.create_task(versions.watch(poll_seconds))
    await grpc_server.start()
    port = listener.getsockname()[1]
    print(
        f"A server for development. REST: http://{host}:{port}, "
        f"gRPC: {host}:{grpc_port}",
        flush=True,
    )
    config = uvicorn.Config(
        rest.RestApi(versions, max_bytes, timeout_seconds).app,
        http=connections.ImpatientProtocol,
        timeout_keep_alive=timeout_seconds,
        backlog=connections.MAX_WAITING,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        lifespan="off",
    )
    # uvicorn raises the signal that has ended it again; there is more to end, however.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(config).serve([listener])
    watching.cancel()
    await grpc_server.stop(_GRACE_SECONDS)


def _share_one_heap():
    """Let all threads allocate from one heap, where the C library is glibc.

    By default each has its own, and keeps as much as the largest batch that it ran.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
