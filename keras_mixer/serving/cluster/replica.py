"""What runs on the machines of the cluster."""

import contextlib
import functools
import os
from typing import Any

from keras_mixer.data.collections import Record, read_file
from keras_mixer.serving.bulk import LabelledShard, Layout, label
from keras_mixer.serving.bulk.tables import columns_of, row_of
from keras_mixer.serving.predictors import open_predictor


class Replica:
    """A model and the threads that feed it, in a process of the cluster.

    Args:
        model: The arguments of `open_predictor`.
        folder: Where relative paths begin.
        batch_size: How many images the model takes at once.
        workers: Threads that read and decode; None is one for each processor.
    """

    def __init__(
        self,
        model: dict[str, Any],
        folder: str,
        batch_size: int,
        workers: int | None = None,
    ) -> None:
        import ray

        self._model = model
        self._batch_size = batch_size
        assigned = ray.get_runtime_context().get_assigned_resources()
        processors = max(1, int(assigned.get("CPU", 1)))
        self._workers = workers or processors
        with contextlib.suppress(OSError):
            os.chdir(folder)
        _use_threads(processors)

    @functools.cached_property
    def _predictor(self):
        return open_predictor(**self._model)

    def open(self) -> None:
        """Load the model. What is raised here reaches the driver in its own words."""
        _ = self._predictor

    def label(
        self, number: int, records: list[Record], layout: Layout
    ) -> tuple[int, LabelledShard]:
        """Label a slice."""
        return number, LabelledShard.of(self._answers(records), layout)

    def __call__(self, table: Any, column: str, features: bool) -> Any:
        """Add the columns of answers to a `pyarrow.Table`."""
        import pyarrow

        holder = _Bytes() if column == "bytes" else _Path()
        values = table.column(column).to_pylist()
        records = [Record(str(n), holder, value) for n, value in enumerate(values)]
        rows = [row_of("", answer, features) for _, answer in self._answers(records)]
        for name, kind in columns_of(features).items():
            cells = pyarrow.array([row[name] for row in rows], kind)
            table = table.append_column(name, cells)
        return table

    def _answers(self, records):
        return label(
            self._predictor,
            records,
            batch_size=self._batch_size,
            workers=self._workers,
        )


class _Bytes:
    """Files that are in the dataset itself."""

    def read(self, at):
        return at


class _Path:
    """Files of which the dataset has the path or URL."""

    def read(self, at):
        return read_file(at)


def _use_threads(count):
    """Leave the processors of other replicas on this machine alone."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow has begun
        tf.config.threading.set_intra_op_parallelism_threads(count)
