"""The one writer."""

import signal
import subprocess
import sys

import pytest

from keras_mixer.weights import written_whole


def test_written_whole_replaces_the_file(tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_text("before")
    with written_whole(path) as temporary:
        assert temporary.name.endswith("model.weights.h5")
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_written_whole_leaves_nothing_behind_on_failure(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(OSError, match="disk full"), written_whole(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    with written_whole(path) as first:
        first.write_text("first")
        with written_whole(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import sys, time
from keras_mixer.weights.files import written_whole
with written_whole(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path, other = tmp_path / "file.txt", tmp_path / "other-file.txt"
    writers = [
        subprocess.Popen([sys.executable, "-c", KILLED, where], stdout=subprocess.PIPE)
        for where in (path, other)
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"writing\n"
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        with written_whole(path) as temporary:
            temporary.write_text("whole")
        assert path.read_text() == "whole"
        # What is left belongs to the writer that lives.
        left = {p.name for p in tmp_path.iterdir()} - {path.name}
        assert left and all("-other-file.txt" in name for name in left)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
