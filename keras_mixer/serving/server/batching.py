"""Micro-batching: the requests of many clients run as one."""

import collections
import concurrent.futures
import dataclasses
import threading
import time

import numpy as np

from keras_mixer.serving.server.errors import invalid_argument, unavailable


@dataclasses.dataclass
class _Task:
    inputs: dict
    size: int
    future: concurrent.futures.Future
    enqueued_seconds: float


class Batcher:
    """Run the tasks of one signature in batches, on threads of its own.

    Args:
        run: Function from a dict of arrays, the batch first, to a list of arrays.
        parameters: `BatchingParameters`, complete.
        name: Name of the threads.
    """

    def __init__(self, run, parameters, name):
        self._run = run
        self._limit = parameters.max_batch_size.value
        self._sizes = list(parameters.allowed_batch_sizes)
        self._timeout_seconds = parameters.batch_timeout_micros.value / 1e6
        self._capacity = self._limit * parameters.max_enqueued_batches.value
        self._tasks = collections.deque()
        self._rows = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(parameters.num_batch_threads.value)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, inputs, size):
        """Queue a task.

        Args:
            inputs: Dict of arrays, the batch first.
            size: Length of the batch.

        Returns:
            A `concurrent.futures.Future` of the list of output arrays.

        Raises:
            ServingError: If the task is larger than a batch may be, or the queue is
                full.
        """
        if size > self._limit:
            raise invalid_argument(
                f"Task size {size} is larger than maximum input batch size "
                f"{self._limit}"
            )
        future = concurrent.futures.Future()
        with self._changed:
            if self._closed:
                raise unavailable("The version is being unloaded")
            if self._rows + size > self._capacity:
                raise unavailable(
                    "The batch scheduling queue to which this task was submitted is "
                    "full"
                )
            self._tasks.append(_Task(inputs, size, future, time.monotonic()))
            self._rows += size
            self._changed.notify()
        return future

    def close(self):
        """Finish the queued tasks, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self):
        while tasks := self._next_batch():
            tasks = [t for t in tasks if t.future.set_running_or_notify_cancel()]
            if tasks:
                self._process(tasks)

    def _next_batch(self):
        with self._changed:
            while not self._tasks:
                if self._closed:
                    return []
                self._changed.wait()
            due_seconds = self._tasks[0].enqueued_seconds + self._timeout_seconds
            while self._rows < self._limit and not self._closed:
                wait_seconds = due_seconds - time.monotonic()
                if wait_seconds <= 0 or not self._tasks:
                    break
                self._changed.wait(wait_seconds)
            if not self._tasks:
                # Another thread took them all while this one waited.
                return self._next_batch()
            tasks = [self._tasks.popleft()]
            size = tasks[0].size
            fill = self._fill(min(self._rows, self._limit))
            while self._tasks and size + self._tasks[0].size <= fill:
                tasks.append(self._tasks.popleft())
                size += tasks[-1].size
            self._rows -= size
            return tasks

    def _fill(self, waiting):
        """Return how many of the waiting rows the next batch takes."""
        larger = next((n for n in self._sizes if n >= waiting), waiting)
        smaller = max((n for n in self._sizes if n <= waiting), default=waiting)
        # Rows of padding cost as much as others: better a full batch, and the rest in
        # the next one, than more than a quarter of padding.
        return waiting if waiting >= 0.75 * larger else smaller

    def _process(self, tasks):
        try:
            size = sum(task.size for task in tasks)
            outputs = self._run(self._merged(tasks, size))
            outputs = [output[:size] for output in outputs]
        except Exception as error:
            for task in tasks:
                task.future.set_exception(error)
            return
        start = 0
        for task in tasks:
            end = start + task.size
            task.future.set_result([output[start:end] for output in outputs])
            start = end

    def _merged(self, tasks, size):
        padding = next((n for n in self._sizes if n >= size), size) - size
        merged = {}
        for name in tasks[0].inputs:
            parts = [task.inputs[name] for task in tasks]
            if padding and size:
                first = next(part for part in parts if len(part))[:1]
                parts += [first] * padding
            merged[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return merged
