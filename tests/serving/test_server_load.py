"""The local server under load: `--load-seconds=60` for the figures of the README."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from serving_support import EXPORT, running_server

import keras_mixer
from keras_mixer.catalog import processor
from keras_mixer.serving import export

CONNECTIONS = 16


@pytest.fixture(scope="module")
def large(request, tmp_path_factory):
    """A model of the size of those that are served, with random weights."""
    is_long = request.config.getoption("--load-seconds") >= 60
    build = keras_mixer.MlpMixerB16 if is_long else keras_mixer.MlpMixerS32
    model = build(classes=50)
    rng = np.random.default_rng(0)
    head = model.get_layer("head").kernel
    head.assign(rng.normal(0, 0.1, head.shape))
    base_dir = tmp_path_factory.mktemp("large") / "mixer"
    # Every size, so that the server has nothing to pad.
    export.export_saved_model(model, base_dir, batch_sizes=range(1, CONNECTIONS + 1))
    return base_dir


# What the model alone gives in a process of its own, at its best batch size.
ALONE = """
import sys, time
import tensorflow as tf

signature = tf.saved_model.load(sys.argv[1]).signatures["images"]
best = 0.0
for size in (4, 8, 16):
    images = tf.random.uniform((size, 224, 224, 3), 0, 255)
    signature(images=images)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 4.0:
        signature(images=images)["probabilities"].numpy()
        count += size
    best = max(best, count / (time.perf_counter() - start))
print(best)
"""


def best_images_per_second(version):
    # As the server sets it; in this process it would break the tests that train.
    environ = os.environ | processor.fastest_settings(serves=True)
    command = [sys.executable, "-c", ALONE, version]
    return float(subprocess.check_output(command, env=environ, text=True))


@pytest.mark.slow
def test_server_stands_a_mixed_load(large, files, tmp_path, request, capsys):
    seconds = request.config.getoption("--load-seconds")
    is_long = seconds >= 60
    paths = []
    for name, file in files.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(file)
    alone = best_images_per_second(large / "1") if is_long else None
    with running_server(tmp_path, large) as server:
        process = psutil.Process(server.process.pid)
        start = time.monotonic()
        load = subprocess.Popen(
            [
                sys.executable,
                EXPORT / "load_test.py",
                *paths,
                f"--url={server.model_url}",
                f"--connections={CONNECTIONS}",
                f"--seconds={seconds}",
                "--broken=0.05",
                "--json",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        memory = []
        while load.poll() is None:
            memory.append((time.monotonic() - start, process.memory_info().rss))
            time.sleep(0.5)
        output = load.communicate()[0]
    assert load.returncode == 0, output
    report = json.loads(output)
    assert report["wrong"] == report["failed"] == {}
    assert report["broken_requests"] > 0
    assert report["images"] > CONNECTIONS
    if not is_long:
        return
    at_20, at_60 = (
        np.median([rss for t, rss in memory if abs(t - moment) < 2])
        for moment in (20, seconds - 3)
    )
    # Before and after: other programs of the machine come and go.
    alone = (alone + best_images_per_second(large / "1")) / 2
    share = report["images_per_second"] / alone
    with capsys.disabled():
        print(
            f"\n{report['images_per_second']} images/s, {share:.0%} of {alone:.1f}; "
            f"memory {at_20 / 2**20:.0f} to {at_60 / 2**20:.0f} MiB; "
            f"latency {report['latency_ms']}"
        )
    assert abs(at_60 / at_20 - 1) < 0.05
    assert share >= 0.85
