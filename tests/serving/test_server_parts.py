"""The parts of the local server, each by itself."""

import shutil
import threading
import time

import numpy as np
import pytest
import serving_support
from prometheus_client import parser

from keras_mixer.serving import warm_up
from keras_mixer.serving.server import batching, config, metrics
from keras_mixer.serving.server.errors import ServingError
from keras_mixer.serving.server.servable import Servable


def parameters(**values):
    message = config.BatchingParameters()
    for name, value in values.items():
        if name == "allowed_batch_sizes":
            message.allowed_batch_sizes.extend(value)
        else:
            getattr(message, name).value = value
    return config.complete(message)


class Model:
    """Doubles its input; notes the batches; waits while it is held."""

    def __init__(self):
        self.batches = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, inputs):
        assert self.go.wait(10)
        self.batches.append(inputs["x"].tolist())
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        return [2 * inputs["x"]]


@pytest.fixture
def held():
    """A model that holds its first task, so that the next ones queue up."""
    model = Model()
    model.go.clear()
    return model


def batcher(model, **values):
    values = {"max_batch_size": 8, "num_batch_threads": 1} | values
    return batching.Batcher(model, parameters(**values), "test")


def submit(target, *values):
    return target.submit({"x": np.array(values)}, len(values))


def wait_until_taken(target):
    serving_support.wait_for(lambda: not target._tasks, 10)


def test_batcher_joins_and_parts_requests(held):
    target = batcher(held)
    futures = [submit(target, 1)]
    wait_until_taken(target)
    futures += [submit(target, 2, 3), submit(target), submit(target, 4, 5, 6)]
    held.go.set()
    outputs = [future.result(10)[0].tolist() for future in futures]
    assert outputs == [[2], [4, 6], [], [8, 10, 12]]
    assert held.batches == [[1], [2, 3, 4, 5, 6]]
    target.close()


def test_batcher_pads_to_an_allowed_size(held):
    target = batcher(held, allowed_batch_sizes=[1, 4, 8])
    futures = [submit(target, 1)]
    wait_until_taken(target)
    futures += [submit(target, 2), submit(target, 3, 4)]
    held.go.set()
    outputs = [future.result(10)[0].tolist() for future in futures]
    assert outputs == [[2], [4], [6, 8]]
    assert held.batches == [[1], [2, 3, 4, 2]]
    target.close()


def test_batcher_leaves_a_rest_rather_than_pad_much(held):
    target = batcher(held, allowed_batch_sizes=[1, 4, 8])
    futures = [submit(target, 0)]
    wait_until_taken(target)
    futures += [submit(target, i) for i in range(1, 6)]
    held.go.set()
    for future in futures:
        future.result(10)
    assert held.batches == [[0], [1, 2, 3, 4], [5]]
    target.close()


def test_batcher_fills_no_batch_beyond_its_size(held):
    target = batcher(held, max_batch_size=3)
    futures = [submit(target, 1)]
    wait_until_taken(target)
    futures += [submit(target, 2, 3), submit(target, 4, 5), submit(target, 6)]
    held.go.set()
    for future in futures:
        future.result(10)
    assert held.batches == [[1], [2, 3], [4, 5, 6]]
    target.close()


def test_batcher_waits_for_more_as_long_as_it_is_told():
    model = Model()
    target = batcher(model, batch_timeout_micros=300_000)
    futures = [submit(target, 1), submit(target, 2)]
    time.sleep(0.05)
    futures.append(submit(target, 3))
    for future in futures:
        future.result(10)
    assert model.batches == [[1, 2, 3]]
    # A full batch does not wait.
    start = time.monotonic()
    submit(target, *range(8)).result(10)
    assert time.monotonic() - start < 0.25
    target.close()


def test_batcher_fails_the_tasks_of_a_batch_that_fails():
    target = batcher(Model())
    with pytest.raises(ValueError, match="negative"):
        submit(target, -1).result(10)
    assert submit(target, 1).result(10)[0].tolist() == [2]
    target.close()


