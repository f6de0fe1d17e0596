"""Micro-batching: the requests of many clients for a signature run as one."""

import asyncio
import collections
import os

import numpy as np
import tensorflow as tf

from keras_mixer.serving.server.errors import Code, ServingError

# So many requests may wait; who comes then is told to come again.
_MAX_WAITING = 1000
# Batches at a time. With one the processor would wait while answers are written.
_AT_A_TIME = os.cpu_count()


class Signature:
    """A function of a SavedModel, from one tensor, the batch first, to a dict of such.

    Its requests run in batches. One starts as soon as a thread is free, with those that
    wait. Belongs to one event loop.
    """

    def __init__(self, function, max_rows):
        ((self.input_name, self.spec),) = function.structured_input_signature[1].items()
        self._function = function
        self._max_rows = max_rows
        self._free = _AT_A_TIME
        self._waiting = collections.deque()

    def check(self, received):
        """Refuse what would fail the others of its batch, by its `tf.TensorSpec`.

        It may be one that is only declared: nothing of that size is made before this.
        """
        rows = received.shape[0] if received.shape.rank else None
        if rows is not None and rows > self._max_rows:
            limit = f"maximum input batch size {self._max_rows}"
            raise ServingError(f"Task size {rows} is larger than {limit}")
        if rows is None or not self.spec.is_compatible_with(received):
            raise ServingError(f"Input must be {self.spec}. Received: {received}.")

    async def predict(self, rows, timeout_seconds):
        """Return the dict of output arrays for an array, run among others."""
        self.check(tf.TensorSpec(rows.shape, rows.dtype))
        if len(self._waiting) >= _MAX_WAITING:
            raise ServingError("The batch scheduling queue is full", Code.UNAVAILABLE)
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, answer))
        self._start()
        try:
            return await asyncio.wait_for(answer, timeout_seconds)
        except TimeoutError:
            sentence = f"No answer of the model within {timeout_seconds} seconds."
            raise ServingError(sentence, Code.DEADLINE_EXCEEDED) from None

    def run(self, parts):
        """Return the dict of output arrays for arrays that are joined to a batch."""
        outputs = self._function(
            **{self.input_name: tf.constant(np.concatenate(parts))}
        )
        return {name: outputs[name].numpy() for name in sorted(outputs)}

    def _start(self):
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            loop, parts = asyncio.get_running_loop(), [rows for rows, _ in batch]
            running = loop.run_in_executor(None, self.run, parts)
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
