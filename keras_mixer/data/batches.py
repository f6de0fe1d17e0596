"""Batches for training and evaluation, as `tf.data` pipelines.

What a step trains on is a function of the seed and the step's number: the order of
the examples, their crops, their augmentation, their mixing. A pipeline can therefore
start at any step, and gives from there what an uninterrupted one would have given.
"""

import contextlib

import tensorflow as tf

from keras_mixer.data.augmentation import (
    augment_image,
    crop_window,
    mix_batch,
)
from keras_mixer.data.service import through_services
from keras_mixer.images import graph

_LABEL_RULE = "Labels must be in [0,"
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP")


@contextlib.contextmanager
def errors_in_words(source):
    """Say in a sentence what TensorFlow meets among the examples of a `Source`.

    Raises:
        ValueError: If a label is out of range, or an image cannot be read or found.
    """
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise ValueError(
            "Every file of a data set must stay where it was found, and be at the same "
            "path for a tf.data service. Received: one of "
            f"{source.name} that is not there ({error.message.splitlines()[0]})."
        ) from error
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        # TensorFlow puts a damaged file's bytes into some of its messages.
        is_text = isinstance(error, tf.errors.InvalidArgumentError)
        text = error.message if is_text else "invalid JPEG data"
        if _LABEL_RULE in text:
            raise ValueError(
                f"{_LABEL_RULE} {len(source.class_names)}). Received: others in "
                f"{source.name}. A split without labels, as the test split of many "
                "data sets is, cannot be used: name another by --test_split."
            ) from error
        if any(name in text for name in _FORMATS):
            raise ValueError(
                "Every image of a data set must be whole. Received: one in "
                f"{source.name} that cannot be read ({text.splitlines()[0]}). "
                "Prepare the data set again without it."
            ) from error
        raise


