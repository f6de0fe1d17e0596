"""Several devices and several processes train as one does."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_processes import history_of, start, state_of

from keras_mixer import training
from keras_mixer.training import TrainConfig, devices

# SGD by a clipped gradient: what is clipped shows, as it does not after Adam.
SETTINGS = {
    "epochs": 2,
    "ema_momentum": 0.9,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "clip_norm": 0.05,
}


def tf_config(ports, index):
    workers = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
    )


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start_workers(settings, folder, **environment):
    ports = free_ports(2)
    settings = {**settings, "strategy": "multi_worker"}
    return [
        start([(settings, folder)], TF_CONFIG=tf_config(ports, index), **environment)
        for index in range(2)
    ]


def finish(*children):
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors[-3000:]


def assert_same_training(one, other, tolerance=1e-5):
    """Losses and weights agree."""
    mine, theirs = state_of(one), state_of(other)
    weights = [name for name in mine if name.startswith("model/")]
    assert len(weights) > 20
    for name in weights:
        np.testing.assert_allclose(
            mine[name], theirs[name], atol=tolerance, err_msg=name
        )
    for row, expected in zip(history_of(one), history_of(other), strict=True):
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(float(value), abs=tolerance), name


def on_one_and_two(settings, folder, **changes):
    """Train on one device, and on two with other settings changed; in one process."""
    two = {**settings, "strategy": "mirrored", **changes}
    finish(
        start([(settings, folder / "one"), (two, folder / "two")], LOGICAL_DEVICES="2")
    )
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folders of a run on one device, and of it on two in two parts."""
    return on_one_and_two(
        SETTINGS, tmp_path_factory.mktemp("pair"), accumulation_steps=2
    )


@pytest.fixture
def single(pair):
    return pair[0]


@pytest.mark.slow
def test_mirrored_trains_in_parts_as_one_device_does(pair):
    one, two = pair
    assert_same_training(two, one)


@pytest.mark.parametrize(
    ("optimizer", "tolerance"),
    [
        ("adamw", 1e-5),
        # Making a gradient orthogonal also makes its rounding as large as the rest.
        pytest.param("muon", 2e-3, marks=pytest.mark.slow),
    ],
)
def test_optimizers_step_the_same_on_two_devices(optimizer, tolerance, tmp_path):
    settings = {"optimizer": optimizer, "clip_norm": 0.5, "epochs": 1}
    one, two = on_one_and_two(settings, tmp_path)
    assert_same_training(two, one, tolerance)


@pytest.mark.slow
def test_multi_worker_trains_as_one_process_does(single, tmp_path):
    finish(*start_workers(SETTINGS, tmp_path))
    assert_same_training(tmp_path, single)
    assert (tmp_path / "report.json").exists()


@pytest.mark.slow
def test_multi_worker_fails_when_a_worker_is_lost_and_resumes(single, tmp_path):
    """On two workers, then on one, then on two again: the weights stay the same."""
    settings = {**SETTINGS, "checkpoint_steps": 2}
    chief, other = start_workers({**settings, "stop_at": -3}, tmp_path)
    for child in (chief, other):
        for line in child.stdout:
            if line.strip() == "step 3":
                break
    other.kill()
    other.communicate(timeout=60)
    # The time limit is the test: the chief must not wait for ever.
    chief.communicate("\n", timeout=120)
    assert chief.returncode != 0
    alone = start([({**settings, "stop_at": 6}, tmp_path)])
    output, errors = alone.communicate(timeout=120)
    assert "Resuming" in output, errors[-3000:]
    assert "Stopped at step 7 of 10" in output, errors[-3000:]
    finish(*start_workers(settings, tmp_path))
    # The metrics of the epoch that was interrupted begin anew; the weights do not.
    mine, theirs = state_of(tmp_path), state_of(single)
    for name in (name for name in mine if name.startswith("model/")):
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_multi_worker_still_needs_the_repair():
    """Fails when Keras has mended issue 20585: then `MultiWorkerFit` can go."""
    program = textwrap.dedent(
        """
        import keras, numpy as np, tensorflow as tf
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0)
        """
    )
    ports = free_ports(2)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "TF_CONFIG": tf_config(ports, index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode != 0
        assert "PerReplica" in errors


def test_distribution_is_single_without_accelerators(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)
    where = devices.make_distribution("auto")
    if len(tf.config.list_logical_devices("GPU")) < 2:
        assert where == devices.Distribution()
    assert where.is_chief


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "needs the environment variable TF_CONFIG.*Received: none"),
        ("{", "TF_CONFIG must be JSON"),
        ("[1]", "TF_CONFIG must be JSON"),
        (tf_config([1, 2], 2), "task.index is 2, of 2 workers"),
        (tf_config([1, 2], "0"), "task.index is '0', of 2 workers"),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps"}}',
            "every task has to be of the type worker",
        ),
    ],
    ids=["none", "cut off", "a list", "index", "type of index", "parameter server"],
)
def test_multi_worker_refuses_a_tf_config_that_does_not_parse(monkeypatch, text, words):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=words):
        devices.make_distribution("multi_worker")


