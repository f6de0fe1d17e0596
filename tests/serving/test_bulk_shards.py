"""A folder of shards: what a stopped run goes on with, and what it refuses."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import filelock
import pytest
from collections_rack import write_files
from image_rack import RGB, encode

from keras_mixer.data.collections import Collection
from keras_mixer.serving import Answer, bulk

LAYOUT = bulk.Layout("jsonl")
SETTINGS = {"model": "a", "precision": "float32"}


class Echo:
    """Answers with what the file says."""

    def prepare(self, file):
        if file == b"bad":
            raise ValueError("not this one")
        return file

    def predict(self, prepared):
        return [Answer(((item.decode(), "label", 0.5),)) for item in prepared]


class Stop(Exception):
    pass


def run(folder, images, stop_after=None, settings=SETTINGS, size=4, layout=LAYOUT):
    """Label; returns the numbers of the shards that were done now."""
    done = []
    with bulk.Shards(folder, settings, layout, size) as shards:
        for number, records in shards.pending(Collection([images])):
            if len(done) == stop_after:
                raise Stop
            labelled = bulk.label(Echo(), records, batch_size=3)
            shards.write(number, bulk.LabelledShard.of(labelled, layout))
            done.append(number)
        shards.finish()
    return done


def files_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def paths_in(folder):
    rows = []
    for path in sorted(folder.glob("answers-*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    return [row["path"] for row in rows]


@pytest.fixture
def images(tmp_path):
    contents = {f"{n:03d}.jpg": str(n).encode() for n in range(18)}
    contents["005.jpg"] = b"bad"
    return write_files(tmp_path / "images", contents)


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, images):
    assert run(tmp_path / "whole", images) == [0, 1, 2, 3, 4]
    with pytest.raises(Stop):
        run(tmp_path / "parts", images, stop_after=2)
    with pytest.raises(Stop):
        run(tmp_path / "parts", images, stop_after=1)
    assert run(tmp_path / "parts", images) == [3, 4]
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert paths_in(tmp_path / "parts") == [f"{images}/{n:03d}.jpg" for n in range(18)]
    assert run(tmp_path / "parts", images) == []
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_the_manifest_says_what_is_done(tmp_path, images):
    with pytest.raises(Stop):
        run(tmp_path / "out", images, stop_after=2)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert not manifest["complete"]
    assert (manifest["images"], manifest["failed"]) == (8, 1)
    shard = manifest["shards"][1]
    assert shard["file"] == "answers-00001.jsonl"
    assert (shard["rows"], shard["failed"]) == (4, 1)
    assert (shard["first"], shard["last"]) == (
        f"{images}/004.jpg",
        f"{images}/007.jpg",
    )
    assert re.fullmatch("[0-9a-f]{64}", shard["sha256"])
    run(tmp_path / "out", images)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["complete"]


def test_shards_may_be_written_in_any_order(tmp_path, images):
    run(tmp_path / "whole", images)
    with bulk.Shards(tmp_path / "out", SETTINGS, LAYOUT, 4) as shards:
        pending = list(shards.pending(Collection([images])))
        for number, records in pending[::-1]:
            labelled = bulk.label(Echo(), records, batch_size=3)
            shards.write(number, bulk.LabelledShard.of(labelled, LAYOUT))
        shards.finish()
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_shard_that_is_lost_or_cut_is_made_again(tmp_path, images):
    run(tmp_path / "out", images)
    before = files_of(tmp_path / "out")
    (tmp_path / "out" / "answers-00001.jsonl").unlink()
    cut = tmp_path / "out" / "answers-00003.jsonl"
    cut.write_bytes(cut.read_bytes()[:-5])
    assert run(tmp_path / "out", images) == [1, 3]
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    "change, difference",
    [
        (
            lambda p: (p / "003.jpg").rename(p / "003b.jpg"),
            "image 4 is .*/003.jpg, .*/003b",
        ),
        (lambda p: (p / "000b.jpg").write_bytes(b"x"), "image 2 is .*/001.jpg, .*000b"),
        (
            lambda p: (p / "017.jpg").unlink(),
            "image 18 is .*/017.jpg, where it is none",
        ),
        (lambda p: (p / "018.jpg").write_bytes(b"x"), "image 19 is none, where .*/018"),
        (
            lambda p: [(p / f"{n:03d}.jpg").unlink() for n in range(7, 18)],
            "image 8 is .*/007.jpg, where it is none",
        ),
    ],
)
@pytest.mark.parametrize("form", bulk.FORMATS)
def test_other_images_are_refused_with_the_difference(
    tmp_path, images, change, difference, form
):
    layout = bulk.Layout(form)
    run(tmp_path / "out", images, layout=layout)
    before = files_of(tmp_path / "out")
    change(images)
    with pytest.raises(ValueError, match="the images that it was begun with") as caught:
        run(tmp_path / "out", images, layout=layout)
    assert re.search(difference, str(caught.value)), caught.value
    assert files_of(tmp_path / "out") == before


def test_another_run_is_refused_with_the_difference(tmp_path, images):
    run(tmp_path / "out", images)
    with pytest.raises(
        ValueError, match=r'was begun otherwise \(model: "a" there, "b"'
    ):
        run(tmp_path / "out", images, settings={**SETTINGS, "model": "b"})
    with pytest.raises(ValueError, match="shard_size: 4 there, 5 here"):
        run(tmp_path / "out", images, size=5)
    with pytest.raises(ValueError, match=r'format: "jsonl" there, "csv" here'):
        run(tmp_path / "out", images, layout=bulk.Layout("csv"))


def test_folders_of_something_else_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match=r"no _manifest.json but holds 000.jpg"):
        run(images, images)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="--output must be a folder"):
        run(tmp_path / "file", images)
    for text in ("", "[]", '{"settings": {}, "shards": [{"file": "x"}]}', "\xff"):
        (tmp_path / "odd").mkdir(exist_ok=True)
        (tmp_path / "odd" / "_manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="A manifest must be one that a run wrote"):
            run(tmp_path / "odd", images)


def test_one_run_at_a_time_writes_to_a_folder(tmp_path, images):
    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(ValueError, match="to which another one is writing"),
    ):
        run(tmp_path / "out", images)
    assert len(run(tmp_path / "out", images)) == 5


def test_a_full_disk_stops_with_a_sentence_and_what_is_written_stays(tmp_path, images):
    run(tmp_path / "whole", images)
    largest = max(map(len, files_of(tmp_path / "whole").values()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(Stop):
        run(tmp_path / "out", images, stop_after=2)
    before = files_of(tmp_path / "out")
    # No file may grow: to the program it is what a full disk is.
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 4, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Answers need a disk .*stays"):
            run(tmp_path / "out", images)
        with pytest.raises(OSError, match="of which nothing is left"):
            answers = [(f"{n}.jpg", Answer(error="no" * 99)) for n in range(999)]
            bulk.write_table(tmp_path / "all.jsonl", answers, LAYOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_of(tmp_path / "out") == before
    assert not (tmp_path / "all.jsonl").exists()
    assert run(tmp_path / "out", images) == [2, 3, 4]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def command(images, out):
    return [
        *(sys.executable, "-m", "keras_mixer", "predict", str(images)),
        *("--model=MlpMixerNano4", "--weights=cifar10", "--features"),
        *("--shard-size=100", "--batch-size=64", f"--output={out}"),
    ]


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_as_one_that_was_not(tmp_path):
    rng = random.Random(0)
    contents = {
        f"{n // 500}/{n:04d}.jpg": encode(RGB[n % 90 : n % 90 + 40, :60], "JPEG")
        for n in range(2000)
    }
    for n in rng.sample(range(2000), 20):
        contents[f"{n // 500}/{n:04d}.jpg"] = b"damaged"
    images = write_files(tmp_path / "images", contents)
    subprocess.run(command(images, tmp_path / "whole"), check=True, capture_output=True)
    whole = files_of(tmp_path / "whole")
    assert len(whole) == 20 + 2
    out = tmp_path / "out"
    for shards in sorted(rng.sample(range(1, 19), 3)):
        # At a moment that follows so many shards, in the middle of anything.
        with subprocess.Popen(command(images, out), stderr=subprocess.DEVNULL) as child:
            while not (out / f"answers-{shards:05d}.parquet").exists():
                assert child.poll() is None
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
        manifest = json.loads((out / "_manifest.json").read_text())
        for shard in manifest["shards"]:
            assert (out / shard["file"]).read_bytes() == whole[shard["file"]]
    subprocess.run(command(images, out), check=True, capture_output=True)
    assert files_of(out) == whole
    manifest = json.loads(whole["_manifest.json"])
    assert (manifest["images"], manifest["failed"]) == (2000, 20)


def test_a_million_finished_paths_are_checked_in_seconds(tmp_path):
    count, size = 100_000, 10_000
    names = [f"{n:07d}.jpg" for n in range(count)]
    with bulk.Shards(tmp_path, SETTINGS, LAYOUT, size) as shards:
        for number, _ in shards.pending(Collection(["-"], listed=names)):
            part = names[number * size : (number + 1) * size]
            rows = [(name, Answer(error="no")) for name in part]
            shards.write(number, bulk.LabelledShard.of(rows, LAYOUT))
        shards.finish()
    started = time.process_time()
    with bulk.Shards(tmp_path, SETTINGS, LAYOUT, size) as shards:
        assert list(shards.pending(Collection(["-"], listed=names))) == []
        assert shards.rows == count
    # A tenth of a million, on a busy machine.
    assert time.process_time() - started < 2
    assert os.listdir(tmp_path)
