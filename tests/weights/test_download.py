"""Fetching from a real HTTP server that misbehaves, and the cache."""

import errno
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from file_server import Served, serving

from keras_mixer import catalog
from keras_mixer.weights import download

CONTENT = os.urandom(3_000_000)
PATH = "/folder/weights.bin"
URL = "https://example.invalid/folder/weights.bin"


@pytest.fixture
def server(monkeypatch, home):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.01, 0.01, 0.01))
    with serving({PATH: Served(CONTENT)}) as server:
        monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", server.url)
        yield server


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fetch_writes_the_file_and_shows_progress(server, tmp_path, capsys):
    download.fetch(URL, tmp_path / "new" / "w.bin")
    assert (tmp_path / "new" / "w.bin").read_bytes() == CONTENT
    assert names_in(tmp_path / "new") == ["w.bin"]
    progress = capsys.readouterr()
    assert "Downloading weights.bin" in progress.err
    assert "100%" in progress.err
    assert not progress.out


def test_mirror_keeps_the_original_path(monkeypatch):
    monkeypatch.delenv("KERAS_MIXER_WEIGHTS_URL", raising=False)
    assert download.mirrored(URL) == URL
    monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", "http://mirror:1/base/")
    assert download.mirrored(URL) == "http://mirror:1/base/folder/weights.bin"


def test_cache_follows_keras_home(home, monkeypatch):
    assert download.cache_dir() == home / "models" / "keras_mixer"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(download.cache_dir()) == "/somewhere/.keras/models/keras_mixer"


