"""keras-mixer predict over collections: what docs/labelling.md says, run."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios

import fsspec
import pyarrow.parquet
import pytest
from collections_rack import write_files, write_parquet, write_tar, write_tfrecord
from image_rack import KINDS, encode
from program import PROGRAM, keras_mixer_main

from keras_mixer.cli._watch import Watch

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "labelling.md"
MODEL = ["--model=MlpMixerNano4", "--weights=cifar10"]
IMAGES = {
    "a.jpg": KINDS["progressive_jpeg"][0],
    "sub/b.jpg": KINDS["cmyk_jpeg"][0],
    "sub/c.jpg": KINDS["grey_jpeg"][0],
}


def section():
    return PAGE.read_text(encoding="utf-8")


def rows_of(output):
    """The rows of a file, or of the files of a folder, as CSV has them."""
    if output.is_dir():
        return [row for path in sorted(output.glob("a*.*")) for row in rows_of(path)]
    if output.suffix == ".csv":
        with open(output, encoding="utf-8", newline="") as file:
            return [(row["valid"], row["label_1"]) for row in csv.DictReader(file)]
    if output.suffix == ".jsonl":
        lines = output.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    else:
        rows = pyarrow.parquet.read_table(output).to_pylist()
    return [
        (str(row["valid"]).lower(), row["labels"][0] if row["labels"] else "")
        for row in rows
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that has what the page names."""
    monkeypatch.chdir(tmp_path)
    photos = write_files(tmp_path / "photos", IMAGES)
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "0.tar", IMAGES)
    write_parquet(tmp_path / "train.parquet", "image", [*IMAGES.values()])
    write_tfrecord(tmp_path / "flowers.tfrecord-00000-of-00001", IMAGES)
    memory = fsspec.filesystem("memory")
    for name, content in IMAGES.items():
        memory.pipe(f"/bucket/photos/{name}", content)
    listing = "".join(f"photos/{name}\n" for name in IMAGES)
    listing = io.TextIOWrapper(io.BytesIO(listing.encode()))
    monkeypatch.setattr(sys, "stdin", listing)
    return photos.parent


def test_every_line_of_the_page_gives_the_same_answers(place):
    block = section().split("```")[1]
    lines = [line.partition("#")[0].strip() for line in block.strip().splitlines()]
    assert len(lines) == 7
    answers = {}
    for line in lines:
        *before, line = line.split(" | ")
        assert before in ([], ["find photos -name '*.jpg'"])
        program, verb, *arguments = shlex.split(line)
        assert (program, verb) == ("keras-mixer", "predict")
        # A bucket that is here.
        arguments = [a.replace("s3://", "memory://") for a in arguments]
        result = keras_mixer_main("predict", *arguments, *MODEL)
        assert result.returncode == 0, result.stderr
        (output,) = re.findall(r"--output=(\S+)", line)
        assert result.stdout == f"Wrote {output}: 3 images.\n"
        answers[line] = rows_of(place / output)
    (first, *others) = answers.values()
    assert [valid for valid, _ in first] == ["true"] * 3
    assert all(other == first for other in others), answers


def test_what_cannot_be_read_is_a_row_and_fails_no_bulk_run(place):
    (place / "photos" / "sub" / "bad.jpg").write_bytes(b"bad")
    os.mkfifo(place / "photos" / "pipe.jpg")
    result = keras_mixer_main("predict", "photos", "--output=a.parquet", *MODEL)
    assert result.returncode == 0
    assert result.stdout == "Wrote a.parquet: 5 images, 2 of them unreadable.\n"
    first, second = result.stderr.splitlines()
    assert first.startswith("keras-mixer: photos/pipe.jpg: image must be a file.")
    assert second.startswith("keras-mixer: photos/sub/bad.jpg: image must be a JPEG")
    rows = pyarrow.parquet.read_table("a.parquet").to_pylist()
    assert [row["valid"] for row in rows] == [True, False, True, False, True]
    assert rows[3]["reason"] in second
    # To print it is for somebody who looks: the status tells.
    assert keras_mixer_main("predict", "photos", *MODEL).returncode == 1
    result = keras_mixer_main("predict", "photos/pipe.jpg", "--output=b.csv", *MODEL)
    assert result.returncode == 1


