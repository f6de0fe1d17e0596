"""The same images as every kind of collection holds them."""

import io
import tarfile

import fsspec
import pyarrow
import pyarrow.parquet
import tensorflow as tf


def write_files(folder, images):
    """Write `{name: bytes}` as files; a name may have folders."""
    for name, content in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path, images):
    """As WebDataset does: each sample's image, and a part that is none."""
    with tarfile.open(path, "w") as file:
        for name, content in images.items():
            stem = name.rpartition(".")[0]
            for member, data in ((name, content), (f"{stem}.cls", b"7")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path, column, values, **options):
    table = pyarrow.table({"id": range(len(values)), column: values})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def write_tfrecord(path, images, feature="image/encoded"):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, content in enumerate(images.values()):
            values = {
                feature: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[content])
                ),
                "label": tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[number])
                ),
            }
            features = tf.train.Features(feature=values)
            writer.write(tf.train.Example(features=features).SerializeToString())
    return path


def write_all(folder, images):
    """Write images as all kinds of collections.

    Returns:
        A dict from the kind to `(inputs, listed)` of a `Collection`.
    """
    files = write_files(folder / "files", images)
    paths = [files / name for name in images]
    memory = fsspec.filesystem("memory")
    bucket = f"/{folder.name}"
    for name, content in images.items():
        memory.pipe(f"{bucket}/{name}", content)
    hf = [{"bytes": content, "path": name} for name, content in images.items()]
    return {
        "files": (paths, None),
        "folder": ([files], None),
        "pattern": ([f"{folder}/f*/**/*.jpg"], None),
        "list": (["-"], [f"{path}\n".encode() for path in paths]),
        "tar": ([write_tar(folder / "shard.tar", images)], None),
        "parquet": (
            [write_parquet(folder / "b.parquet", "image", [*images.values()])],
            None,
        ),
        "hugging face": ([write_parquet(folder / "hf.parquet", "image", hf)], None),
        "parquet of paths": (
            [
                write_parquet(
                    folder / "p.parquet", "path", [f"files/{name}" for name in images]
                )
            ],
            None,
        ),
        "tfrecord": (
            [write_tfrecord(folder / "x.tfrecord-00000-of-00001", images)],
            None,
        ),
        "url": ([f"memory://{bucket}"], None),
    }