def training_batches(
    split,
    config,
    *,
    transform,
    image_size,
    classes,
    batch_size,
    epoch_steps,
    seed,
    first_step=0,
    worker=0,
    num_workers=1,
    services=(),
):
    """Build the endless stream of training batches, from a step on.

    Each epoch goes through the examples in a new order, for as many steps as make
    whole batches; the examples left over are others in each epoch.

    Args:
        split: A split of a `Source`.
        config: An `Augmentation`.
        transform: Has `interpolation` and `crop_ratio`, as the model's layer
            `preprocessing` has.
        image_size: `(height, width)` of the model's input, in pixels.
        classes: Number of classes.
        batch_size: Examples in a step, over all workers.
        epoch_steps: Steps in an epoch, at most `split.size // batch_size`.
        seed: Integer; decides the order and every random change.
        first_step: Number of the first step, from 0.
        worker: Number of this worker, from 0.
        num_workers: Number of workers, each of which gets its part of each batch.
        services: Addresses of tf.data services, as `find_services` returns them, that
            make the batches in turn; this process makes them if there are none.

    Returns:
        A `tf.data.Dataset` of float32 images in [0, 255]
        `(batch_size / num_workers, height, width, 3)` and float32 labels
        `(batch_size / num_workers, classes)` that sum to 1.
    """
    used = epoch_steps * batch_size
    first_epoch, steps_done = divmod(first_step, epoch_steps)

    # AutoGraph has nothing to convert, and warns that it cannot convert TFDS.
    @tf.autograph.experimental.do_not_convert
    def epoch_examples(epoch):
        start = tf.where(epoch == first_epoch, steps_done * batch_size, 0)
        start = tf.cast(start, tf.int64)
        numbers = tf.data.Dataset.range(epoch * used + start, (epoch + 1) * used)
        return tf.data.Dataset.zip(numbers, split.shuffled(seed, epoch, start))

    def prepare(number, example):
        image, label = example
        crop_seed, augment_seed = tf.unstack(
            tf.random.split(tf.stack([tf.cast(seed, tf.int64), number]), 2)
        )
        image = split.content(image)
        image = _training_crop(config, transform, image, image_size, crop_seed)
        image = augment_image(config, image, augment_seed)
        return number, image, _one_hot(label, classes)

    def mix(numbers, images, labels):
        # Negative, so that no batch shares its seed with an example.
        step_seed = tf.stack([tf.cast(seed, tf.int64), -1 - numbers[0]])
        return numbers[0] // batch_size, mix_batch(config, images, labels, step_seed)

    def steps(lane, lanes):
        return _finish(
            tf.data.Dataset.range(first_epoch, tf.int64.max)
            .flat_map(epoch_examples)
            .filter(_part_of(worker, num_workers, batch_size, lane, lanes))
            .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(batch_size // num_workers, drop_remainder=True)
            .map(mix, num_parallel_calls=tf.data.AUTOTUNE)
        )

    if services:
        return _finish(through_services(steps, services, first_step))
    return steps(0, 1).map(lambda step, batch: batch)


def evaluation_batches(
    split, *, transform, image_size, classes, batch_size, worker=0, num_workers=1
):
    """Build one pass over a split, in stored order, by the evaluation crop.

    The last batch is filled up with examples of weight 0, so that every batch has the
    same shape (which TPUs need) and every worker the same number of batches.

    Args:
        split: A split of a `Source`.
        transform: Has `interpolation` and `crop_ratio`, as the model's layer
            `preprocessing` has.
        image_size: `(height, width)` of the model's input, in pixels.
        classes: Number of classes.
        batch_size: Examples in a batch, over all workers.
        worker: Number of this worker, from 0.
        num_workers: Number of workers, each of which gets its part of each batch.

    Returns:
        A `tf.data.Dataset` of float32 images in [0, 255]
        `(batch_size / num_workers, height, width, 3)`, float32 one-hot labels
        `(batch_size / num_workers, classes)` and float32 weights
        `(batch_size / num_workers,)`, which sum to the number of rows.
    """
    part = batch_size // num_workers
    full, rest = divmod(split.size, batch_size)
    size = full * part + min(max(rest - worker * part, 0), part)
    steps = full + bool(rest)
    # Keras divides the loss of a batch by its rows, not by the sum of its weights.
    weight = steps * batch_size / split.size

    def prepare(number, example):
        image, label = example
        image = split.content(image)
        image = graph.evaluation_crop(image, image_size, transform)
        return image, _one_hot(label, classes), weight

    filling = (tf.zeros((*image_size, 3)), tf.zeros(classes), 0.0)
    batches = (
        split.ordered()
        .enumerate()
        .filter(_part_of(worker, num_workers, batch_size))
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .concatenate(tf.data.Dataset.from_tensors(filling).repeat(steps * part - size))
        .batch(part, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(steps))
    )
    return _finish(batches)


def on_one_iterator(batches):
    """Make a pass over batches cheap to begin, for who goes through them many times.

    For each new iterator TensorFlow builds and optimizes all ops anew, those for image
    files among them, which are many. Keras makes two for each validation.

    Args:
        batches: A `tf.data.Dataset` that knows how many it has.

    Returns:
        A `tf.data.Dataset` of the same batches in the same order, of which only one
        pass may be under way, and that to its end.
    """
    options = tf.data.Options()
    # It would begin the next pass, and hold its batches until somebody wants them.
    options.experimental_optimization.inject_prefetch = False
    passes = iter(batches.repeat().with_options(options))
    numbers = tf.data.Dataset.range(batches.cardinality())
    return numbers.map(lambda number: next(passes)).with_options(batches.options())


def _training_crop(config, transform, image, image_size, seed):
    if config.crop_scale == 1:
        return graph.evaluation_crop(image, image_size, transform)
    image = graph.decode_window(
        image, lambda height, width: crop_window(config, height, width, seed)
    )
    # Bilinear, as big_vision has it. Down to half the size it misses no pixel, and is
    # eight times as fast as the same with antialias.
    shrinks = tf.reduce_any(tf.shape(image)[:2] > 2 * tf.constant(image_size))
    return tf.cond(
        shrinks,
        lambda: tf.image.resize(image, image_size, antialias=True),
        lambda: tf.image.resize(image, image_size),
    )


def _one_hot(label, classes):
    in_range = tf.debugging.Assert(
        (label >= 0) & (label < classes),
        [f"{_LABEL_RULE} {classes}). Received:", label],
    )
    with tf.control_dependencies([in_range]):
        return tf.one_hot(label, classes)


def _part_of(worker, num_workers, batch_size, lane=0, lanes=1):
    part = batch_size // num_workers

    def is_mine(number, example):
        step, row = number // batch_size, number % batch_size
        return (row // part == worker) & (step % lanes == lane)

    return is_mine


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    # Each worker's pipeline already gives its own part.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
