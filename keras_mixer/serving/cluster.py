"""Labelling on many machines, by Ray: its actors, its restarts, its data sets.

A replica is an actor that has loaded the model once. It labels slices of a collection,
each by itself, as a single machine would: what a slice gives is a function of the model
and the images, and Ray may ask for it as often as it needs to.
"""

import contextlib
import functools
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from keras_mixer.catalog import check_positive
from keras_mixer.data.collections import Record, read_file
from keras_mixer.serving.bulk import LabelledShard, Layout, label
from keras_mixer.serving.bulk.tables import columns_of, row_of
from keras_mixer.serving.predictors import open_predictor

if TYPE_CHECKING:
    import keras
    import ray.data

_CONNECT_SECONDS = 5
# How often a slice is tried again whose replica died. An image that kills the process
# would otherwise be tried for ever.
_RETRIES = 3
# What this process was told by its environment, and replicas have to know.
_ENVIRONMENT = ("KERAS_BACKEND", "KERAS_HOME", "KERAS_MIXER_WEIGHTS_URL")


def connect(cluster: str) -> None:
    """Connect this process to a Ray cluster that is there.

    Args:
        cluster: `auto` for the one that this machine belongs to, else the address
            `HOST:PORT` of its head node.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If there is no such cluster.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return
    try:
        if cluster != "auto":
            host, _, port = cluster.rpartition("://")[2].rpartition(":")
            # Ray would try for minutes.
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        ray.init(
            cluster, logging_level="error", log_to_driver=False, configure_logging=False
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            "cluster must be auto, on a machine of a Ray cluster, or the address "
            f"HOST:PORT of one. Received: {cluster} ({reason}). `ray start --head` "
            "starts one; export/ray/ has more."
        ) from error


def label_slices(
    slices: Iterable[tuple[int, list[Record]]],
    layout: Layout,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    replicas: int | None = None,
    **model: Any,
) -> Iterator[tuple[int, LabelledShard]]:
    """Label slices of a collection on the cluster that this process is connected to.

    Args:
        slices: Pairs of a number and records; no more are taken than there are
            replicas.
        layout: What the tables look like.
        batch_size: How many images the model takes at once.
        workers: Threads of a replica that read and decode; None is one for each of its
            processors.
        replicas: How many actors; None is one for each GPU, or for each machine.
        **model: The arguments of `open_predictor`.

    Returns:
        An iterator of pairs of a number and the `LabelledShard`, in the order in which
        they are finished.

    Raises:
        ValueError: If the replicas do not fit the cluster, or cannot open the model.
        OSError: If a replica died again and again over the same slice.
    """
    import ray
    from ray.util import ActorPool

    options = _resources(replicas)
    replicas = options.pop("replicas")
    kind: Any = ray.remote(Replica).options(
        **options, max_restarts=-1, max_task_retries=_RETRIES
    )
    actors: list[Any] = [
        kind.remote(model, os.getcwd(), batch_size, workers) for _ in range(replicas)
    ]
    with _errors_in_words():
        ray.get([actor.open.remote() for actor in actors])
        pool = ActorPool(actors)
        for number, records in slices:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(
                lambda actor, part: actor.label.remote(*part), (number, records, layout)
            )
        while pool.has_next():
            yield pool.get_next_unordered()


def predict_dataset(
    model: "keras.Model | str | os.PathLike[str]",
    dataset: "ray.data.Dataset",
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    top_k: int = 5,
    features: bool = False,
    precision: str = "float32",
    batch_size: int = 32,
    replicas: int | None = None,
) -> "ray.data.Dataset":
    """Label the images of a Ray dataset, by actors that load the model once.

    Args:
        model: As `predict_files` takes it. A path must lead to it on every machine.
        dataset: Has a column `bytes` of image files, as `ray.data.read_binary_files`
            gives, or a column `path` of their paths or URLs.
        weights: As `predict_files` takes them.
        labels: As `predict_files` takes them.
        top_k: How many classes to name of each image.
        features: Whether to give the pooled embedding, too.
        precision: `"float32"`, or `"bfloat16"` to compute the matrix products so.
        batch_size: How many images the model takes at once.
        replicas: How many actors; None is one for each GPU, or for each machine.

    Returns:
        The dataset with the further columns `valid`, bool; `reason`, why it is not, or
        null; `classes` and `labels`, lists of strings, and `scores`, lists of float32,
        best first; and `features`, lists of float32, if asked for.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the dataset has neither column, or the replicas do not fit the
            cluster.
    """
    ray = _import_ray()
    columns = dataset.columns() or []
    column = next((name for name in ("bytes", "path") if name in columns), None)
    if column is None:
        raise ValueError(
            "dataset must have a column `bytes` or `path`. Received: one with "
            f"{', '.join(columns) or 'no column'}."
        )
    options = _resources(replicas)
    # What reads the images needs a processor, too.
    options["num_cpus"] = max(options["num_cpus"] - 1, 0.5)
    opening = {
        "model": model,
        "weights": weights,
        "labels": labels,
        "top_k": top_k,
        "features": features,
        "precision": precision,
    }
    return dataset.map_batches(
        cast(Any, Replica),
        fn_constructor_args=(opening, os.getcwd(), batch_size),
        fn_kwargs={"column": column, "features": features},
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=options.pop("replicas")),
        **options,
    )


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


def _import_ray():
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "Many machines need the extra `cluster`: `pip install "
            f"keras-mixer[cluster]`. Received: {error}."
        ) from error
    return ray


def _resources(replicas):
    """How many replicas, and what each one gets: a GPU if there are any, processors."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU")]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    processors = [int(node["CPU"]) for node in nodes]
    if replicas is None:
        replicas = gpus or len(nodes)
    check_positive("replicas", replicas)
    # The largest number of processors with which so many find room.
    share = max(processors, default=0)
    while share and sum(count // share for count in processors) < replicas:
        share -= 1
    if not share or (gpus and gpus < replicas):
        raise ValueError(
            "A replica takes a GPU where there are any, and a processor. Received: "
            f"replicas={replicas}, of a cluster with {sum(processors)} processors and "
            f"{gpus} GPUs."
        )
    known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {
        "replicas": replicas,
        "num_cpus": share,
        "num_gpus": 1 if gpus else 0,
        "runtime_env": {"env_vars": known},
    }


def _use_threads(count):
    """Leave the processors of other replicas on this machine alone."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow has begun
        tf.config.threading.set_intra_op_parallelism_threads(count)


@contextlib.contextmanager
def _errors_in_words():
    """Give errors of replicas as they were raised there, without Ray's traceback."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (ValueError, OSError, ImportError)):
            raise error.cause from error
        raise
    except ray.exceptions.RayActorError as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            "A replica must live through a slice. Received: one slice over which "
            f"{_RETRIES + 1} died ({reason}). Give replicas more memory, or use fewer; "
            "the same command goes on."
        ) from error
