"""Slices and datasets, to replicas and back."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from keras_mixer.data.collections import Record
from keras_mixer.serving.bulk import LabelledShard, Layout
from keras_mixer.serving.cluster.connection import import_ray, resources
from keras_mixer.serving.cluster.replica import Replica

if TYPE_CHECKING:
    import keras
    import ray.data

# How often a slice is tried again whose replica died. An image that kills the process
# would otherwise be tried for ever.
_RETRIES = 3


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

    options = resources(replicas)
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
    ray = import_ray()
    columns = dataset.columns() or []
    column = next((name for name in ("bytes", "path") if name in columns), None)
    if column is None:
        raise ValueError(
            "dataset must have a column `bytes` or `path`. Received: one with "
            f"{', '.join(columns) or 'no column'}."
        )
    options = resources(replicas)
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