def test_batcher_does_not_run_what_nobody_waits_for(held):
    target = batcher(held)
    first = submit(target, 1)
    wait_until_taken(target)
    gone, last = submit(target, 2), submit(target, 3)
    assert gone.cancel()
    held.go.set()
    assert first.result(10) and last.result(10)
    assert held.batches == [[1], [3]]
    target.close()


def test_batcher_refuses_what_does_not_fit(held):
    target = batcher(held, max_batch_size=2, max_enqueued_batches=2)
    with pytest.raises(ServingError, match=r"size 3 is larger .* batch size 2"):
        submit(target, 1, 2, 3)
    futures = [submit(target, 1)]
    wait_until_taken(target)
    futures += [submit(target, 1, 2), submit(target, 1, 2)]
    with pytest.raises(ServingError, match=r"queue .* is full") as raised:
        submit(target, 1)
    assert raised.value.http_status == 503
    held.go.set()
    target.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ServingError, match="unloaded"):
        submit(target, 1)


def test_batching_parameters_are_those_of_the_export(tmp_path):
    warm_up.write_batching_parameters(tmp_path, [1, 4, 16])
    read = config.read_parameters(tmp_path / "batching_params.pbtxt")
    assert read.max_batch_size.value == 16
    assert list(read.allowed_batch_sizes) == [1, 4, 16]
    assert read.batch_timeout_micros.value == 0
    assert read.max_enqueued_batches.value == 64


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_batch_size: 3", "cannot be read"),
        ("nope { value: 3 }", "cannot be read"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "ascend"),
        ("max_batch_size { value: 2 } allowed_batch_sizes: [2, 1]", "ascend"),
        ("num_batch_threads { value: 40000 }", "from 1 to 256. Received: 40000"),
        ("max_batch_size { value: -1 }", "from 1 to 100000. Received: -1"),
    ],
)
def test_batching_parameters_refused(tmp_path, text, message):
    (tmp_path / "params").write_text(text)
    with pytest.raises(ValueError, match=message):
        config.read_parameters(tmp_path / "params")


def test_metrics_page_is_what_prometheus_reads():
    counted = metrics.Metrics()
    for seconds in (5e-6, 0.1, 10_000.0):
        counted.request('a"b\\c\n', "OK", "predict", "REST", seconds)
    counted.batch("m", 3)
    counted.load("m", "success")
    samples = {
        (sample.name, sample.labels.get("le")): sample
        for family in parser.text_string_to_metric_families(counted.page())
        for sample in family.samples
    }
    name = ":tensorflow:serving:request_latency"
    assert samples[f"{name}_count", None].value == 3
    assert samples[f"{name}_sum", None].value == pytest.approx(1.00001e10)
    assert samples[f"{name}_bucket", "10"].value == 1
    assert samples[f"{name}_bucket", "+Inf"].value == 3
    assert samples[f"{name}_count", None].labels["model_name"] == 'a"b\\c\n'
    batches = ":tensorflow:serving:batching_session:processed_batch_size"
    assert samples[f"{batches}_sum", None].value == 3


@pytest.mark.slow
def test_servable_is_warm_before_its_first_request(exported, files):
    """The first real request costs under twice the steady one."""
    images = np.array(list(files.values()) * 2, object)

    def ratio():
        servable = Servable("mixer", 1, exported / "1", metrics.Metrics())
        seconds = []
        for _ in range(15):
            start = time.perf_counter()
            servable.submit("", {"image_bytes": images}).result(60)
            seconds.append(time.perf_counter() - start)
        servable.close()
        return seconds[0] / np.median(seconds[1:])

    # Other processes of this machine can disturb one load, not all of them.
    assert any(ratio() < 2 for _ in range(4))


def test_servable_refuses_what_is_no_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be served"):
        Servable("mixer", 1, tmp_path, metrics.Metrics())


def test_servable_refuses_a_version_whose_warm_up_fails(exported, tmp_path):
    copy = tmp_path / "1"
    shutil.copytree(exported / "1", copy)
    (copy / warm_up.RECORDS).write_bytes(b"not a TFRecord, though long enough")
    with pytest.raises(ValueError, match="cannot be served"):
        Servable("mixer", 1, copy, metrics.Metrics())
