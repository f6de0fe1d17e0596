"""Fetching from a real HTTP server that misbehaves."""

import errno
import os
import shutil

import pytest
from file_server import Served, serving

from keras_mixer.weights import DownloadError, download

CONTENT = os.urandom(3_000_000)
PATH = "/folder/weights.bin"
HALF = len(CONTENT) // 2


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.01, 0.01, 0.01))
    with serving({PATH: Served(CONTENT)}) as server:
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    """Download the file into `tmp_path`; returns what came."""

    def fetch(check=lambda part: None):
        download.download(server.url + PATH, tmp_path / "w.bin", check)
        return (tmp_path / "w.bin").read_bytes()

    return fetch


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_with_progress(fetch, tmp_path, capsys):
    assert fetch() == CONTENT
    assert names_in(tmp_path) == ["w.bin"]
    progress = capsys.readouterr()
    assert "Downloading weights.bin" in progress.err
    assert "100%" in progress.err
    assert not progress.out


@pytest.mark.parametrize(
    "faults",
    [
        [500, 503],
        ["cut"],
        ["cut", 429, "cut"],
        ["short"],
        ["slow"],
        [204],
        ["unasked piece"],
        ["cut, no length"],
        ["cut", "from the start"],
        ["cut", "no range"],
        ["cut", "one piece"],
    ],
    ids=str,
)
def test_passing_faults_are_outlived(server, fetch, tmp_path, faults):
    server.files[PATH].faults = faults
    assert fetch() == CONTENT
    assert names_in(tmp_path) == ["w.bin"]


@pytest.mark.parametrize("fault", [204, "unasked piece", "cut, no length"])
def test_what_is_not_the_whole_file_is_never_taken_for_it(
    server, fetch, tmp_path, fault
):
    server.files[PATH].faults = [fault] * 4
    with pytest.raises(DownloadError, match=r"not what was asked|how long the file"):
        fetch()
    assert not (tmp_path / "w.bin").exists()


def test_cut_download_goes_on_where_it_stopped(server, fetch):
    server.files[PATH].faults = ["cut"]
    fetch()
    assert server.requests == [(PATH, None), (PATH, f"bytes={HALF}-")]


@pytest.mark.parametrize("changed", [False, True])
def test_cut_download_goes_on_in_a_later_call(server, fetch, tmp_path, changed):
    server.files[PATH].faults = ["cut", 404]
    with pytest.raises(DownloadError):
        fetch()
    assert names_in(tmp_path) == ["w.bin.part", "w.bin.part.etag"]
    if changed:  # then it is fetched from the start
        server.files[PATH].content = CONTENT[::-1]
    assert fetch() == server.files[PATH].content
    assert server.requests[-1][1] == f"bytes={HALF}-"


@pytest.mark.parametrize("faults", [[404], [500] * 4, ["cut", 500, 500, 500]], ids=str)
def test_lasting_faults_are_named(server, fetch, tmp_path, faults):
    server.files[PATH].faults = list(faults)
    status = next(f for f in reversed(faults) if isinstance(f, int))
    with pytest.raises(
        DownloadError, match=rf"Cannot fetch {server.url}{PATH}: HTTP {status}"
    ):
        fetch()
    assert len(server.requests) == len(faults)
    assert not (tmp_path / "w.bin").exists()


@pytest.mark.parametrize(
    ("url", "words", "tries"),
    [
        ("http://127.0.0.1:9/w", "refused", 2),
        ("http://nowhere.invalid/w", "nowhere.invalid/w: ", 1),
        ("nonsense", "nonsense: unknown url type", 1),
    ],
)
def test_what_cannot_be_reached_is_said_once(
    monkeypatch, tmp_path, capsys, url, words, tries
):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.01,))
    with pytest.raises(DownloadError, match=words):
        download.download(url, tmp_path / "w.bin", None)
    assert capsys.readouterr().err.count("trying again") == tries - 1


def test_a_file_that_is_not_the_one_expected_is_removed(fetch, tmp_path):
    def check(part):
        assert part.read_bytes() == CONTENT
        raise ValueError("no weights in it")

    with pytest.raises(DownloadError, match=r"weights\.bin gave another.*no weights"):
        fetch(check)
    assert names_in(tmp_path) == []


def test_full_disk_is_said_before_it_is_filled(server, fetch, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch()
    assert len(server.requests) == 1


def test_disk_that_fills_half_way_is_not_retried(server, fetch, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch()
    assert len(server.requests) == 1
    assert not (tmp_path / "w.bin").exists()
