"""Records to answers, in their order: threads read and decode ahead of the model."""

import collections
import concurrent.futures
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from keras_mixer.catalog import check_positive
from keras_mixer.data.collections import Collection, Record
from keras_mixer.serving.answers import Answer, Predictor
from keras_mixer.serving.predictors import open_predictor

if TYPE_CHECKING:
    import keras

# Batches that are read ahead of the model.
_AHEAD = 2


def predict_files(
    model: "keras.Model | str | os.PathLike[str]",
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    top_k: int = 5,
    features: bool = False,
    precision: str = "float32",
    batch_size: int = 32,
    workers: int | None = None,
    column: str | None = None,
) -> Iterator[tuple[str, Answer]]:
    """Label the images of a collection, however many there are.

    It holds a few batches at a time. What cannot be read is answered by an error.

    Args:
        model: A Keras model, the name of one, the path of a `.keras` file, of a
            training run's folder or of an exported model, or the URL of a server.
        source: A path, URL or pattern, as `keras-mixer predict` takes it: a file, a
            folder, `photos/**/*.jpg`, a `.tar`, `.parquet` or `.tfrecord` file, and
            `-` for paths on standard input. A list of these; any other iterable gives
            the paths and URLs of files, as they are needed.
        weights: For a named model: a tag of the catalogue or a path, `"imagenet"` if
            None.
        labels: Names of the classes: a list, the path of a text file with one a line,
            or a tag. None finds them as `keras-mixer predict` does.
        top_k: How many classes to name of each image.
        features: Whether to give the pooled embedding, too; of a Keras model.
        precision: `"float32"`, or `"bfloat16"` to compute the matrix products so.
        batch_size: How many images the model takes at once.
        workers: Threads that read and decode; None takes one for each processor.
        column: Column of Parquet files, or feature of TFRecord files, with the images.
            None finds it.

    Returns:
        An iterator of pairs of an image's name and its `Answer`, in the order of the
        source. An answer has `guesses`, tuples `(class, label, score)`, best first;
        `features`, a float32 array of shape `(channels,)` if asked for; and `error`,
        which is None or says why there are no guesses.

    Raises:
        ValueError: If there is no such model, or no image, or an argument does not
            fit.
    """
    if isinstance(source, (str, os.PathLike)):
        collection = Collection([source], column)
    elif isinstance(source, (list, tuple)):
        collection = Collection(source, column)
    else:
        collection = Collection(["-"], column, listed=source)
    predictor = open_predictor(
        model,
        weights=weights,
        labels=labels,
        top_k=top_k,
        features=features,
        precision=precision,
    )
    return label(predictor, collection, batch_size=batch_size, workers=workers)


def label(
    predictor: Predictor,
    records: Iterable[Record],
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> Iterator[tuple[str, Answer]]:
    """Answer records in their order. Which images share a batch depends on them alone.

    Args:
        predictor: What answers.
        records: What to read. It is gone through no further than the threads have to.
        batch_size: How many images the model takes at once.
        workers: Threads that read and prepare; None takes one for each processor.

    Returns:
        An iterator of pairs of a record's name and its answer.

    Raises:
        ValueError: If a number is not positive.
    """
    workers = default_workers() if workers is None else workers
    check_positive("batch_size", batch_size)
    check_positive("workers", workers)
    return _label(predictor, records, batch_size, workers)


def default_workers() -> int:
    """A thread for each processor that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _label(predictor, records, batch_size, workers):
    waiting = []  # names of images and what became of them, up to the last full batch
    batch = []
    for name, prepared in _prepared(predictor, records, batch_size, workers):
        waiting.append((name, prepared))
        if not isinstance(prepared, Answer):
            batch.append(prepared)
        # A long row of unreadable ones waits for no batch.
        if len(batch) == batch_size or len(waiting) == 4 * batch_size:
            yield from _answered(predictor, waiting, batch)
            waiting, batch = [], []
    yield from _answered(predictor, waiting, batch)


def _answered(predictor, waiting, batch):
    answers = iter(predictor.predict(batch) if batch else ())
    for name, prepared in waiting:
        yield name, prepared if isinstance(prepared, Answer) else next(answers)


def _prepared(predictor, records, batch_size, workers):
    """Prepare records in threads; yields names, and an `Answer` for what failed."""

    def prepare(record):
        try:
            return predictor.prepare(record.read())
        except ValueError as error:
            return Answer(error=" ".join(str(error).split()))

    ahead = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers, "keras-mixer-read")
    try:
        for record in records:
            ahead.append((record.name, pool.submit(prepare, record)))
            if len(ahead) > _AHEAD * batch_size + workers:
                name, future = ahead.popleft()
                yield name, future.result()
        while ahead:
            name, future = ahead.popleft()
            yield name, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
