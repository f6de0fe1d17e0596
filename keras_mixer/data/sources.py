"""Where labelled images come from: digits, image folders, TensorFlow Datasets."""

import numpy as np

from keras_mixer.data.folders import open_folder
from keras_mixer.data.splits import IndexedSplit, Source, complete
from keras_mixer.data.tfds_sources import open_tfds


def open_source(dataset, *, data_dir=None, val_fraction=0.1, splits=None):
    """Open a data set.

    Args:
        dataset: `digits`, `folder:PATH`, or the name of a TensorFlow Dataset.
        data_dir: Where TensorFlow Datasets keeps its data; `None` is its own default.
        val_fraction: Share of the training examples held out for validation where
            the data set has no such split of its own, in [0, 1).
        splits: For TensorFlow Datasets, a dict of `train`, `val` and `test` to splits
            in its own syntax, for those that are not to be the usual ones.

    Returns:
        A `Source`.

    Raises:
        ValueError: If the data set is not found, empty, or unfit for classification.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(
            f"val_fraction must be in [0, 1). Received: val_fraction={val_fraction}."
        )
    splits = {name: split for name, split in (splits or {}).items() if split}
    if dataset == "digits" or dataset.startswith("folder:"):
        if splits or data_dir:
            raise ValueError(
                "data_dir and the names of splits are for TensorFlow Datasets. "
                f"Received: dataset={dataset}, data_dir={data_dir}, splits={splits}."
            )
        if dataset == "digits":
            return _open_digits(val_fraction)
        return open_folder(dataset, val_fraction)
    return open_tfds(dataset, data_dir, val_fraction, splits)


def open_split(dataset, split, *, data_dir=None, val_fraction=0.1, splits=None):
    """Open a data set for evaluation on one of its splits.

    Args:
        dataset: As for `open_source`.
        split: `train`, `val` or `test`; of a TensorFlow Dataset also a split in its
            own syntax.
        data_dir: As for `open_source`.
        val_fraction: As for `open_source`; that of a run gives the run's own splits.
        splits: As for `open_source`.

    Returns:
        The `Source` and the split.

    Raises:
        ValueError: If the data set or the split is not found.
    """
    usual = ("train", "val", "test")
    is_tfds = dataset != "digits" and not dataset.startswith("folder:")
    if split not in usual and is_tfds:
        splits, split = {"test": split}, "test"
    source = open_source(
        dataset, data_dir=data_dir, val_fraction=val_fraction, splits=splits
    )
    if split not in source.splits:
        raise ValueError(
            f"The split must be one of {', '.join(source.splits)}. "
            f"Received: split={split}."
        )
    return source, source.splits[split]


def _open_digits(val_fraction):
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "The data set digits comes with scikit-learn. Install it with "
            f"`pip install keras-mixer[train]`. Received: {error}."
        ) from error
    digits = load_digits()
    # 17 grey levels, 0 to 16, on 8x8 pixels.
    grey = np.round(digits.images * (255 / 16)).astype("uint8")
    images = np.repeat(grey[..., None], 3, axis=-1)
    train = IndexedSplit(images, digits.target.astype("int64"))
    return Source(
        "digits",
        tuple(str(name) for name in digits.target_names),
        complete({"train": train}, val_fraction, test_fraction=0.2),
    )
