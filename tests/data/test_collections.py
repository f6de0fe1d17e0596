"""Unlabelled images: every kind of collection, and what can be wrong with each."""

import contextlib
import os
import pickle
import subprocess
import sys

import fsspec
import pytest
from collections_rack import (
    write_all,
    write_files,
    write_parquet,
    write_tar,
    write_tfrecord,
)
from image_rack import KINDS

from keras_mixer.data.collections import Collection, storage

IMAGES = {
    "a.jpg": KINDS["grey_jpeg"][0],
    "b.jpg": KINDS["progressive_jpeg"][0],
    "sub/c.jpg": KINDS["cmyk_jpeg"][0],
}


def read(*inputs, **options):
    """Names and what they give: the content, or the reason as a string."""
    found = []
    for record in Collection(inputs, **options):
        try:
            found.append((record.name, record.read()))
        except ValueError as error:
            found.append((record.name, str(error)))
    return found


def contents(*inputs, **options):
    return [content for _, content in read(*inputs, **options)]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("kinds"), IMAGES)


def test_every_kind_of_collection_gives_the_same_bytes_in_the_same_order(kinds):
    assert len(kinds) == 10
    for kind, (inputs, listed) in kinds.items():
        collection = Collection(inputs, listed=listed)
        # As another process gets them.
        records = [pickle.loads(pickle.dumps(record)) for record in collection]
        assert [record.read() for record in records] == [*IMAGES.values()], kind
        names = [record.name for record in records]
        assert len({*names}) == 3, kind


def test_names_say_where_an_image_is(kinds, tmp_path):
    names = {
        kind: [record.name for record in Collection(inputs, listed=listed)]
        for kind, (inputs, listed) in kinds.items()
    }
    (tar,), _ = kinds["tar"]
    assert names["tar"] == [f"{tar}/{name}" for name in IMAGES]
    (parquet,), _ = kinds["parquet"]
    assert names["parquet"] == [f"{parquet}#{row}" for row in range(3)]
    (folder,), _ = kinds["folder"]
    assert names["folder"] == names["pattern"] == names["list"] == names["files"]
    assert names["folder"] == [f"{folder}/{name}" for name in IMAGES]
    (url,), _ = kinds["url"]
    assert names["url"] == [f"{url}/{name}" for name in IMAGES]


def test_a_folder_means_its_images_sorted_and_no_others(tmp_path):
    names = ["b/1.PNG", "a/2.jpeg", "c.heic", "a.jpg", "notes.txt", "a/x.tar"]
    write_files(tmp_path, {name: name.encode() for name in names})
    expected = [b"a.jpg", b"a/2.jpeg", b"b/1.PNG", b"c.heic"]
    assert contents(str(tmp_path)) == expected


def test_patterns_match_as_a_shell_does(tmp_path, monkeypatch):
    names = ["x/1.jpg", "x/y/2.jpg", "x/y/z/3.jpg", "4.jpg", ".hidden/5.jpg", "[6].jpg"]
    write_files(tmp_path, {name: name.encode() for name in names})
    monkeypatch.chdir(tmp_path)
    assert read("*.jpg") == [("4.jpg", b"4.jpg"), ("[6].jpg", b"[6].jpg")]
    assert contents("x/*.jpg") == [b"x/1.jpg"]
    assert contents("x/*/*.jpg") == [b"x/y/2.jpg"]
    every = [b"4.jpg", b"[6].jpg", b"x/1.jpg", b"x/y/2.jpg", b"x/y/z/3.jpg"]
    assert contents("**/*.jpg") == contents("**/**/*.jpg") == every
    # What exists is no pattern; a folder that matches is gone through, once.
    assert contents("[6].jpg") == [b"[6].jpg"]
    assert contents("x/?") == [b"x/y/2.jpg", b"x/y/z/3.jpg"]
    assert contents(f"{tmp_path}/x/y/*") == [b"x/y/2.jpg", b"x/y/z/3.jpg"]
    with pytest.raises(ValueError, match="A pattern must match a file"):
        Collection(["*.jpg", "*.gif"])


def test_what_is_not_there_at_all_is_an_error_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    for inputs, words in [
        ([], "at least one image"),
        ([tmp_path / "empty"], "A folder must hold images"),
        ([f"{tmp_path}/*"], None),
        (["-", "-"], "named once"),
        (["zork://bucket/a.jpg"], "must be of a kind that fsspec opens"),
    ]:
        if words:
            with pytest.raises(ValueError, match=words):
                Collection(inputs)
    with pytest.raises(ImportError, match=r"needs a package more.*s3fs"):
        Collection(["s3://bucket/a.jpg"])
    with pytest.raises(ValueError, match="A list must name at least one image"):
        list(Collection(["-"], listed=[b"\n"]))


