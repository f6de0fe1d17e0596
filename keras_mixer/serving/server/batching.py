"""Micro-batching: the requests of many clients run as one."""

import asyncio
import collections
import concurrent.futures
import os

import numpy as np

from keras_mixer.serving.server.errors import Code, ServingError

# So many requests may wait; who comes then is told to come again.
_MAX_WAITING = 1000

# Batches at a time. With one the processor would wait while answers are written.
_AT_A_TIME = os.cpu_count()


class Batcher:
    """Run requests in batches. Belongs to one event loop.

    A batch starts as soon as a thread is free, with the requests that wait.

    Args:
        run: Function from an array, the batch first, to a dict of such arrays.
        max_rows: Size of the largest batch.
    """

    def __init__(self, run, max_rows):
        self._run = run
        self._max_rows = max_rows
        self._threads = concurrent.futures.ThreadPoolExecutor(_AT_A_TIME)
        self._free = _AT_A_TIME
        self._waiting = collections.deque()

    async def submit(self, rows):
        """Return the outputs for an array of at most `max_rows` rows."""
        if len(self._waiting) >= _MAX_WAITING:
            raise ServingError(Code.UNAVAILABLE, "The batch scheduling queue is full")
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, answer))
        self._start()
        return await answer

    def _start(self):
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            running = asyncio.get_running_loop().run_in_executor(
                self._threads, self._run_batch, batch
            )
            running.add_done_callback(lambda done, batch=batch: self._end(done, batch))

    def _next_batch(self):
        batch, size = [], 0
        while self._waiting and size + len(self._waiting[0][0]) <= self._max_rows:
            rows, answer = self._waiting.popleft()
            # For a client that has gone nothing is computed.
            if not answer.done():
                batch.append((rows, answer))
                size += len(rows)
        return batch

    def _run_batch(self, batch):
        return self._run(np.concatenate([rows for rows, _ in batch]))

    def _end(self, done, batch):
        self._free += 1
        self._start()
        end = 0
        for rows, answer in batch:
            start, end = end, end + len(rows)
            if answer.done():
                continue
            if error := done.exception():
                answer.set_exception(error)
            else:
                answer.set_result({k: x[start:end] for k, x in done.result().items()})
