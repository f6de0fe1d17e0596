"""Requests that are joined to a batch, and told apart again."""

import asyncio
import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.serving.server import batching
from keras_mixer.serving.server.errors import Code, ServingError


class Double:
    """A function of a model; notes its batches; waits while it is held."""

    structured_input_signature = ((), {"x": tf.TensorSpec([None], tf.int64)})

    def __init__(self):
        self.batches = []
        self.go = threading.Event()

    def __call__(self, x):
        assert self.go.wait(10)
        self.batches.append(x.numpy().tolist())
        if any(x < 0):
            raise ValueError("negative")
        return {"y": 2 * x}


def batches(requests, max_rows=8, cancelled=()):
    """Send requests while the first of them runs.

    Returns:
        `(batches, answers)`: what ran together, and what each request got.
    """
    double = Double()

    async def run():
        signature = batching.Signature(double, max_rows)
        tasks = []
        for request in requests:
            predicted = signature.predict(np.array(request, "int64"), 10)
            tasks.append(asyncio.create_task(predicted))
            # The task begins, and waits.
            await asyncio.sleep(0)
        for index in cancelled:
            tasks[index].cancel()
        await asyncio.sleep(0)
        double.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(run())
    got = [a["y"].tolist() if isinstance(a, dict) else a for a in answers]
    return double.batches, got


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    monkeypatch.setattr(batching, "_AT_A_TIME", 1)


def test_signature_joins_and_parts_requests():
    ran, answers = batches([[1], [2, 3], [], [4, 5, 6]])
    assert ran == [[1], [2, 3, 4, 5, 6]]
    assert answers == [[2], [4, 6], [], [8, 10, 12]]


def test_signature_fills_no_batch_beyond_its_size():
    ran, answers = batches([[1], [2, 3], [4, 5], [6], [7, 8, 9]], max_rows=3)
    assert ran == [[1], [2, 3], [4, 5, 6], [7, 8, 9]]
    assert answers[-1] == [14, 16, 18]


def test_signature_runs_as_many_batches_as_there_are_processors(monkeypatch):
    monkeypatch.setattr(batching, "_AT_A_TIME", 2)
    ran, answers = batches([[1], [2], [3], [4]])
    assert sorted(ran) == [[1], [2], [3, 4]]
    assert answers == [[2], [4], [6], [8]]


def test_signature_fails_the_requests_of_a_batch_that_fails_and_no_others():
    ran, answers = batches([[1], [-1, 2], [3]], max_rows=2)
    assert ran == [[1], [-1, 2], [3]]
    assert [answers[0], answers[2]] == [[2], [6]]
    assert isinstance(answers[1], ValueError)


def test_signature_does_not_run_what_nobody_waits_for():
    ran, answers = batches([[1], [2], [3]], cancelled=[1])
    assert ran == [[1], [3]]
    assert isinstance(answers[1], asyncio.CancelledError)


def test_signature_parts_a_batch_that_somebody_has_left():
    ran, answers = batches([[1], [2]], cancelled=[0])
    assert ran == [[1], [2]]
    assert answers[1] == [4]


def test_signature_refuses_more_than_may_wait(monkeypatch):
    monkeypatch.setattr(batching, "_MAX_WAITING", 2)
    _, answers = batches([[1], [2], [3], [4]])
    assert answers[:3] == [[2], [4], [6]]
    assert isinstance(answers[3], ServingError)
    assert answers[3].code == Code.UNAVAILABLE


def test_signature_refuses_what_does_not_fit():
    _, answers = batches([[1], [2, 3, 4], [5]], max_rows=2)
    assert [answers[0], answers[2]] == [[2], [10]]
    assert "Task size 3 is larger than maximum input batch size 2" in str(answers[1])
    signature = batching.Signature(Double(), 2)
    for shape, dtype in [
        ([], "int64"),
        (None, "int64"),
        ([1, 1], "int64"),
        ([1], "float32"),
    ]:
        with pytest.raises(ServingError, match="Input must be TensorSpec"):
            signature.check(tf.TensorSpec(shape, dtype))
