"""Folders of images as a data set: one folder for each class."""

import collections
import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_mixer.data.collections import IMAGE_SUFFIXES
from keras_mixer.data.splits import IndexedSplit, Source, complete
from keras_mixer.images import decode, graph

_VAL_NAMES = ("val", "validation", "valid")
# More unreadable images than this share is a broken copy, not a few bad files.
_MAX_UNREADABLE = 0.01


def open_folder(dataset, val_fraction):
    """Open `folder:PATH`, of class folders or of train, val and test folders of these.

    What is missing of `val` and `test` is held out of `train`, class by class. Every
    file is decoded once, so that training meets no unreadable one.

    Args:
        dataset: `folder:PATH`.
        val_fraction: Share of the training examples to hold out as `val`.

    Returns:
        A `Source`, whose notes list the images that cannot be read.

    Raises:
        ValueError: If there are fewer than two classes, a class has no image, the
            splits differ in their classes, or over 1 % of the images are unreadable.
    """
    path = pathlib.Path(dataset.removeprefix("folder:")).expanduser()
    if not path.is_dir():
        raise ValueError(f"There must be a folder. Received: dataset={dataset}.")
    folders = {"train": path}
    if (path / "train").is_dir():
        named = [("train", "train"), *(("val", name) for name in _VAL_NAMES)]
        named.append(("test", "test"))
        folders = {
            split: path / name for split, name in named if (path / name).is_dir()
        }
    class_names = _class_names(folders["train"])
    splits, unreadable, prints = {}, [], {}
    for name, folder in folders.items():
        unknown = set(_class_names(folder)) - set(class_names)
        if unknown:
            raise ValueError(
                f"Every class must have a folder in {folders['train']}. Received: "
                f"{', '.join(sorted(unknown))} in {folder}."
            )
        splits[name], bad = _read_folder(folder, class_names, prints)
        unreadable += bad
    notes = _notes(unreadable, sum(split.size for split in splits.values()))
    notes += _passed_over(folders.values())
    empty = sorted(set(range(len(class_names))) - set(splits["train"].labels.tolist()))
    if empty:
        raise ValueError(
            "Every class must have an image. Received: none in "
            f"{', '.join(str(folders['train'] / class_names[n]) for n in empty)}. "
            "Remove the folders, or fill them."
        )
    splits = complete(splits, val_fraction, test_fraction=0.1)
    notes += _twins(splits, prints)
    return Source(dataset, class_names, splits, notes)


def _class_names(folder):
    names = sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".")
    )
    if len(names) < 2:
        raise ValueError(
            "A folder of images must have a folder for each of at least two classes, "
            f"as in {folder}/cat/1.jpg and {folder}/dog/1.jpg. "
            f"Received: {len(names)} folders in {folder}."
        )
    for name in names:
        if not name.isprintable():
            raise ValueError(
                "The name of a class must be UTF-8, without line breaks. Received: "
                f"{_shown(os.fsencode(name))!r} in {folder}. Rename the folder."
            )
    return tuple(names)


def _read_folder(folder, class_names, prints):
    """List the images of a split, and those that TensorFlow cannot decode.

    Notes a fingerprint of each file in `prints`.
    """
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if (folder / name).is_dir():
            # As bytes: a name need not be UTF-8.
            found = sorted(
                os.fsencode(path)
                for path in (folder / name).rglob("*")
                if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
            )
            paths += found
            labels += [label] * len(found)
    if not paths:
        raise ValueError(
            "A folder of images must have images in it. Received: none in "
            f"{folder}/*/ (looked for {' '.join(IMAGE_SUFFIXES)})."
        )

    def check(number, path):
        content = tf.io.read_file(path)
        fingerprint = tf.strings.to_hash_bucket_fast(content, 2**63 - 1)
        # The shape makes sure that the image is decoded.
        return number, fingerprint, tf.shape(graph.decode(content)[0])

    checked = (
        tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), paths))
        .map(check, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
    )
    readable = []
    for number, fingerprint, _ in checked.as_numpy_iterator():
        readable.append(int(number))
        prints[paths[number]] = int(fingerprint)
    bad = sorted(set(range(len(paths))) - set(readable))
    split = IndexedSplit(np.array(paths), np.array(labels, "int64"))
    return split.take(readable), [paths[number] for number in bad]


def _notes(unreadable, readable_count):
    if not unreadable:
        return ()
    total = readable_count + len(unreadable)
    listed = "; ".join(_why(path) for path in unreadable[:3])
    if len(unreadable) > 3:
        listed += f"; and {len(unreadable) - 3} more"
    if len(unreadable) > _MAX_UNREADABLE * total:
        raise ValueError(
            f"At most {_MAX_UNREADABLE:.0%} of the images may be unreadable. "
            f"Received: {len(unreadable)} of {total}: {listed}. Repair or remove them; "
            "JPEG, PNG, GIF, BMP and (still) WebP can be read."
        )
    return (f"Skipped {len(unreadable)} of {total} images, unreadable: {listed}.",)


def _why(path):
    """Say in the words of `load_image` why a file cannot be used."""
    try:
        decode.read_image(os.fsdecode(path))
    except ValueError as error:
        return f"{_shown(path)} ({error})"
    return f"{_shown(path)} (of a kind that load_image reads, but TensorFlow does not)"


def _passed_over(folders):
    others = collections.Counter(
        path.suffix.lower() or "no suffix"
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix.lower() not in IMAGE_SUFFIXES
        and not path.name.startswith(".")
    )
    if not others:
        return ()
    kinds = ", ".join(f"{count} of {kind}" for kind, count in others.most_common(5))
    return (f"Passed over {others.total()} files that are no images by name: {kinds}.",)


def _twins(splits, prints):
    """Say which files of train are in val or test as well, byte for byte."""
    in_train = {prints[path] for path in splits["train"].images.tolist()}
    notes = []
    for name, split in splits.items():
        twins = [p for p in split.images.tolist() if prints[p] in in_train]
        if name != "train" and twins:
            notes.append(
                f"{len(twins)} of {split.size} images of {name} are in train as well, "
                f"byte for byte, as {_shown(twins[0])}."
            )
    return tuple(notes)


def _shown(path):
    return path.decode("utf-8", "backslashreplace")