@pytest.mark.parametrize(
    "faults", [[500, 503], ["cut"], ["cut", 429, "cut"], ["short"], ["slow"]], ids=str
)
def test_passing_faults_are_outlived(server, tmp_path, faults):
    server.files[PATH].faults = faults
    download.fetch(URL, tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["w.bin"]


def test_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.files[PATH].faults = ["cut"]
    download.fetch(URL, tmp_path / "w.bin")
    assert server.requests == [(PATH, None), (PATH, f"bytes={len(CONTENT) // 2}-")]


def test_cut_download_goes_on_in_a_later_call(server, tmp_path):
    server.files[PATH].faults = ["cut", 404]
    with pytest.raises(download.DownloadError):
        download.fetch(URL, tmp_path / "w.bin")
    assert names_in(tmp_path) == ["w.bin.part", "w.bin.part.etag"]
    download.fetch(URL, tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server, tmp_path):
    server.files[PATH].faults = ["cut", 404]
    with pytest.raises(download.DownloadError):
        download.fetch(URL, tmp_path / "w.bin")
    server.files[PATH].content = CONTENT[::-1]
    download.fetch(URL, tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("faults", [[404], [500] * 4, ["cut", 500, 500, 500]], ids=str)
def test_lasting_faults_name_url_path_and_mirror(server, tmp_path, faults):
    server.files[PATH].faults = list(faults)
    status = next(f for f in reversed(faults) if isinstance(f, int))
    with pytest.raises(download.DownloadError) as error:
        download.fetch(URL, tmp_path / "w.bin")
    for words in [
        f"Cannot fetch {server.url}{PATH}: HTTP {status}",
        f"Put the file at {tmp_path / 'w.bin'}",
        "KERAS_MIXER_WEIGHTS_URL",
    ]:
        assert words in str(error.value)
    assert len(server.requests) == len(faults)
    assert not (tmp_path / "w.bin").exists()


def test_no_network_names_url_path_and_mirror(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.01,))
    monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", "http://127.0.0.1:9")
    with pytest.raises(download.DownloadError) as error:
        download.fetch(URL, tmp_path / "w.bin")
    assert "127.0.0.1:9/folder/weights.bin" in str(error.value)
    assert "refused" in str(error.value)
    assert str(tmp_path / "w.bin") in str(error.value)


def test_digest_and_size_are_held_to(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    download.fetch(URL, tmp_path / "a", sha256=digest, size_bytes=len(CONTENT))
    with pytest.raises(download.DownloadError, match=f"SHA-256 is {digest}, 00 was"):
        download.fetch(URL, tmp_path / "b", sha256="00")
    with pytest.raises(download.DownloadError, match="3000000 bytes came, 5 were exp"):
        download.fetch(URL, tmp_path / "c", size_bytes=5)
    assert names_in(tmp_path) == ["a"]


def test_full_disk_is_said_before_it_is_filled(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(download.DownloadError, match="No space left on device"):
        download.fetch(URL, tmp_path / "w.bin")
    assert len(server.requests) == 1


def test_disk_that_fills_half_way_is_not_retried(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(download.DownloadError, match="No space left on device"):
        download.fetch(URL, tmp_path / "w.bin")
    assert len(server.requests) == 1
    assert not (tmp_path / "w.bin").exists()


def entry(**kwargs):
    return catalog.WeightsEntry(
        "Model",
        "tag",
        URL,
        "bin",
        3,
        catalog.HALF,
        False,
        "made here",
        "none",
        "none.txt",
        **kwargs,
    )


def copy(source_path, weights_path):
    weights_path.write_bytes(b"ported " + source_path.read_bytes())


def test_cache_ports_once_and_keeps_a_record(server, home):
    path = download.cached(entry(), copy)
    assert path == home / "models/keras_mixer/Model-tag.weights.h5"
    assert path.read_bytes() == b"ported " + CONTENT
    assert "Model-tag.bin" not in names_in(path.parent)
    assert download.cached(entry(), None) == path  # nothing left to port
    assert len(server.requests) == 1


def test_cache_holds_a_second_download_to_the_first_ones_digest(server, home):
    path = download.cached(entry(), copy)
    path.unlink()
    server.files[PATH].content = CONTENT[::-1]
    with pytest.raises(download.DownloadError, match="SHA-256"):
        download.cached(entry(), copy)
    server.files[PATH].content = CONTENT
    assert download.cached(entry(), copy).exists()


def test_changed_cache_is_noticed(server, home):
    path = download.cached(entry(), copy)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"must not change.*Remove it"):
        download.cached(entry(), copy)


def test_failed_port_leaves_the_cache_unspoiled(server, home):
    def fail(source_path, weights_path):
        weights_path.write_bytes(b"half")
        raise ValueError("not a checkpoint")

    with pytest.raises(ValueError, match="not a checkpoint"):
        download.cached(entry(), fail)
    assert names_in(home / "models/keras_mixer") == ["Model-tag.weights.h5.lock"]
    assert download.cached(entry(), copy).exists()


def test_file_put_there_by_hand_is_used_and_kept(server, home):
    by_hand = home / "models/keras_mixer/Model-tag.bin"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"mine")
    path = download.cached(entry(), copy)
    assert path.read_bytes() == b"ported mine"
    assert by_hand.read_bytes() == b"mine"
    assert not server.requests


HERE = pathlib.Path(__file__).parent
PROGRAM = """
import pathlib, shutil, sys, time
sys.path[:0] = sys.argv[2:]
from test_download import download, entry
def port(source, target):
    time.sleep(float(sys.argv[1]))
    shutil.copy(source, target)
print(download.cached(entry(), port))
"""


def start(pause):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(pause),
            str(HERE),
            str(HERE.parent / "support"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_two_processes_fetch_once(server, home):
    server.files[PATH].faults = ["slow"]
    programs = [start(0.5), start(0.5)]
    outputs = {program.communicate(timeout=60)[0] for program in programs}
    assert len(outputs) == 1
    assert b"Model-tag.weights.h5" in outputs.pop()
    assert len(server.requests) == 1


def test_killed_while_downloading_goes_on_where_it_stopped(server, home):
    server.files[PATH].faults = ["hang"]
    program = start(0)
    part = home / "models/keras_mixer/Model-tag.bin.part"
    while not part.exists() or not part.stat().st_size:
        assert program.poll() is None
        time.sleep(0.05)
    program.send_signal(signal.SIGKILL)
    program.wait()
    arrived = part.stat().st_size
    assert 0 < arrived < len(CONTENT)
    assert download.cached(entry(), copy).read_bytes() == b"ported " + CONTENT
    assert server.requests[-1] == (PATH, f"bytes={arrived}-")


def test_killed_while_porting_loses_nothing(server, home):
    program = start(60)
    while not server.requests:
        assert program.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)  # now it ports
    program.send_signal(signal.SIGKILL)
    program.wait()
    folder = home / "models/keras_mixer"
    assert "Model-tag.weights.h5" not in names_in(folder)
    assert download.cached(entry(), copy).read_bytes() == b"ported " + CONTENT