def test_json_is_one_list_whatever_its_length(place):
    for names in (["photos/a.jpg"], ["photos", "nowhere.jpg"]):
        result = keras_mixer_main("predict", *names, "--json", "--top-k=2", *MODEL)
        answers = json.loads(result.stdout)
        assert result.stdout == json.dumps(answers, indent=2) + "\n"
        assert [len(a["predictions"]) for a in answers if "error" not in a] == (
            [2] * min(len(answers), 3)
        )


def test_an_image_that_is_named_twice_is_answered_twice(place):
    result = keras_mixer_main(
        "predict", "photos/a.jpg", "photos/a.jpg", "--top-k=1", *MODEL
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 4 and lines[:2] == lines[2:]


def test_a_terminal_sees_how_far_it_is_and_names_that_are_not_utf_8(place):
    path = os.fsencode(place / "photos") + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(IMAGES["a.jpg"])
    terminal, error = pty.openpty()
    fcntl.ioctl(error, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    command = [PROGRAM, "predict", path, "photos/sub", *MODEL]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=error)
    os.close(error)
    said = b""
    with contextlib.suppress(OSError):  # a terminal ends in one
        while part := os.read(terminal, 10_000):
            said += part
    os.close(terminal)
    assert finished.returncode == 0, said
    name = rf"{place}/photos/caf\xe9.jpg"
    assert finished.stdout.splitlines()[0] == name.encode()
    assert re.search(rb"3/3 \[\d+:\d+<\d+:\d+, .*( images/s|s/ images)\]", said), said
    result = keras_mixer_main("predict", "photos", "--json", *MODEL)
    assert "photos/caf\\xe9.jpg" in [a["image"] for a in json.loads(result.stdout)]


def test_mistakes_are_answered_in_a_line_before_the_model_is_opened(place):
    (place / "empty").mkdir()
    for arguments, words in [
        (["empty"], "A folder must hold images"),
        (["*.gif"], "A pattern must match a file"),
        (["photos", "--features"], "--features without --output"),
        (["photos", "--features", "--output=a.csv"], "lists, which CSV has not"),
        (["photos", "--output=photos"], "has no _manifest.json but holds a.jpg"),
        (["photos", "--output=no/a.csv"], "There must be a folder for no/a.csv"),
        (["zork://a"], "must be of a kind that fsspec opens"),
        (["photos", "--batch-size=0"], "batch_size=0"),
        (["photos", "--precision=int3"], "precision"),
    ]:
        result = keras_mixer_main("predict", *arguments, *MODEL)
        assert result.returncode == 1, arguments
        assert not result.stdout
        assert result.stderr.count("\n") == 1, result.stderr
        assert words in result.stderr.replace("flag --", "")


def test_ctrl_c_waits_for_what_is_being_written():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    written = []
    try:
        with Watch([], is_shown=False) as watch:
            with pytest.raises(KeyboardInterrupt), watch.undisturbed():
                signal.raise_signal(signal.SIGINT)
                written.append("a table, and that it is done")
            assert written
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(place):
    images = {f"{n:04d}.jpg": encode(KINDS["bmp"][1], "JPEG") for n in range(1500)}
    write_files(place / "many", images)
    command = [PROGRAM, "predict", "many", "--output=out", "--shard-size=50", *MODEL]
    # What a shell starts in the background ignores Ctrl-C, and so do its children.
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        while not (place / "out" / "answers-00002.parquet").exists():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130
    (rows,) = re.findall(
        r"Stopped after ([\d,]+) images: the same command goes on", said
    )
    assert 0 < int(rows.replace(",", "")) < 1500
    assert not list((place / "out").glob(".tmp-*"))
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.stdout == "Wrote out: 1,500 images.\n"
    assert f"{rows} images are done: going on." in finished.stderr
