"""TensorFlow Datasets as a data set."""

import itertools

import numpy as np

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
    builder = _builder(dataset, data_dir)
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


def open_prepared(dataset, split, data_dir=None, label="label"):
    """Open one split of a TensorFlow Dataset that is there already.

    Args:
        dataset: Its name, as `imagenet_v2/matched-frequency`.
        split: One of its splits.
        data_dir: As for `open_tfds`.
        label: The feature that has the class.

    Returns:
        A `StreamSplit`.

    Raises:
        NotPrepared: If it is not there; says how to prepare it.
    """
    builder = prepared_builder(dataset, data_dir)
    return StreamSplit(builder, split, builder.info.splits[split].num_examples, label)


def prepared_builder(dataset, data_dir=None):
    """Return the builder of a TensorFlow Dataset that is there already.

    Args:
        dataset: Its name, as `imagenet_v2/matched-frequency`.
        data_dir: As for `open_tfds`.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        NotPrepared: If it is not there; says how to prepare it.
    """
    builder = _builder(dataset, data_dir)
    if not builder.is_prepared():
        place = f" --data_dir={data_dir}" if data_dir else ""
        words = f"Prepare it by `tfds build {dataset}{place}`."
        by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        if by_hand:
            words += f" Fetched by hand: {' '.join(by_hand.split())}"
        raise NotPrepared(
            f"The data set must be prepared. Received: {dataset}, which is not in "
            f"{builder.data_path}. {words}"
        )
    return builder


class NotPrepared(ValueError):
    """A TensorFlow Dataset that is not there."""


def _builder(dataset, data_dir):
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
    return builder


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
    import tensorflow_datasets as tfds

    features = builder.info.features
    if builder.info.supervised_keys != ("image", "label"):
        raise ValueError(
            "The data set must be one of images with one label each. Received: "
            f"{dataset}, with the features {', '.join(features or ())}."
        )
    image, label = features["image"], features["label"]
    channels = image.shape[-1] if len(image.shape or ()) == 3 else None
    if channels not in (1, 3, 4) and not isinstance(image, tfds.features.Image):
        channels = 0
    if channels == 0 or image.np_dtype not in (np.uint8, np.uint16):
        raise ValueError(
            "The images must have 1 or 3 channels of whole numbers. Received: "
            f"{dataset}, with {image}."
        )
    if not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(
            f"The labels must have names (ClassLabel). Received: {dataset}, with "
            f"{label}. Write its images into a folder for each class, and open that."
        )
    available = builder.info.splits
    for spec in splits.values():
        try:
            _ranges(spec, available)
        except (KeyError, ValueError, AssertionError) as error:
            raise ValueError(
                "A split must be in TensorFlow Datasets' syntax, of "
                f"{dataset}'s splits {', '.join(available)}. Received: {spec}."
            ) from error
    specs = _disjoint(dataset, available, val_fraction, splits)
    streams = {
        split: StreamSplit(builder, spec, available[spec].num_examples)
        for split, spec in specs.items()
    }
    return Source(dataset, tuple(label.names), streams)


def _disjoint(dataset, available, val_fraction, asked):
    """Name train, val and test so that no example is in two of them."""
    ranges = {name: _ranges(spec, available) for name, spec in asked.items()}
    if "test" not in ranges:
        # The test labels of ImageNet are not public; its validation split is what
        # everybody tests on.
        has_labels = "test" in available and dataset.split("/")[0] != "imagenet2012"
        for name in ["test"] * has_labels + ["validation"]:
            free = name in available and not any(
                _common(_ranges(name, available), other) for other in ranges.values()
            )
            if free and "test" not in ranges:
                ranges["test"] = _ranges(name, available)
    if "val" not in ranges and "validation" in available:
        validation = _ranges("validation", available)
        if not any(_common(validation, other) for other in ranges.values()):
            ranges["val"] = validation
    if "train" not in asked and "train" in available:
        ranges["train"] = _ranges("train", available)
        for held_out in ("val", "test"):
            ranges["train"] = _without(ranges["train"], ranges.get(held_out, []))
    if "train" in ranges:
        whole = _size(ranges["train"])
        for name, fraction in [("test", 0.1), ("val", val_fraction)]:
            if name not in ranges and fraction:
                left = _size(ranges["train"]) - max(round(whole * fraction), 1)
                first = _first(ranges["train"], left)
                ranges[name] = _without(ranges["train"], first)
                ranges["train"] = first
    for one, other in itertools.combinations(ranges, 2):
        if common := _common(ranges[one], ranges[other]):
            raise ValueError(
                f"{one} and {other} must have no example in common. Received: "
                f"--{one}_split={asked.get(one, one)}, "
                f"--{other}_split={asked.get(other, other)}, which share "
                f"{_spec(common, available)}."
            )
    return {name: _spec(part, available) for name, part in ranges.items() if part}


def _ranges(spec, available):
    """Resolve a split to `(name, first, last)` of the data set's own splits."""
    if spec in list(available):
        return [(spec, 0, available[spec].num_examples)]
    places, found = {}, []
    for name, info in available.items():
        position = 0
        for file in info.file_instructions:
            places[file.filename] = name, position
            position += file.examples_in_shard
    for file in available[spec].file_instructions:
        name, position = places[file.filename]
        first = position + file.skip
        taken = file.take if file.take >= 0 else file.examples_in_shard - file.skip
        if found and found[-1][0] == name and found[-1][2] == first:
            found[-1] = name, found[-1][1], first + taken
        else:
            found.append((name, first, first + taken))
    return found


def _without(ranges, others):
    for name, low, high in others:
        ranges = [
            (own, *part)
            for own, first, last in ranges
            for part in (
                [(first, min(last, low)), (max(first, high), last)]
                if own == name
                else [(first, last)]
            )
            if part[0] < part[1]
        ]
    return ranges


def _common(ranges, others):
    return _without(ranges, _without(ranges, others))


def _first(ranges, count):
    taken = []
    for name, first, last in ranges:
        last = min(last, first + count)
        count -= max(last - first, 0)
        taken += [(name, first, last)] * (first < last)
    return taken


def _size(ranges):
    return sum(last - first for _, first, last in ranges)


def _spec(ranges, available):
    """Write ranges in TensorFlow Datasets' syntax."""
    return "+".join(
        name
        if last - first == available[name].num_examples
        else f"{name}[{first or ''}:{last}]"
        for name, first, last in ranges
    )
