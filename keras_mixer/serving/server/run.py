"""The server's life: from its configuration to the last answer after SIGTERM."""

import ctypes
import os
import resource
import signal
import socket

import tensorflow as tf
import uvicorn
from uvicorn.protocols.http import h11_impl

from keras_mixer.serving.server import grpc_api, manager, metrics, rest

_M_ARENA_MAX = -8  # malloc.h
# How long the requests under way may take to finish after SIGTERM.
_GRACE_SECONDS = 30
# How long a client may take to say what it wants.
_HEAD_SECONDS = 10.0
_MAX_FILES = 65_536


def _allow_many_connections():
    """Let the process open as many files as it may, and return their number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


def _impatient_protocol(head_seconds, max_waiting):
    """Return the protocol of uvicorn, for clients that begin requests and do not end.

    A connection is closed when the head of its request does not come in time, and the
    oldest of more than `max_waiting` whose request is not whole: those who ask find the
    server however many others only open connections to it.
    """
    waiting = {}

    class Protocol(h11_impl.H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self._look()

        def data_received(self, data):
            super().data_received(data)
            self._look()

        def connection_lost(self, exc):
            super().connection_lost(exc)
            self._stop_waiting()

        def _look(self):
            if not self._in_head() and not self.cycle.more_body:
                self._stop_waiting()
            elif self not in waiting:
                waiting[self] = self.loop.call_later(head_seconds, self._time_is_up)
                if len(waiting) > max_waiting:
                    next(iter(waiting))._give_up()

        def _in_head(self):
            return self.cycle is None or self.cycle.response_complete

        def _time_is_up(self):
            if self._in_head():
                self._give_up()
            else:
                # The API waits for bodies, and no longer than it is told to.
                waiting[self] = self.loop.call_later(head_seconds, self._time_is_up)

        def _stop_waiting(self):
            if self in waiting:
                waiting.pop(self).cancel()

        def _give_up(self):
            self._stop_waiting()
            self.transport.close()

    return Protocol


def _share_one_heap():
    """Let all threads allocate from one heap, where the C library is glibc.

    By default each thread comes to have its own, and keeps as much as the largest batch
    that it ever ran: the server would grow for minutes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)


def serve(
    read_config,
    *,
    host="127.0.0.1",
    port=8501,
    grpc_port=8500,
    poll_seconds=1.0,
    max_body_bytes=64 * 2**20,
    timeout_seconds=30.0,
):
    """Serve models until SIGINT or SIGTERM.

    Prints a line with both addresses when it answers.

    Args:
        read_config: Function that returns the `ModelServerConfig`; called at each poll.
        host: Address to listen on.
        port: Port of the REST API; 0 for a free one.
        grpc_port: Port of gRPC; 0 for a free one.
        poll_seconds: Seconds between looks for new versions.
        max_body_bytes: Size of the largest request.
        timeout_seconds: How long a client may take to send its request, and a model to
            answer it.

    Raises:
        ValueError: If the configuration cannot be read, or a port is taken.
    """
    read_config()
    listener = _listen(host, port)
    _share_one_heap()
    # As tf_serving/compose.yaml sets it.
    os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    # The session API is the one that TensorFlow Serving uses, deprecated or not.
    tf.get_logger().setLevel("ERROR")
    counted = metrics.Metrics()
    models = manager.Manager(read_config, counted)
    models.start(poll_seconds)
    grpc_server, bound_grpc_port = grpc_api.start_server(
        f"{host}:{grpc_port}",
        models,
        counted,
        max_body_bytes,
        timeout_seconds,
    )
    api = rest.RestApi(models, counted, max_body_bytes, timeout_seconds)
    server = uvicorn.Server(
        uvicorn.Config(
            api.app,
            http=_impatient_protocol(
                min(_HEAD_SECONDS, timeout_seconds),
                # What is left is for the models, for gRPC and for requests under way.
                max_waiting=_allow_many_connections() // 3,
            ),
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_SECONDS,
            lifespan="off",
        )
    )
    # From here on connections wait, if need be, and are not refused.
    listener.listen()
    print(
        "A server for development. REST: "
        f"http://{host}:{listener.getsockname()[1]}, "
        f"gRPC: {host}:{bound_grpc_port}",
        flush=True,
    )
    # Returns after SIGINT or SIGTERM, when the REST requests under way are answered;
    # then uvicorn raises the signal again. By default that would end the process here;
    # instead an alarm ends it, should the rest not end by itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: signal.alarm(2 * _GRACE_SECONDS))
    server.run(sockets=[listener])
    grpc_server.stop(_GRACE_SECONDS).wait()
    models.close()


def _listen(host, port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"Cannot listen on {host}:{port}: {error.strerror}."
        ) from error
    return listener
