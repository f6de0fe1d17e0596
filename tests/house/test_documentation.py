"""Every code block of README.md and of the site does what it shows."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.parse
from unittest import mock

import documentation
import file_server
import pytest
import serving_support
from absl.testing import flagsaver
from documentation import COMMANDS, blocks_of, commands_of
from program import PROGRAM, keras_mixer_main

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")]
PAGES += [ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    path.name: found
    for path in PAGES
    if (found := blocks_of(path.name, path.read_text(encoding="utf-8")))
}
# Neither is run: what commands print, and a citation.
SHOWN = ("text", "bibtex")
FLOWERS = ["daisy", "dandelion", "rose", "sunflower", "tulip"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_block_or_mark_is_overlooked(path):
    text = path.read_text(encoding="utf-8")
    found = BLOCKS.get(path.name, ())
    assert text.count("```") == 2 * len(found)
    marked = [block for block in found if block.reason]
    assert text.count("<!-- not run") == len(marked)


def parse_only(main, argv, flags_parser):
    flags_parser(argv)


@pytest.mark.parametrize("page", BLOCKS)
def test_blocks_are_well_formed(page):
    for block in BLOCKS[page]:
        where = f"{page}, line {block.line}"
        assert block.language in (*COMMANDS, "python", *SHOWN), where
        if block.language == "python":
            compile(block.text, where, "exec")
        elif block.language in COMMANDS:
            checked = subprocess.run(
                ["bash", "-n", "-c", block.text], capture_output=True, text=True
            )
            assert checked.returncode == 0, (where, checked.stderr)
            for program, *arguments in commands_of(block):
                if program == "keras-mixer":
                    with flagsaver.flagsaver(), mock.patch("absl.app.run", parse_only):
                        done = keras_mixer_main(*arguments)
                    assert done.returncode == 0, (where, done.stderr)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """B/16 as two publishers have it, but for the values, which are random."""
    from keras_mixer import MlpMixerB16, catalog, weights

    folder = tmp_path_factory.mktemp("published")
    model = MlpMixerB16(weights=None)
    found = {}
    for tag in ("imagenet", "imagenet_miil"):
        entry = catalog.ENTRIES["MlpMixerB16", tag]
        path = folder / f"{tag}.{entry.format}"
        layout = weights.LAYOUT_OF_FORMAT[entry.format]
        weights.write_checkpoint(path, weights.export_arrays(model, layout))
        found[urllib.parse.urlsplit(entry.url).path] = path
    return found


@pytest.fixture(scope="session")
def mirror(published):
    """The URL of a mirror of the publishers."""
    files = {
        path: file_server.Served(file.read_bytes()) for path, file in published.items()
    }
    with file_server.serving(files) as server:
        yield server.url


@pytest.fixture(scope="session")
def belongings(tmp_path_factory, photos, published):
    """What a reader has, by the names that the pages give it."""
    import pyarrow
    import pyarrow.parquet
    import tensorflow as tf

    from keras_mixer import MlpMixerNano4

    folder = tmp_path_factory.mktemp("belongings")
    for name in ("runs/flowers", "photos/holidays", "shards"):
        (folder / name).mkdir(parents=True)
    files = {name: serving_support.encoded(photo) for name, photo in photos.items()}
    (folder / "cat.jpg").write_bytes(files["cat"])
    (folder / "rose.jpg").write_bytes(files["flower"])
    (folder / "photos" / "astronaut.jpg").write_bytes(files["astronaut"])
    (folder / "photos" / "holidays" / "china.jpg").write_bytes(files["china"])
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        for path in sorted((folder / "photos").rglob("*.jpg")):
            tar.add(path, path.name)
    table = pyarrow.table({"image": list(files.values())})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    records = folder / "flowers.tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(records)) as writer:
        writer.write(serving_support.example(files["flower"]))
    for number, name in enumerate(FLOWERS):
        (folder / "flowers" / name).mkdir(parents=True)
        for place in range(3):
            corner = (4 * place, 10 * number)
            crop = photos["flower"].crop((*corner, corner[0] + 130, corner[1] + 130))
            crop.save(folder / "flowers" / name / f"{place}.jpg")
    model = MlpMixerNano4(weights="cifar10", classes=len(FLOWERS))
    model.save(folder / "runs" / "flowers" / "model.keras")
    labels = folder / "runs" / "flowers" / "labels.txt"
    labels.write_text("\n".join(FLOWERS) + "\n", encoding="utf-8")
    (pdparams,) = (path for path in published.values() if path.suffix == ".pdparams")
    shutil.copy(pdparams, folder / "mlp-mixer_b16_224.pdparams")
    return folder


@contextlib.contextmanager
def typed(blocks, folder, environment):
    """Type blocks in a folder; yield the exit status and what was printed."""
    log = folder.with_suffix(".log")
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, documentation.__file__],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    try:
        process.communicate(json.dumps([dataclasses.asdict(block) for block in blocks]))
        yield process.returncode, log.read_text()
    finally:
        # A server in the background outlives the block that started it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def beside_other_servers(block, port):
    """The block with a port that no other server of this machine has."""
    text = block.text.replace("//127.0.0.1:8501", f"//127.0.0.1:{port}")
    for verb, flags in (
        ("serve", f"--port={port} --grpc_port=0"),
        ("query", f"--url=http://127.0.0.1:{port}/v1/models/mixer"),
    ):
        text = text.replace(f"keras-mixer {verb}", f"keras-mixer {verb} {flags}")
    return dataclasses.replace(block, text=text)


def words_of(text):
    """The text with any whitespace and any figures: those differ between machines."""
    return re.sub(r"\d[\d.,]*", "#", " ".join(text.split()))


@pytest.mark.slow
@pytest.mark.parametrize("page", BLOCKS)
def test_blocks_do_what_they_show(page, belongings, mirror, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = [
        beside_other_servers(block, port)
        for block in BLOCKS[page]
        if block.reason is None and block.language not in SHOWN
    ]
    folder, home = tmp_path / "folder", tmp_path / "home"
    shutil.copytree(belongings, folder)
    home.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KERAS_HOME", "TFDS_DATA_DIR")
    }
    environment |= {"HOME": str(home), "KERAS_MIXER_WEIGHTS_URL": mirror}
    environment["PATH"] = f"{PROGRAM.parent}{os.pathsep}{environment['PATH']}"
    with typed(run, folder, environment) as (status, printed):
        assert status == 0, printed
    for block in BLOCKS[page]:
        if block.language == "text":
            for line in block.text.splitlines():
                assert words_of(line) in words_of(printed), (block.line, printed)
