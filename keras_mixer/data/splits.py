"""Labelled examples, in stored order or in the shuffled order of an epoch.

The shuffled order is a function of the seed and the epoch alone, and can be entered at
any position, which is what lets a run resume in the middle of an epoch.
"""

import dataclasses
import hashlib
import os

import numpy as np
import tensorflow as tf

# Held-out examples are the same whatever the --seed, so that results compare.
_SPLIT_SEED = 0
# Serialized examples held in memory to shuffle a TensorFlow Dataset, which stores
# its examples in random order to begin with. At 110 kB an ImageNet photograph, 1.1 GB.
_SHUFFLE_BUFFER = 10_000


@dataclasses.dataclass(frozen=True)
class IndexedSplit:
    """Examples that can be reached by number, in memory or as files.

    Attributes:
        images: uint8 pixels `(examples, height, width, 3)`, or the paths of image
            files `(examples,)`.
        labels: Class numbers, int64 `(examples,)`.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def size(self):
        return len(self.labels)

    def take(self, numbers):
        return IndexedSplit(self.images[numbers], self.labels[numbers])

    @property
    def fingerprint(self):
        """A text that changes with the examples; of files, with size and time."""
        digest = hashlib.sha256(self.labels.tobytes())
        if self.images.dtype.kind == "u":
            digest.update(self.images.tobytes())
        else:
            for path in self.images:
                status = os.stat(path)
                stamp = os.fsencode(path), status.st_size, status.st_mtime_ns
                digest.update(repr(stamp).encode())
        return digest.hexdigest()

    def content(self, image):
        return tf.io.read_file(image) if image.dtype == tf.string else image

    def ordered(self):
        return tf.data.Dataset.from_tensor_slices((self.images, self.labels))

    def shuffled(self, seed, epoch, start):
        # Outside the graph being traced, which would hold a copy of them.
        with tf.init_scope():
            images, labels = tf.constant(self.images), tf.constant(self.labels)
        seed = tf.stack([tf.cast(seed, tf.int32), tf.cast(epoch, tf.int32)])

        def pick(position):
            # A permutation that is computed, not stored: every position of every
            # epoch is reached at once.
            number = tf.random.experimental.index_shuffle(
                position, seed, tf.cast(self.size - 1, tf.int64)
            )
            return tf.gather(images, number), tf.gather(labels, number)

        return tf.data.Dataset.range(start, self.size).map(pick)


@dataclasses.dataclass(frozen=True)
class StreamSplit:
    """Examples of a TensorFlow Dataset, which are read in sequence.

    Attributes:
        builder: A prepared `tfds.core.DatasetBuilder`.
        name: The split, in TensorFlow Datasets' syntax, as `train[:90%]`.
        size: Number of examples.
        label: The feature that has the class.
    """

    builder: object
    name: str
    size: int
    label: str = "label"

    @property
    def fingerprint(self):
        """A text that changes with the examples: TensorFlow Datasets' own version."""
        return f"{self.builder.info.full_name} {self.name} {self.size}"

    def content(self, image):
        is_grey = image.dtype != tf.string and image.shape[-1] == 1
        return tf.image.grayscale_to_rgb(image) if is_grey else image

    def ordered(self):
        import tensorflow_datasets as tfds

        is_file = isinstance(self.builder.info.features["image"], tfds.features.Image)
        # The pipeline decodes, only the part of the image that it needs.
        decoders = {"image": tfds.decode.SkipDecoding()} if is_file else None
        if self.builder.info.supervised_keys == ("image", self.label):
            return self.builder.as_dataset(
                split=self.name, as_supervised=True, decoders=decoders
            )
        wanted = tfds.decode.PartialDecoding(
            {"image": True, self.label: True}, decoders=decoders
        )
        examples = self.builder.as_dataset(split=self.name, decoders=wanted)
        return examples.map(lambda example: (example["image"], example[self.label]))

    def feature(self, name):
        """The values of another feature, numpy arrays in stored order; no image."""
        import tensorflow_datasets as tfds

        wanted = tfds.decode.PartialDecoding({name: True})
        examples = self.builder.as_dataset(split=self.name, decoders=wanted)
        return [example[name] for example in examples.as_numpy_iterator()]

    def shuffled(self, seed, epoch, start):
        examples = self.ordered()
        # `Dataset.shuffle` mixes in the global seed, so that the order would depend on
        # who set it last, and fails on a seed that is a tensor where that one is 0.
        shuffled = tf.raw_ops.ShuffleDataset(
            input_dataset=tf.data.experimental.to_variant(examples),
            buffer_size=min(self.size, _SHUFFLE_BUFFER),
            seed=tf.cast(seed, tf.int64),
            # Two zeros would stand for a seed drawn at random.
            seed2=tf.cast(epoch, tf.int64) + 1,
            output_types=[spec.dtype for spec in examples.element_spec],
            output_shapes=[spec.shape for spec in examples.element_spec],
            reshuffle_each_iteration=False,
        )
        shuffled = tf.data.experimental.from_variant(shuffled, examples.element_spec)
        return shuffled.skip(start)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: its name, its classes, its splits.

    Attributes:
        name: What the user called it.
        class_names: Names of the classes, in the order of their numbers.
        splits: `train`, `test`, and `val` unless nothing is held out for it.
        notes: Sentences for the user, such as which files were skipped.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict
    notes: tuple[str, ...] = ()


def complete(splits, val_fraction, test_fraction):
    """Take from an indexed `train` split the ones that are missing.

    Args:
        splits: Dict of `IndexedSplit`s, with `train`.
        val_fraction: Share of the examples to hold out as `val`; 0 for none.
        test_fraction: Share of the examples to hold out as `test`.

    Returns:
        A dict with what was there and what is held out, class by class.
    """
    splits = dict(splits)
    for name, fraction in [("test", test_fraction), ("val", val_fraction)]:
        if name not in splits and fraction:
            train = splits["train"]
            rest, held_out = _hold_out(train.labels, fraction)
            if not len(rest) or not len(held_out):
                raise ValueError(
                    f"There must be images to hold out as {name}, and some to train "
                    f"on. Received: {train.size} images of {len(set(train.labels))} "
                    f"classes. Add images, or give {name} a folder of its own beside "
                    "train; --val_fraction=0 holds out nothing for val."
                )
            splits["train"], splits[name] = train.take(rest), train.take(held_out)
    return splits


def _hold_out(labels, fraction):
    """Split example numbers in two, class by class: the rest and the held out."""
    generator = np.random.default_rng(_SPLIT_SEED)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