def test_multi_worker_refuses_a_model_that_is_built_before(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("TF_CONFIG", tf_config(free_ports(2), 0))
    with pytest.raises(ValueError, match=r"before a model is built.*model=PATH"):
        training.train(training.RECIPES["digits"], tmp_path / "run", model=tiny)
    assert not (tmp_path / "run").exists()


def test_tpu_says_that_there_is_none(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(ValueError, match=r"strategy=tpu needs a TPU.*--strategy=auto"):
        devices.make_distribution("tpu")


def test_strategy_and_precision_name_the_choices():
    with pytest.raises(
        ValueError, match=r"strategy must be one of auto, single.*='many'"
    ):
        devices.make_distribution("many")
    with pytest.raises(ValueError, match=r"precision must be one of .*='float8'"):
        devices.set_precision("float8")


def test_set_precision_sets_the_policy(policy):
    devices.set_precision("mixed_bfloat16")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    policy("float32")


def test_check_names_the_nearest_batch_sizes():
    where = devices.Distribution(None, replicas=3)
    where.check(TrainConfig(batch_size=12, accumulation_steps=2))
    with pytest.raises(ValueError, match=r"batch_size=20, 3 replicas.* 18 and 24\."):
        where.check(TrainConfig(batch_size=20, accumulation_steps=2))


def test_notes_say_what_does_nothing():
    config = TrainConfig(batch_size=2, mixup=0.2, jit_compile=True)
    assert devices.Distribution().notes_on(config) == []
    several = devices.Distribution(tf.distribute.get_strategy(), 2, 0, num_workers=2)
    jit, mixing = several.notes_on(config)
    assert jit.startswith("jit_compile has no effect")
    assert mixing.startswith("mixup and cutmix have no effect")


@pytest.mark.parametrize(
    "features, precision, instead",
    [
        (("AVX2",), "float32", None),
        (("AVX2",), "mixed_bfloat16", "float32"),
        (("AVX2",), "mixed_float16", "float32"),
        (("AVX2", "AVX512", "AVX512-BF16"), "mixed_bfloat16", None),
        (("AVX2", "AVX512", "AVX512-BF16"), "mixed_float16", "mixed_bfloat16"),
        (("AVX2", "AVX512-FP16"), "mixed_float16", None),
        ((), "mixed_bfloat16", None),
    ],
)
def test_notes_name_the_precision_for_this_cpu(
    monkeypatch, features, precision, instead
):
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    if kinds != {"CPU"}:
        pytest.skip("products in 16 bits are the accelerator's")
    monkeypatch.setattr(devices, "cpu_features", lambda: features)
    notes = devices.Distribution().notes_on(TrainConfig(precision=precision))
    assert [note.split(": use ")[1] for note in notes] == [f"{instead}."] * bool(
        instead
    )
    compiled = TrainConfig(precision=precision, jit_compile=True)
    assert devices.Distribution().notes_on(compiled) == []
