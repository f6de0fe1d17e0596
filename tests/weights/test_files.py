"""The one writer: whole or not at all."""

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
