"""Which versions are served: those that are half-copied, odd, late, or taken back."""

import asyncio
import contextlib
import gc
import shutil
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from serving_support import LABELS, random_model
from tensorflow_serving.apis import model_pb2

from keras_mixer.serving import export, warm_up
from keras_mixer.serving.server import models
from keras_mixer.serving.server.errors import Code, ServingError

MIXER = model_pb2.ModelSpec(name="mixer")


def spec_of(number):
    spec = model_pb2.ModelSpec(name="mixer")
    spec.version.value = number
    return spec


@pytest.fixture(scope="module")
def quickly_warm(tmp_path_factory):
    base_dir = tmp_path_factory.mktemp("models") / "mixer"
    options = {"labels": LABELS, "top_k": 3, "batch_sizes": [1]}
    export.export_saved_model(random_model(), base_dir, **options)
    return base_dir


@pytest.fixture
def base_dir(quickly_warm, tmp_path):
    """A base directory of its own, with version 1."""
    shutil.copytree(quickly_warm, tmp_path / "mixer")
    return tmp_path / "mixer"


def states(versions):
    """Return the states by number, or nothing where no version is known."""
    with contextlib.suppress(ServingError):
        found = versions.status(MIXER).model_version_status
        return {s.version: models.State.State.Name(s.state) for s in found}
    return {}


def looked(*versions_and_steps):
    """Look once before and once after each step, and return the states seen."""
    versions, *steps = versions_and_steps

    async def run():
        await versions.look()
        seen = [states(versions)]
        for step in steps:
            step()
            await versions.look()
            seen.append(states(versions))
        return seen

    return asyncio.run(run())


def copy(base_dir, name, *left_out):
    ignore = shutil.ignore_patterns(*left_out)
    shutil.copytree(base_dir / "1", base_dir / name, ignore=ignore, dirs_exist_ok=True)


@pytest.mark.parametrize(
    "missing", ["variables", "assets.extra", "batching_params.pbtxt", "saved_model.pb"]
)
def test_versions_tries_again_when_a_copy_is_complete(base_dir, missing):
    versions = models.Versions("mixer", base_dir)
    seen = looked(
        versions,
        lambda: copy(base_dir, "2", missing),
        lambda: None,
        lambda: copy(base_dir, "2"),
    )
    failed = {2: "END", 1: "AVAILABLE"}
    assert seen == [{1: "AVAILABLE"}, failed, failed, {2: "AVAILABLE"}]


def test_versions_does_not_try_again_what_has_not_changed(base_dir, monkeypatch):
    tried = []

    class Broken:
        def __init__(self, path, number):
            tried.append(number)
            raise RuntimeError(f"{path} is broken")

    monkeypatch.setattr(models, "SavedModel", Broken)
    versions = models.Versions("mixer", base_dir)
    nothing = [lambda: None] * 3
    assert looked(versions, *nothing) == [{1: "END"}] * 4
    assert tried == [1]
    # What clients read names no folder of this machine.
    (status,) = versions.status(MIXER).model_version_status
    assert status.status.error_code == Code.UNKNOWN.value[0]
    assert "cannot be served" in status.status.error_message
    with pytest.raises(ServingError, match="Servable not found"):
        versions.find(MIXER)
    looked(versions, lambda: (base_dir / "1" / "new").touch())
    assert tried == [1, 1]


def test_versions_passes_over_what_is_no_version(base_dir):
    for name in ("9" * 23, "9223372036854775808", "-3", "1e3", "²"):
        copy(base_dir, name)
    (base_dir / "7").touch()
    versions = models.Versions("mixer", base_dir)
    assert looked(versions, lambda: copy(base_dir, "0012")) == [
        {1: "AVAILABLE"},
        {12: "AVAILABLE"},
    ]


