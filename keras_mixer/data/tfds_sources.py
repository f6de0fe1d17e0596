"""TensorFlow Datasets as a data set."""

from keras_mixer.data.splits import Source, StreamSplit


def open_tfds(dataset, data_dir, val_fraction, splits):
    """Open a TensorFlow Dataset, which is fetched and prepared if it is not there.

    Args:
        dataset: Its name, as `tf_flowers`.
        data_dir: Where the prepared data is; `None` is TensorFlow Datasets' default.
        val_fraction: Share of the training examples to hold out as `val`, if there is
            no such split.
        splits: Dict of `train`, `val` and `test` to splits in TensorFlow Datasets'
            syntax, for those that are not to be the usual ones.

    Returns:
        A `Source`.

    Raises:
        ValueError: If it is unknown, not there and not to be had, not of labelled
            images, or has no such splits.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"The data set {dataset} needs tensorflow-datasets. Install it with "
            f"`pip install keras-mixer[train]`. Received: {error}."
        ) from error
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            "dataset must be digits, folder:PATH, or the name of a TensorFlow Dataset "
            f"(https://www.tensorflow.org/datasets/catalog). Received: {dataset!r}."
        ) from error
    try:
        # Fetches what is not there yet, with progress bars of its own.
        builder.download_and_prepare()
    except ImportError as error:
        raise ValueError(
            f"The data set {dataset} needs another package to be prepared. Received: "
            f"{error}. Install that package."
        ) from error
    except Exception as error:
        # What it raises is as various as the places that data sets come from.
        raise ValueError(
            f"The data set {dataset} could not be fetched or prepared. Received: "
            f"{str(error).strip().splitlines()[0]} Put prepared data in --data_dir; "
            f"now it is {builder.data_dir}."
        ) from error
    return source_of(builder, dataset, val_fraction, splits)


def source_of(builder, dataset, val_fraction, splits):
    """Make a `Source` of a prepared builder, as `open_tfds` does of a name.

    Args:
        builder: A prepared `tfds.core.DatasetBuilder`.
        dataset: What to call it.
        val_fraction: As for `open_tfds`.
        splits: As for `open_tfds`.

    Returns:
        A `Source`.

    Raises:
        ValueError: If it is not of labelled images, or has no such splits.
    """
    features = builder.info.features
    if builder.info.supervised_keys != ("image", "label"):
        raise ValueError(
            "The data set must be one of images with one label each. Received: "
            f"{dataset}, with the features {', '.join(features or ())}."
        )
    available = builder.info.splits
    names = ({"train": "train"} if "train" in available else {}) | splits
    if "test" not in names:
        # The test labels of ImageNet are not public; its validation split is what
        # everybody tests on.
        has_labels = "test" in available and dataset.split("/")[0] != "imagenet2012"
        if has_labels:
            names["test"] = "test"
        elif "validation" in available:
            names["test"] = "validation"
    unused = "validation" in available and names.get("test") != "validation"
    if "val" not in names and unused:
        names["val"] = "validation"
    cuts = {"val": val_fraction, "test": 0.1}
    if "train" in names:
        missing = {name: cuts[name] for name in cuts if name not in names}
        names |= _cut(names["train"], available, missing)
    try:
        streams = {
            split: StreamSplit(builder, name, available[name].num_examples)
            for split, name in names.items()
        }
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"A split must be in TensorFlow Datasets' syntax, of {dataset}'s splits "
            f"{', '.join(available)}. Received: {names}."
        ) from error
    class_names = tuple(features["label"].names)
    return Source(dataset, class_names, streams)


def _cut(train, available, fractions):
    """Name the parts of a training split that are left and that are cut off its end."""
    names = {}
    end = available[train].num_examples if train in available else 0
    for missing, fraction in reversed(fractions.items()):
        if fraction and not end:
            raise ValueError(
                f"There must be a {missing} split. Received: none beside "
                f"train_split={train}. Name one, as --{missing}_split=train[90%:]."
            )
        if fraction:
            start = end - max(round(available[train].num_examples * fraction), 1)
            names[missing] = f"{train}[{start}:{end}]"
            names["train"] = f"{train}[:{start}]"
            end = start
    return names
