"""Requests that are joined to a batch, and told apart again."""

import asyncio
import threading

import numpy as np
import pytest

from keras_mixer.serving.server import batching
from keras_mixer.serving.server.errors import Code, ServingError


class Model:
    """Doubles its input; notes the batches; waits while it is held."""

    def __init__(self):
        self.batches = []
        self.go = threading.Event()

    def __call__(self, rows):
        assert self.go.wait(10)
        self.batches.append(rows.tolist())
        if (rows < 0).any():
            raise ValueError("negative")
        return {"y": 2 * rows}


def batches(requests, max_rows=8, cancelled=()):
    """Send requests while the first of them runs.

    Returns:
        `(batches, answers)`: what ran together, and what each request got.
    """
    model = Model()

    async def run():
        batcher = batching.Batcher(model, max_rows)
        tasks = []
        for request in requests:
            submitted = batcher.submit(np.array(request, int))
            tasks.append(asyncio.create_task(submitted))
            # The task begins, and waits.
            await asyncio.sleep(0)
        for index in cancelled:
            tasks[index].cancel()
        await asyncio.sleep(0)
        model.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(asyncio.wait_for(run(), 20))
    return model.batches, [
        a["y"].tolist() if isinstance(a, dict) else a for a in answers
    ]


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    monkeypatch.setattr(batching, "_AT_A_TIME", 1)


def test_batcher_joins_and_parts_requests():
    ran, answers = batches([[1], [2, 3], [], [4, 5, 6]])
    assert ran == [[1], [2, 3, 4, 5, 6]]
    assert answers == [[2], [4, 6], [], [8, 10, 12]]


def test_batcher_fills_no_batch_beyond_its_size():
    ran, answers = batches([[1], [2, 3], [4, 5], [6], [7, 8, 9]], max_rows=3)
    assert ran == [[1], [2, 3], [4, 5, 6], [7, 8, 9]]
    assert answers[-1] == [14, 16, 18]


def test_batcher_runs_as_many_batches_as_there_are_processors(monkeypatch):
    monkeypatch.setattr(batching, "_AT_A_TIME", 2)
    ran, answers = batches([[1], [2], [3], [4]])
    assert sorted(ran) == [[1], [2], [3, 4]]
    assert answers == [[2], [4], [6], [8]]


def test_batcher_fails_the_requests_of_a_batch_that_fails_and_no_others():
    ran, answers = batches([[1], [-1, 2], [3]], max_rows=2)
    assert ran == [[1], [-1, 2], [3]]
    assert [answers[0], answers[2]] == [[2], [6]]
    assert isinstance(answers[1], ValueError)


def test_batcher_does_not_run_what_nobody_waits_for():
    ran, answers = batches([[1], [2], [3]], cancelled=[1])
    assert ran == [[1], [3]]
    assert isinstance(answers[1], asyncio.CancelledError)


def test_batcher_parts_a_batch_that_somebody_has_left():
    ran, answers = batches([[1], [2]], cancelled=[0])
    assert ran == [[1], [2]]
    assert answers[1] == [4]


def test_batcher_refuses_more_than_may_wait(monkeypatch):
    monkeypatch.setattr(batching, "_MAX_WAITING", 2)
    _, answers = batches([[1], [2], [3], [4]])
    assert answers[:3] == [[2], [4], [6]]
    assert isinstance(answers[3], ServingError)
    assert answers[3].code == Code.UNAVAILABLE