def test_versions_goes_back_when_the_new_one_is_removed(base_dir, tmp_path):
    versions = models.Versions("mixer", base_dir)
    seen = looked(
        versions,
        lambda: copy(base_dir, "2"),
        lambda: shutil.rmtree(base_dir / "2"),
        # A folder that is gone changes nothing.
        lambda: base_dir.rename(tmp_path / "away"),
    )
    one, two = {1: "AVAILABLE"}, {2: "AVAILABLE"}
    assert seen == [one, two, one, one]


def test_versions_frees_the_one_before(base_dir):
    versions = models.Versions("mixer", base_dir)
    looked(versions)
    old = weakref.ref(versions.find(spec_of(1)))
    held = old()
    looked(versions, lambda: copy(base_dir, "2"))
    gc.collect()
    # A request that is under way has it still, and is answered.
    rows = np.array([b"x"], object)
    assert not held.signature("").run([rows])["valid"][0]
    del held
    looked(versions)
    assert old() is None


def test_versions_outlives_any_error(base_dir, monkeypatch, caplog):
    versions = models.Versions("mixer", base_dir)
    errors = [OSError("no files left"), RuntimeError("can't start new thread")]
    good = models._highest

    def sometimes(path):
        if errors:
            raise errors.pop()
        return good(path)

    async def run():
        watching = asyncio.create_task(versions.watch(0.01))
        while states(versions).get(1) != "AVAILABLE":
            await asyncio.sleep(0.01)
        watching.cancel()

    monkeypatch.setattr(models, "_highest", sometimes)
    asyncio.run(asyncio.wait_for(run(), 60))
    assert "no files left" in caplog.text and "start new thread" in caplog.text


def test_versions_find_what_is_asked_for(base_dir):
    versions = models.Versions("mixer", base_dir)
    looked(versions)
    assert versions.find(MIXER) is versions.find(spec_of(1))
    for spec, sentence in [
        (spec_of(2), "Servable not found for request: .*value: 2"),
        (model_pb2.ModelSpec(name="nope"), "Servable not found for request: .*nope"),
        (model_pb2.ModelSpec(), "no name specified"),
        (
            model_pb2.ModelSpec(name="mixer", version_label="stable"),
            "Unrecognized .* label: stable. Labels are TensorFlow Serving's alone",
        ),
    ]:
        for ask in (versions.find, versions.metadata):
            with pytest.raises(ServingError, match=sentence):
                ask(spec)
        with pytest.raises(ServingError, match=f"{sentence}|Could not find model"):
            versions.status(spec)


@pytest.mark.parametrize("file", ["saved_model.pb", warm_up.RECORDS])
def test_saved_model_refuses_what_is_damaged(base_dir, file):
    (base_dir / "1" / file).write_bytes(b"junk, and long enough for a header")
    with pytest.raises((OSError, ValueError, tf.errors.OpError)):
        models.SavedModel(base_dir / "1", 1)


def test_signature_answers_in_time_or_says_so(base_dir, monkeypatch):
    signature = models.SavedModel(base_dir / "1", 1).signature("")
    rows = np.array([b"x"], object)
    answer = asyncio.run(signature.predict(rows, 60))
    assert answer["valid"].tolist() == [False]
    monkeypatch.setattr(signature, "run", lambda parts: time.sleep(0.5))
    with pytest.raises(ServingError, match=r"within 0\.1 seconds") as raised:
        asyncio.run(signature.predict(rows, 0.1))
    assert raised.value.code == Code.DEADLINE_EXCEEDED


@pytest.mark.slow
def test_saved_model_is_warm_before_its_first_request(exported, files):
    """The first real request costs under twice the steady one."""
    images = np.array(list(files.values()) * 2, object)

    def ratio():
        signature = models.SavedModel(exported / "1", 1).signature("")
        seconds = []
        for _ in range(15):
            start = time.perf_counter()
            signature.run([images])
            seconds.append(time.perf_counter() - start)
        return seconds[0] / np.median(seconds[1:])

    # Other processes of this machine can disturb one load, not all of them.
    assert any(ratio() < 2 for _ in range(4))
