"""Labelling on a Ray cluster: two workers on this machine, and what may befall them."""

import contextlib
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jsonschema
import numpy as np
import psutil
import pytest
import yaml
from collections_rack import write_files
from image_rack import encode
from program import keras_mixer_main

import keras_mixer
from keras_mixer.data.collections import Collection, Record
from keras_mixer.serving import bulk, cluster

_RAY_KIT = pathlib.Path(__file__).parents[2] / "export" / "ray"
_NANO = ("--model=MlpMixerNano4", "--weights=cifar10", "--shard_size=20")


@pytest.fixture(scope="module")
def ray_cluster():
    """A cluster of this process, which ends with it, however that ends."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    started = ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=10**8,
    )
    yield started.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six hundred files, two of which are no images."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (20, 40, 50, 3), "uint8")
    few = [encode(image, "JPEG") for image in pixels]
    images = {f"{n:03d}.jpg": few[n % 20] for n in range(600)}
    images |= {"007.jpg": b"no image", "411.jpg": b""}
    return write_files(tmp_path_factory.mktemp("photographs"), images)


@pytest.fixture(scope="module")
def labelled_here(photographs, tmp_path_factory):
    """What one process writes of them."""
    folder = tmp_path_factory.mktemp("here") / "answers"
    result = keras_mixer_main("predict", photographs, *_NANO, f"--output={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def rows_of(folder):
    """How many images a run has written so far."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "_manifest.json").read_text())["images"]
    return 0


