"""Folders of images as a data set: one folder for each class."""

import pathlib

import numpy as np
import tensorflow as tf

from keras_mixer.data.splits import IndexedSplit, Source, complete
from keras_mixer.images import graph

_READABLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
# Images all the same, which are named to the user and not passed over in silence.
_OTHER_SUFFIXES = (".webp", ".tif", ".tiff", ".heic", ".avif", ".ppm")
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
    splits, unreadable = {}, []
    for name, folder in folders.items():
        unknown = set(_class_names(folder)) - set(class_names)
        if unknown:
            raise ValueError(
                f"Every class must have a folder in {folders['train']}. Received: "
                f"{', '.join(sorted(unknown))} in {folder}."
            )
        splits[name], bad = _read_folder(folder, class_names)
        unreadable += bad
    notes = _notes(unreadable, sum(split.size for split in splits.values()))
    empty = sorted(set(range(len(class_names))) - set(splits["train"].labels.tolist()))
    if empty:
        raise ValueError(
            "Every class must have an image. Received: none in "
            f"{', '.join(str(folders['train'] / class_names[n]) for n in empty)}. "
            "Remove the folders, or fill them."
        )
    splits = complete(splits, val_fraction, test_fraction=0.1)
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
    return tuple(names)


def _read_folder(folder, class_names):
    """List the images of a split, and those that TensorFlow cannot decode."""
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if (folder / name).is_dir():
            found = sorted(
                str(path)
                for path in (folder / name).rglob("*")
                if path.suffix.lower() in _READABLE_SUFFIXES + _OTHER_SUFFIXES
                and path.is_file()
            )
            paths += found
            labels += [label] * len(found)
    if not paths:
        raise ValueError(
            "A folder of images must have images in it. Received: none in "
            f"{folder}/*/ (looked for {' '.join(_READABLE_SUFFIXES)})."
        )

    def check(number, path):
        # The shape makes sure that the image is decoded.
        return number, tf.shape(graph.decode(tf.io.read_file(path))[0])

    checked = (
        tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), paths))
        .map(check, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
    )
    readable = [int(number) for number, _ in checked.as_numpy_iterator()]
    bad = sorted(set(range(len(paths))) - set(readable))
    split = IndexedSplit(np.array(paths), np.array(labels, "int64"))
    return split.take(readable), [paths[number] for number in bad]


def _notes(unreadable, readable_count):
    if not unreadable:
        return ()
    total = readable_count + len(unreadable)
    listed = ", ".join(unreadable[:10])
    if len(unreadable) > 10:
        listed += f" and {len(unreadable) - 10} more"
    if len(unreadable) > _MAX_UNREADABLE * total:
        raise ValueError(
            f"At most {_MAX_UNREADABLE:.0%} of the images may be unreadable. "
            f"Received: {len(unreadable)} of {total}: {listed}. "
            "Repair or remove them; JPEG, PNG, BMP and GIF can be read."
        )
    return (f"Skipped {len(unreadable)} of {total} images, unreadable: {listed}.",)
