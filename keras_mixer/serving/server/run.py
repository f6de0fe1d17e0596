"""The server's life: from its ports to the last answer after SIGTERM."""

import asyncio
import contextlib
import ctypes
import signal
import socket

import uvicorn

from keras_mixer.serving.server import connections, grpc_api, models, rest

# How long the requests under way may take to finish after SIGTERM. Kubernetes kills who
# is still there after 30 s (terminationGracePeriodSeconds).
_GRACE_SECONDS = 25
# And then, who has not been answered to be told so.
_FAREWELL_SECONDS = 2


class BothServers(uvicorn.Server):
    """Ends REST and gRPC side by side, so that both have the same grace."""

    def __init__(self, config, grpc_server):
        super().__init__(config)
        self._grpc_server = grpc_server

    async def shutdown(self, sockets=None):
        grace = self.config.timeout_graceful_shutdown
        stopping = asyncio.create_task(self._grpc_server.stop(grace))
        await super().shutdown(sockets)
        # uvicorn has cancelled those whose time is over, and does not wait for what
        # they say to that.
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_FAREWELL_SECONDS)
        await stopping


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
    await BothServers(config, grpc_server).serve([listener])
    watching.cancel()