def replicas():
    """Processes of this process' cluster that label."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::Replica" in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_until(happened, process):
    until = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def start(photographs, folder, address):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_mixer", "predict", photographs, *_NANO),
            *(f"--output={folder}", f"--cluster={address}", "--replicas=2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_cluster_is_told_in_a_sentence(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("localhost", 0))  # and nothing listens
        address = f"localhost:{taken.getsockname()[1]}"
        result = keras_mixer_main(
            *("predict", photographs, *_NANO, f"--output={tmp_path / 'answers'}"),
            f"--cluster={address}",
        )
    assert result.returncode == 1
    assert result.stderr.startswith("keras-mixer: cluster must be auto")
    assert f"Received: {address} ([Errno 111] Connection refused)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cluster=auto"], "A cluster writes to a folder"),
        (["--cluster=auto", "--output=a.csv"], "Received: --output=a.csv"),
        (["--replicas=2"], "--replicas without --cluster"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(photographs, flags, words):
    result = keras_mixer_main("predict", photographs, *_NANO, *flags)
    assert result.returncode == 1
    assert words in result.stderr


@pytest.mark.slow
def test_killed_workers_and_drivers_leave_what_one_process_writes(
    ray_cluster, photographs, labelled_here, tmp_path
):
    folder = tmp_path / "answers"
    driver = start(photographs, folder, ray_cluster)
    wait_until(lambda: rows_of(folder) >= 40, driver)
    replicas()[0].kill()
    before = rows_of(folder)
    wait_until(lambda: rows_of(folder) > before, driver)
    driver.kill()
    driver.communicate()
    before = rows_of(folder)
    assert 40 < before < 600

    driver = start(photographs, folder, ray_cluster)
    wait_until(lambda: rows_of(folder) > before, driver)
    replicas()[0].kill()
    output, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    assert f"Wrote {folder}: 600 images, 2 of them unreadable." in output
    assert f"{before:,} images are done: going on." in errors
    assert files_of(folder) == files_of(labelled_here)


@pytest.mark.slow
def test_replicas_that_cannot_work_end_the_run_in_a_sentence(
    ray_cluster, tmp_path, monkeypatch
):
    class Poison:
        """What ends the process that reads it."""

        def read(self, at):
            os._exit(1)

    layout = bulk.Layout("jsonl")
    with pytest.raises(ValueError, match=r"replicas=3, of a cluster with 2 processors"):
        list(cluster.label_slices([], layout, replicas=3, model="x.keras"))
    with pytest.raises(ValueError, match=r"gone\.keras"):
        list(cluster.label_slices([], layout, model=tmp_path / "gone.keras"))

    monkeypatch.setattr("keras_mixer.serving.cluster.label._RETRIES", 0)
    nano = {"model": "MlpMixerNano4", "weights": "cifar10", "replicas": 1}
    slices = [(0, [Record("a.jpg", Poison())])]
    with pytest.raises(OSError, match="one slice over which 1 died"):
        list(cluster.label_slices(slices, layout, **nano))


@pytest.mark.slow
def test_slices_are_taken_as_replicas_become_free(ray_cluster, photographs):
    """Of a list of a hundred million images no more than that is in memory."""
    taken = []

    def slices():
        records = iter(Collection([photographs]))
        for number in range(6):
            taken.append(number)
            yield number, list(itertools.islice(records, 2))

    nano = {"model": "MlpMixerNano4", "weights": "cifar10"}
    labelled = cluster.label_slices(slices(), bulk.Layout("jsonl"), **nano)
    number, shard = next(labelled)
    assert len(taken) == 2
    names = [
        name for _, name in sorted([(number, shard.first), *first_names(labelled)])
    ]
    assert [pathlib.Path(name).name for name in names] == [
        f"{n:03d}.jpg" for n in range(0, 12, 2)
    ]


def first_names(labelled):
    return [(number, shard.first) for number, shard in labelled]


@pytest.mark.slow
def test_the_line_of_the_page_works(ray_cluster, photographs, labelled_here, tmp_path):
    page = (_RAY_KIT.parents[1] / "docs" / "labelling.md").read_text("utf-8")
    (line,) = [row for row in page.splitlines() if "--cluster=auto" in row]
    here = {
        "s3://bucket/photos": str(photographs),
        "--output=answers/photos": f"--output={tmp_path}",
        "--replicas=16": "--replicas=1",
    }
    assert set(here) < set(line.split())
    words = [here.get(word, word) for word in line.split()[1:]]
    result = keras_mixer_main(*words, *_NANO)
    assert result.returncode == 0, result.stderr
    assert files_of(tmp_path) == files_of(labelled_here)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["bytes", "path"])
def test_predict_dataset_adds_columns(ray_cluster, photographs, tiny, column):
    import ray

    paths = sorted(photographs.iterdir())[:9]
    rows = [
        {"id": n, "path": str(path), "bytes": path.read_bytes()}
        for n, path in enumerate(paths)
    ]
    other = {"bytes": "path", "path": "bytes"}[column]
    dataset = ray.data.from_items(rows).drop_columns([other])
    labels = [f"class {n}" for n in range(tiny.output_shape[-1])]
    settings = {"labels": labels, "top_k": 2, "features": True, "batch_size": 4}
    found = keras_mixer.predict_dataset(tiny, dataset, replicas=1, **settings)
    rows = sorted(found.take_all(), key=lambda row: row["id"])
    expected = list(keras_mixer.predict_files(tiny, paths, **settings))
    assert list(rows[0]) == [
        *("id", column, "valid", "reason", "classes", "labels", "scores", "features")
    ]
    for row, (_, answer) in zip(rows, expected, strict=True):
        assert row["valid"] == (answer.error is None)
        assert row["reason"] == answer.error
        if answer.error is None:
            classes, labels, scores = zip(*answer.guesses, strict=True)
            assert tuple(row["classes"]) == classes
            assert tuple(row["labels"]) == labels
            np.testing.assert_allclose(row["scores"], scores, rtol=1e-5)
            np.testing.assert_allclose(row["features"], answer.features, rtol=1e-4)
    assert [row["id"] for row in rows if not row["valid"]] == [7]


@pytest.mark.slow
def test_predict_dataset_refuses_one_without_images(ray_cluster, tiny):
    import ray

    with pytest.raises(ValueError, match=r"`bytes` or `path`\. Received: one with id"):
        keras_mixer.predict_dataset(tiny, ray.data.range(3))


def test_cluster_file_is_one_that_ray_takes():
    import ray

    schema = pathlib.Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    config = yaml.safe_load((_RAY_KIT / "cluster.yaml").read_text())
    jsonschema.validate(config, json.loads(schema.read_text()))
    assert "ray start --head" in config["head_start_ray_commands"][-1]
    assert "ray start --address" in config["worker_start_ray_commands"][-1]


def test_ray_job_goes_on_where_a_driver_stopped():
    job = yaml.safe_load((_RAY_KIT / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    head = spec["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    (output,) = [w for w in spec["entrypoint"].split() if w.startswith("--output=")]
    pod = head["template"]["spec"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert output.removeprefix("--output=").startswith(mount["mountPath"])
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert float(limits["cpu"]).is_integer()