def test_files_that_cannot_be_read_are_records_with_a_reason(tmp_path):
    write_files(tmp_path, {"a.jpg": b"a"})
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "huge.jpg").touch()
    os.truncate(tmp_path / "huge.jpg", storage.MAX_BYTES + 1)
    found = dict(
        read(str(tmp_path), "/dev/zero", "/proc/self/mem", str(tmp_path / "n"))
    )
    assert found == {
        f"{tmp_path}/a.jpg": b"a",
        f"{tmp_path}/pipe.jpg": "image must be a file. Received: a named pipe.",
        f"{tmp_path}/self.jpg": "image must be a file that can be read. Received: Too "
        "many levels of symbolic links.",
        f"{tmp_path}/gone.jpg": "image must be a file that can be read. Received: no "
        "such file.",
        f"{tmp_path}/huge.jpg": "The file of an image must have at most 512 MiB. "
        "Received: 536,870,913 bytes.",
        f"{tmp_path}/n": "image must be a file that can be read. Received: no such "
        "file.",
        "/dev/zero": "image must be a file. Received: a device.",
        "/proc/self/mem": "image must be a file that can be read. Received: "
        "Input/output error.",
    }


def test_a_file_that_vanishes_after_it_was_listed_has_a_reason(tmp_path):
    write_files(tmp_path, {"a.jpg": b"a", "b.jpg": b"b"})
    first, second = Collection([tmp_path])
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ValueError, match="Received: no such file"):
        first.read()
    assert second.read() == b"b"


def test_a_loop_of_links_ends_and_is_named(tmp_path):
    write_files(tmp_path, {"photos/a.jpg": b"a", "photos/sub/b.jpg": b"b"})
    (tmp_path / "photos" / "sub" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "photos" / "sub")
    found = read(str(tmp_path / "photos"))
    assert [content for _, content in found if isinstance(content, bytes)] == [
        *(b"a", b"b", b"b")
    ]
    name, reason = found[-1]
    assert name == f"{tmp_path}/photos/sub/loop"
    assert "must not lead back" in reason and f"{tmp_path}/photos," in reason
    assert contents(f"{tmp_path}/**/*.jpg") == [b"a", b"b", b"b"]


