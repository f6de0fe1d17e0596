"""Training on batches from tf.data services: the same ones, whatever befalls these."""

import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import training_child
from PIL import Image
from program import keras_mixer_main
from training_processes import history_of, start, state_of

from keras_mixer import data

_PROGRAM = pathlib.Path(__file__).parents[2] / "export" / "input_service.py"
_service = tf.data.experimental.service


def serve(dispatchers=1, workers=1):
    """Start services in this process; return their addresses, and what holds them."""
    servers = [_service.DispatchServer() for _ in range(dispatchers)]
    addresses = [server.target for server in servers]
    servers += [
        _service.WorkerServer(
            _service.WorkerConfig(dispatcher_address=address.partition("://")[2])
        )
        for address in addresses
        for _ in range(workers)
    ]
    return ",".join(addresses), servers


def digits_batches(tiny, first_step, **settings):
    return data.training_batches(
        data.open_source("digits").splits["train"],
        data.Augmentation(crop_scale=0.5, flip=True),
        transform=tiny.get_layer("preprocessing"),
        image_size=(16, 16),
        classes=10,
        batch_size=64,
        epoch_steps=5,
        seed=3,
        first_step=first_step,
        **settings,
    )


@pytest.mark.parametrize(("dispatchers", "workers"), [(1, 1), (3, 1), (1, 2)])
def test_services_give_the_same_batches_in_the_same_order(tiny, dispatchers, workers):
    """Also from the middle of an epoch on, and past the end of it."""
    addresses, servers = serve(dispatchers, workers)
    services = data.find_services(addresses)
    assert len(services) == dispatchers
    here = digits_batches(tiny, 7).take(12)
    there = digits_batches(tiny, 7, services=services)
    assert there.element_spec == here.element_spec
    seen = 0
    for own, other in zip(here, there.take(12), strict=True):
        for one, another in zip(own, other, strict=True):
            np.testing.assert_array_equal(one, another)
        seen += 1
    assert seen == 12
    del servers


def test_services_give_each_training_worker_its_part(tiny):
    addresses, servers = serve(dispatchers=2)
    services = data.find_services(addresses)
    whole = next(iter(digits_batches(tiny, 0)))
    parts = [
        next(iter(digits_batches(tiny, 0, worker=n, num_workers=2, services=services)))
        for n in range(2)
    ]
    for number, rows in enumerate(whole):
        joined = np.concatenate([part[number] for part in parts])
        np.testing.assert_array_equal(joined, rows)
    del servers


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_file_that_a_service_cannot_read_is_told(tiny, tmp_path, damage):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(12):
            image = Image.new("RGB", (20, 20), (number, 0, 0))
            image.save(tmp_path / name / f"{number}.jpg")
    source = data.open_source(f"folder:{tmp_path}", val_fraction=0)
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes()[:100])
        if damage == "gone":
            path.unlink()
    addresses, servers = serve()
    words = {
        "gone": r"the same path for a tf\.data service.*/a/.*No such file",
        "cut": "that cannot be read",
    }
    with pytest.raises(ValueError, match=words[damage]):  # noqa: SIM117
        with data.errors_in_words(source):
            stream = data.training_batches(
                source.splits["train"],
                data.Augmentation(),
                transform=tiny.get_layer("preprocessing"),
                image_size=(16, 16),
                classes=2,
                batch_size=4,
                epoch_steps=4,
                seed=0,
                services=data.find_services(addresses),
            )
            list(stream.take(4))
    del servers


@pytest.mark.parametrize(
    "address", ["localhost:5050", "http://localhost:5050", "grpc://:5050", "grpc://a:b"]
)
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(ValueError, match=r"grpc://HOST:PORT.*Received: '"):
        data.find_services(address)


def test_no_service_at_the_address_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))  # and nothing listens
        address = f"grpc://localhost:{taken.getsockname()[1]}"
        result = keras_mixer_main(
            "train",
            "--dataset=digits",
            f"--data_service={address}",
            f"--output_dir={tmp_path}",
        )
    assert result.returncode == 1
    assert f"Received: {address}, which does not answer" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_service_without_a_worker_is_told(monkeypatch):
    monkeypatch.setattr("keras_mixer.data.service._ANSWER_SECONDS", 1)
    addresses, servers = serve(workers=0)
    with pytest.raises(
        ValueError, match=r"answers, but gives nothing within 1 s.*work"
    ):
        data.find_services(addresses)
    del servers


def start_service(port):
    service = subprocess.Popen(
        [sys.executable, _PROGRAM, "--host=localhost", f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert service.stdout.readline() == f"--data_service=grpc://localhost:{port}\n"
    return service


def two_free_ports():
    """Find a port that is free, as the one after it is."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
            try:
                next_one.bind(("localhost", port + 1))
            except OSError:
                continue
            return port


@pytest.mark.slow
def test_training_resumes_to_the_bit_when_a_service_was_killed(tmp_path):
    port = two_free_ports()
    # More steps than the service can have sent ahead when it is killed.
    reference = {"deterministic": True, "epochs": 12, "checkpoint_steps": 2}
    settings = {**reference, "data_service": f"grpc://localhost:{port}"}
    service = start_service(port)
    child = None
    try:
        child = start([({**settings, "stop_at": -7}, tmp_path / "with")])
        assert any(line == "step 7\n" for line in child.stdout)
        service.kill()
        service.wait()
        service = start_service(port)
        output, errors = child.communicate("\n", timeout=300)
        assert child.returncode == 0, errors[-2000:]
        assert "of 60: a tf.data service was started anew. The same comm" in output
        training_child.run(settings, tmp_path / "with")
    finally:
        for process in (service, child):
            if process:
                process.kill()
                process.communicate()
    training_child.run(reference, tmp_path / "without")
    state, expected = (state_of(tmp_path / name) for name in ("with", "without"))
    assert len(expected) > 50
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert history_of(tmp_path / "with") == history_of(tmp_path / "without")
