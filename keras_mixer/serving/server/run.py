"""The server's life: from its ports to the last answer after SIGTERM."""

import asyncio
import contextlib
import ctypes
import signal
import socket

import uvicorn

from keras_mixer.serving.server import connections, grpc_api, models, rest

# How long the requests under way may take to finish after SIGTERM.
_GRACE_SECONDS = 30


async def serve(base_path, flags):
    """Serve the versions in a folder until SIGINT or SIGTERM, by the verb's flags."""
    host, limits = flags.host, (flags.max_body_bytes, flags.timeout_seconds)
    versions = models.Versions(flags.model_name, base_path)
    grpc_server = await grpc_api.make_server(versions, *limits)
    try:
        listener = socket.create_server((host, flags.port))
        grpc_port = grpc_server.add_insecure_port(f"{host}:{flags.grpc_port}")
    except (OSError, RuntimeError) as error:
        ports = f"ports {flags.port} and {flags.grpc_port}"
        raise ValueError(f"Cannot listen on {host}, {ports}: {error}.") from error
    # One heap for all threads, where the C library is glibc. By default each has its
    # own, and keeps as much as the largest batch that it ever ran.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX
    await versions.look()
    watching = asyncio.create_task(versions.watch())
    await grpc_server.start()
    rest_url = f"http://{host}:{listener.getsockname()[1]}"
    line = f"A server for development. REST: {rest_url}, gRPC: {host}:{grpc_port}"
    print(line, flush=True)
    config = uvicorn.Config(
        rest.RestApi(versions, *limits).app,
        http=connections.ImpatientProtocol,
        timeout_keep_alive=flags.timeout_seconds,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=connections.MAX_WAITING,
        log_level="warning",
    )
    # uvicorn raises the signal that has ended it again; there is more to end, however.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(config).serve([listener])
    watching.cancel()
    await grpc_server.stop(_GRACE_SECONDS)
