"""Versions that appear whole or not at all."""

import os
import time

import pytest

from keras_mixer.serving import publishing


def publish(base_dir, version=None):
    with publishing.new_version(base_dir, version) as (directory, target):
        (directory / "file").write_text("whole")
    return target


def names(base_dir):
    return sorted(entry.name for entry in base_dir.iterdir())


def test_new_version_counts_from_the_highest(tmp_path):
    base_dir = tmp_path / "new" / "model"
    assert publish(base_dir).name == "1"
    assert publish(base_dir, 9).name == "9"
    for name in ("012x", "9" * 23):
        (base_dir / name).mkdir()
    assert publish(base_dir).name == "10"
    assert names(base_dir) == ["012x", "1", "10", "9", "9" * 23]
    assert (base_dir / "10" / "file").read_text() == "whole"


def test_new_version_shows_nothing_before_the_end(tmp_path):
    with publishing.new_version(tmp_path) as (directory, target):
        (directory / "file").write_text("half")
        assert not target.exists()
        assert publishing.versions(tmp_path) == {}
    assert publishing.versions(tmp_path) == {1: tmp_path / "1"}


def test_new_version_leaves_nothing_when_the_writer_fails(tmp_path):
    with (
        pytest.raises(RuntimeError),
        publishing.new_version(tmp_path) as (directory, _),
    ):
        (directory / "file").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


def test_new_version_refuses_one_that_exists(tmp_path):
    publish(tmp_path, 3)
    with pytest.raises(ValueError, match=r"never overwritten.*version=3.*next one"):
        publish(tmp_path, 3)


def test_new_version_that_another_took_meanwhile(tmp_path):
    with (
        pytest.raises(ValueError, match="never overwritten"),
        publishing.new_version(tmp_path) as (directory, _),
    ):
        (directory / "file").write_text("second")
        publish(tmp_path, 1)
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "file").read_text() == "whole"


@pytest.mark.parametrize("version", [0, -1, 1.5, "2", True, 2**63])
def test_new_version_refuses_what_is_no_positive_integer(tmp_path, version):
    with pytest.raises(ValueError, match="version must be a positive integer"):
        publish(tmp_path, version)


def test_new_version_refuses_a_base_dir_that_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"base_dir must be a directory.*Received"):
        publish(file / "model")


def test_new_version_can_be_read_by_another_user(tmp_path):
    assert publish(tmp_path).stat().st_mode & 0o777 == 0o755


def test_new_version_removes_remains_of_yesterday(tmp_path):
    for name, age_hours in [(".tmp-1-old", 25), (".tmp-2-new", 1)]:
        (tmp_path / name).mkdir()
        then = time.time() - age_hours * 3600
        os.utime(tmp_path / name, (then, then))
    publish(tmp_path)
    assert names(tmp_path) == [".tmp-2-new", "1"]


def test_prune_keeps_the_highest(tmp_path):
    for version in (2, 10, 9):
        publish(tmp_path, version)
    assert publishing.prune(tmp_path, keep=2) == [2]
    assert names(tmp_path) == ["10", "9"]
    assert publishing.prune(tmp_path, keep=5) == []