@contextlib.contextmanager
def not_root():
    """Root may read everything: be nobody, who may not."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_what_permissions_forbid_is_named(tmp_path, monkeypatch):
    names = ("photos/a.jpg", "photos/shut/b.jpg", "photos/shut.jpg")
    write_files(tmp_path, dict.fromkeys(names, b"a"))
    (tmp_path / "photos").chmod(0o755)
    monkeypatch.chdir(tmp_path / "photos")
    for name in names[1:]:
        path = tmp_path / name
        (path.parent if path.parent.name == "shut" else path).chmod(0)
    with not_root():
        found = read(".")
    (tmp_path / "photos" / "shut").chmod(0o755)
    assert found == [
        ("./a.jpg", b"a"),
        (
            "./shut.jpg",
            "image must be a file that can be read. Received: Permission denied.",
        ),
        (
            "./shut",
            "A folder must be one that can be read. Received: Permission denied.",
        ),
    ]


def test_names_that_are_not_utf_8_have_their_bytes_shown(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(b"a")
    expected = [(f"{tmp_path}/caf\\xe9.jpg", b"a")]
    assert read(str(tmp_path)) == read(os.fsdecode(path)) == expected
    assert read("-", listed=[path + b"\n"]) == expected


def test_an_image_that_is_named_twice_is_there_twice(tmp_path):
    write_files(tmp_path, {"a.jpg": b"a"})
    assert contents(str(tmp_path), str(tmp_path / "a.jpg")) == [b"a", b"a"]


def test_lists_are_read_as_they_are_needed(tmp_path):
    write_files(tmp_path, {"a.jpg": b"a", "b.jpg": b"b"})
    taken = []

    def paths():
        for name in ("a.jpg", "b.jpg"):
            taken.append(name)
            yield tmp_path / name

    records = iter(Collection(["-"], listed=paths()))
    assert not taken
    assert next(records).read() == b"a"
    assert taken == ["a.jpg"]


@pytest.mark.parametrize("share", [0.99, 0.5, 0.1, 0])
@pytest.mark.parametrize("kind", ["tar", "parquet", "tfrecord"])
def test_cut_shards_give_what_is_whole_and_a_reason(kinds, kind, share, tmp_path):
    (path,), _ = kinds[kind]
    content = path.read_bytes()
    cut = tmp_path / path.name
    # A tar ends in zeros that nobody misses.
    cut.write_bytes(content.rstrip(b"\0")[: int(share * len(content))])
    found = contents(str(cut))
    whole = [item for item in found if isinstance(item, bytes)]
    reasons = [item for item in found if isinstance(item, str)]
    assert whole == [*IMAGES.values()][: len(whole)]
    assert len(whole) < 3 or kind == "tar"
    if len(whole) < 3:
        assert reasons
    for reason in reasons:
        assert "must be whole" in reason
        assert "Received: " in reason


def test_shards_that_are_none_or_hold_no_image_are_named(tmp_path):
    for name in ("a.tar", "b.parquet", "c.tfrecord"):
        (tmp_path / name).write_bytes(b"certainly not one" * 1000)
    found = contents(*(str(tmp_path / n) for n in ("a.tar", "b.parquet", "c.tfrecord")))
    assert found[0].startswith("A tar file must be whole and not compressed")
    assert found[1].startswith("A Parquet file must be whole. Received: ")
    assert found[2] == (
        "A TFRecord file must be whole and not compressed. Received: a header with "
        "another checksum, after 0 examples."
    )
    for name in ("no.tar", "no.parquet", "no.tfrecord"):
        (reason,) = contents(str(tmp_path / name))
        assert "Received: no such file" in reason
    tar = write_tar(tmp_path / "texts.tar", {"a.txt": b"a"})
    assert contents(str(tar)) == [
        "A tar file must hold images, by the suffixes of their names. Received: none."
    ]


def test_the_column_of_parquet_is_found_or_named(tmp_path):
    images = [*IMAGES.values()]
    for column in ("image", "jpg", "whatever"):
        path = write_parquet(tmp_path / "a.parquet", column, images)
        assert contents(str(path)) == images
        assert contents(str(path), column=column) == images
    (reason,) = contents(str(path), column="id")
    assert reason == (
        "--column must name a column of bytes or paths. Received: 'id', of the columns "
        "id, whatever."
    )
    path = write_parquet(tmp_path / "b.parquet", "label", [1, 2])
    (reason,) = contents(str(path))
    assert "must have a column of images" in reason
    assert "the columns id, label" in reason
    path = write_parquet(tmp_path / "c.parquet", "image", [images[0], None])
    assert contents(str(path)) == [
        images[0],
        "A row must hold an image. Received: null.",
    ]


def test_parquet_of_paths_means_files_beside_it(tmp_path):
    write_files(tmp_path, {"x/a.jpg": b"a"})
    fsspec.filesystem("memory").pipe("/elsewhere/b.jpg", b"b")
    values = ["x/a.jpg", f"{tmp_path}/x/a.jpg", "memory://elsewhere/b.jpg", "x/c.jpg"]
    path = write_parquet(tmp_path / "p.parquet", "file_name", values)
    *found, missing = contents(str(path))
    assert found == [b"a", b"a", b"b"]
    assert "no such file" in missing


def test_parquet_rows_are_found_in_any_order(tmp_path):
    values = [bytes([n]) * 50 for n in range(200)]
    path = write_parquet(tmp_path / "a.parquet", "image", values, row_group_size=70)
    records = list(Collection([path]))
    order = [*range(200)[::-1], *range(0, 200, 7), 5, 199, 0]
    assert [records[row].read() for row in order] == [values[row] for row in order]


def test_the_feature_of_tfrecords_is_found_or_named(tmp_path):
    for feature in ("image", "image/encoded"):
        path = write_tfrecord(tmp_path / "a.tfrecord", IMAGES, feature)
        assert contents(str(path)) == [*IMAGES.values()]
    path = write_tfrecord(tmp_path / "a.tfrec", IMAGES, "picture")
    reason = contents(str(path))[0]
    assert "Received: the features picture. Name one as --column." in reason
    assert contents(str(path), column="picture") == [*IMAGES.values()]


def test_shards_behind_urls_are_read_in_place(kinds):
    memory = fsspec.filesystem("memory")
    for kind in ("tar", "parquet", "tfrecord"):
        (path,), _ = kinds[kind]
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
        found = read(f"memory://shards/{path.name}")
        assert [content for _, content in found] == [*IMAGES.values()]
        assert found[0][0].startswith(f"memory://shards/{path.name}")
    assert len(contents("memory://shards/*.t*")) == 6
    (reason,) = contents("memory://shards/none.jpg")
    assert "Received: no such file" in reason


def test_without_the_extra_files_are_read_and_parquet_names_it(kinds, tmp_path):
    code = """
import sys
sys.modules["pyarrow"] = sys.modules["fsspec"] = None
from keras_mixer.data.collections import Collection
print(len([record.read() for record in Collection(sys.argv[1:3])]))
for path in (sys.argv[3], "s3://bucket/a.jpg"):
    try:
        list(Collection([path]))
    except ImportError as error:
        print(error)
"""
    paths = [str(kinds[kind][0][0]) for kind in ("folder", "tar", "parquet")]
    finished = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True
    )
    first, *others = finished.stdout.splitlines()
    assert first == "6", finished.stderr
    assert len(others) == 2
    for line in others:
        assert "the extra `bulk`: `pip install keras-mixer[bulk]`" in line
