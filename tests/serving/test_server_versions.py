"""The local server while versions come and go: hot swap, killed exports."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import requests
from serving_support import (
    EXPORT,
    LABELS,
    SUPPORT,
    random_model,
    running_server,
    wait_for,
)

from keras_mixer.serving import export


@pytest.fixture
def base_dir(exported, tmp_path):
    """A base directory of its own, with version 1."""
    shutil.copytree(exported, tmp_path / "mixer")
    return tmp_path / "mixer"


def states(server):
    statuses = requests.get(server.model_url, timeout=60).json()["model_version_status"]
    return {int(status["version"]): status["state"] for status in statuses}


def truth(version, files):
    """What TensorFlow itself says of images by a version's SavedModel."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant(list(files.values())))
    return answer["top_k_scores"].numpy()


def scores(rows):
    return np.array([row["top_k_scores"] for row in rows])


def write_files(files, directory):
    directory.mkdir()
    for name, file in files.items():
        (directory / name).write_bytes(file)
    return sorted(str(path) for path in directory.iterdir())


def load_test(*arguments):
    return subprocess.Popen(
        [sys.executable, "load_test.py", "--json", *arguments],
        cwd=EXPORT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Kills the exporter just before it does something, the exporter being a fork of a
# process that has imported all it needs.
KILLED_EXPORTS = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
from keras_mixer.serving import card, publishing, export, signatures, warm_up
from tensorflow.python.lib.io import file_io
import serving_support

MOMENTS = {
    "tracing": (signatures.Signatures, "functions"),
    "between variables and graph": (file_io, "atomic_write_string_to_file"),
    "between graph and card": (card, "describe"),
    "among warm-up requests": (warm_up, "_prediction_log"),
    "before flushing": (publishing, "_flush"),
    "before renaming": (pathlib.Path, "rename"),
}

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

for moment, (owner, name) in MOMENTS.items():
    child = os.fork()
    if child == 0:
        setattr(owner, name, die)
        model = serving_support.random_model(seed=5)
        export.export_saved_model(model, sys.argv[1], top_k=3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(moment, os.WIFSIGNALED(status) and os.WTERMSIG(status), flush=True)
"""


@pytest.mark.slow
def test_server_swaps_versions_under_load_and_survives_killed_exports(
    base_dir, tmp_path, files
):
    paths = write_files(files, tmp_path / "images")
    with running_server(tmp_path, base_dir) as server:
        before = server.ask(*files.values())
        killed = subprocess.run(
            [
                sys.executable,
                "-c",
                KILLED_EXPORTS,
                base_dir,
                SUPPORT,
            ],
            capture_output=True,
            text=True,
        )
        assert killed.stdout.count(" 9\n") == 6, killed.stdout + killed.stderr
        # What is left is no version, and the server polls every second.
        assert len([n for n in os.listdir(base_dir) if n.startswith(".tmp-")]) == 6
        time.sleep(1.5)
        assert states(server) == {1: "AVAILABLE"}
        np.testing.assert_allclose(scores(server.ask(*files.values())), scores(before))

        load = load_test(
            *paths,
            f"--url={server.model_url},grpc://{server.grpc}/v1/models/mixer",
            "--seconds=600",
            "--new_versions",
            "--connections=8",
        )
        process = psutil.Process(server.process.pid)
        wait_for(lambda: len(process.net_connections("tcp")) > 2 + 4)
        export.export_saved_model(
            random_model(seed=1), base_dir, labels=LABELS, top_k=3
        )
        wait_for(lambda: states(server) == {2: "AVAILABLE"})
        time.sleep(3)
        load.terminate()
        output, errors = load.communicate()
        assert load.returncode == 0, output + errors
        report = json.loads(output)
        assert report["failed"] == report["wrong"] == {}
        assert report["images"] > 50
        after = server.ask(*files.values())
        # All answers are those of one whole version or the other.
        known = [truth(base_dir / version, files) for version in ("1", "2")]
        swapped = 0
        for i, name in enumerate(files):
            answers = report["answers"][str(tmp_path / "images" / name)]
            for answer in answers:
                differences = [
                    np.abs(np.array(answer["top_k_scores"]) - of_version[i]).max()
                    for of_version in known
                ]
                assert min(differences) < 1e-5
            swapped += len(answers) > 1
        assert swapped
        np.testing.assert_allclose(scores(before), known[0], atol=1e-5)
        np.testing.assert_allclose(scores(after), known[1], atol=1e-5)

        # A version that cannot be loaded changes nothing, and is said to have failed.
        (base_dir / "3").mkdir()
        (base_dir / "3" / "saved_model.pb").write_bytes(b"junk")
        wait_for(lambda: states(server).get(3) == "END")
        assert states(server)[2] == "AVAILABLE"
        status = requests.get(f"{server.model_url}/versions/3", timeout=60).json()
        status = status["model_version_status"][0]["status"]
        assert status["error_code"] == "UNKNOWN"
        assert "cannot be served" in status["error_message"]
        np.testing.assert_allclose(scores(server.ask(*files.values())), scores(after))
        # So does a base directory that is gone.
        base_dir.rename(tmp_path / "away")
        time.sleep(1.5)
        assert states(server)[2] == "AVAILABLE"
        np.testing.assert_allclose(scores(server.ask(*files.values())), scores(after))
