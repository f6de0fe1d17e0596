"""The cache of published files, as they were published."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from file_server import Served, serving
from tiny import CLASSES, build_tiny, randomize

import keras_mixer
from keras_mixer import weights
from keras_mixer.catalog import HALF, WeightsEntry
from keras_mixer.weights import DownloadError, cache, download, formats

PATH = "/folder/weights.npz"
HERE = pathlib.Path(__file__).parent


def entry(classes=CLASSES):
    return WeightsEntry(
        model="Model",
        tag="tag",
        url=f"https://example.invalid{PATH}",
        format="npz",
        classes=classes,
        transform=HALF,
        approximate_gelu=True,
        provenance="made here",
        licence="none",
        labels="none.txt",
    )


def published(folder, model=None, **changed):
    """The bytes of a small Mixer's file with Google's names."""
    model = model or randomize(build_tiny())
    arrays = weights.export_arrays(model, "google") | changed
    path = folder / "published.npz"
    formats.write_checkpoint(path, {k: v for k, v in arrays.items() if v is not None})
    return path.read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def server(monkeypatch, home, content):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.01,))
    with serving({PATH: Served(content)}) as server:
        monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", server.url)
        yield server


@pytest.fixture
def folder(home):
    return home / "models" / "keras_mixer"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_mirror_keeps_the_original_path(monkeypatch):
    url = "https://example.invalid/folder/weights.bin"
    monkeypatch.delenv("KERAS_MIXER_WEIGHTS_URL", raising=False)
    assert cache.mirrored(url) == url
    monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", "http://mirror:1/base/")
    assert cache.mirrored(url) == "http://mirror:1/base/folder/weights.bin"


def test_cache_follows_keras_home(home, monkeypatch):
    assert cache.cache_dir() == home / "models" / "keras_mixer"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(cache.cache_dir()) == "/somewhere/.keras/models/keras_mixer"


def test_a_file_is_fetched_once_and_kept_as_it_was_published(server, folder, content):
    path = weights.fetch(entry())
    assert path == folder / "Model-tag.npz"
    assert path.read_bytes() == content
    assert names_in(folder) == ["Model-tag.json", path.name, f"{path.name}.lock"]
    record = json.loads((folder / "Model-tag.json").read_text())
    assert record == {
        "source": server.url + PATH,
        "source_sha256": download.sha256_of(path),
    }
    assert weights.fetch(entry()) == path
    assert len(server.requests) == 1


def test_a_second_download_is_held_to_the_first_ones_digest(server, content, tmp_path):
    path = weights.fetch(entry())
    path.unlink()
    server.files[PATH].content = published(tmp_path, **{"stem/bias": np.ones(10, "f4")})
    with pytest.raises(DownloadError, match="SHA-256"):
        weights.fetch(entry())
    server.files[PATH].content = content
    assert weights.fetch(entry()).read_bytes() == content


def test_a_changed_cache_is_noticed(server):
    weights.fetch(entry()).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"must not change.*Remove it"):
        weights.fetch(entry())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"stem/bias": None}, r"missing: stem/bias \(10,\)"),
        ({"stem/bias": np.ones(11, "f4")}, r"misshapen: stem/bias \(11,\)"),
        ({"more": np.ones(1, "f4")}, "unexpected: more"),
        ({"stem/bias": np.full(10, np.nan, "f4")}, "not finite: stem/bias"),
        ({"head/bias": np.ones(12, "f4")}, "a head of 11 was expected"),
    ],
)
def test_a_download_is_checked_before_it_is_called_cached(
    server, folder, tmp_path, content, changed, words
):
    server.files[PATH].content = published(tmp_path, **changed)
    with pytest.raises(DownloadError, match=words):
        weights.fetch(entry())
    assert names_in(folder) == ["Model-tag.npz.lock"]
    server.files[PATH].content = content
    assert weights.fetch(entry()).read_bytes() == content


def test_a_file_put_there_by_hand_is_checked_used_and_recorded(
    server, folder, content, tmp_path
):
    folder.mkdir(parents=True)
    by_hand = folder / "Model-tag.npz"
    by_hand.write_bytes(published(tmp_path, **{"head/bias": None}))
    with pytest.raises(ValueError, match="a head of 11 was expected"):
        weights.fetch(entry())
    by_hand.write_bytes(content)
    assert weights.fetch(entry()) == by_hand
    assert by_hand.read_bytes() == content
    assert "put there by hand" in (folder / "Model-tag.json").read_text()
    assert not server.requests


@pytest.mark.parametrize("text", ["[]", '"text"', '{"source_sha256": 3}', "{", ""])
def test_a_record_that_says_nothing_is_made_anew(server, folder, text):
    path = weights.fetch(entry())
    (folder / "Model-tag.json").write_text(text)
    assert weights.fetch(entry()) == path
    record = json.loads((folder / "Model-tag.json").read_text())
    assert record["source_sha256"] == download.sha256_of(path)


@contextlib.contextmanager
def another_user():
    """For root, who may write everywhere, somebody who may not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def shared_home(monkeypatch):
    """A cache that others may look into, unlike pytest's folders."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("KERAS_HOME", folder)
        yield cache.cache_dir()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("recorded", [True, False])
def test_another_users_cache_is_read(server, shared_home, recorded):
    path = weights.fetch(entry())
    if not recorded:
        path.with_suffix(".json").unlink()
    before = names_in(shared_home)
    shared_home.chmod(0o555)
    with another_user():
        assert weights.fetch(entry()) == path
    shared_home.chmod(0o755)
    path.unlink()
    shared_home.chmod(0o555)
    with another_user(), pytest.raises(DownloadError, match="KERAS_HOME") as error:
        weights.fetch(entry())
    assert str(shared_home) in str(error.value)
    assert names_in(shared_home) == sorted({*before} - {path.name})
    shared_home.chmod(0o755)


FETCH = """
import sys
sys.path[:0] = sys.argv[1:]
from test_cache import entry, weights
print(weights.fetch(entry()))
"""


def start():
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(HERE), str(HERE.parent / "support")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_two_processes_fetch_once(server):
    server.files[PATH].faults = ["slow"]
    programs = [start(), start()]
    outputs = {program.communicate(timeout=120)[0] for program in programs}
    assert len(outputs) == 1
    assert b"Model-tag.npz" in outputs.pop()
    assert len(server.requests) == 1


@pytest.mark.slow
def test_killed_while_downloading_goes_on_where_it_stopped(server, folder, tmp_path):
    # More than is written at once.
    large = keras_mixer.MlpMixer(
        64, 4, 5, 2000, 4, input_shape=(12, 12, 3), classes=CLASSES
    )
    content = published(tmp_path, large)
    server.files[PATH] = Served(content, ["hang"])
    program = start()
    part = folder / "Model-tag.npz.part"
    while not part.exists() or not part.stat().st_size:
        assert program.poll() is None
        time.sleep(0.05)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    arrived = part.stat().st_size
    assert 0 < arrived < len(content)
    assert weights.fetch(entry()).read_bytes() == content
    assert server.requests[-1] == (PATH, f"bytes={arrived}-")
