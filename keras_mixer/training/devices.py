"""Numeric precision, and the machines that a model trains on.

`tf.distribute` does the work; this module picks the strategy, checks it before
TensorFlow does in its own words, and makes `fit` work under all of them.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib

import keras
import tensorflow as tf
from tensorflow.python.client import device_lib

from keras_mixer.catalog import PRECISIONS, STRATEGIES, check_choice, cpu_features

# Where Linux says how much memory a container may use.
_MEMORY_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def set_precision(precision):
    """Set the policy under which layers are built from here on.

    The mixed ones compute in 16 bits and keep variables in float32; mixed_float16 also
    scales the loss.
    """
    check_choice("precision", precision, PRECISIONS)
    keras.config.set_dtype_policy(precision)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Where a model trains.

    Attributes:
        strategy: A `tf.distribute.Strategy`; `None` on a single device.
        replicas: Devices that share each batch, over all workers.
        worker: Number of this process, from 0.
        num_workers: Number of processes.
    """

    strategy: tf.distribute.Strategy | None = None
    replicas: int = 1
    worker: int = 0
    num_workers: int = 1

    @property
    def is_chief(self):
        """Whether this process writes the files."""
        return self.worker == 0

    def scope(self):
        """Return the context to build and compile the model in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def memory(self):
        """Bytes of memory of all replicas; infinite where nobody can tell.

        Several workers have to come to the same answer, and do not ask each other.
        """
        if self.num_workers > 1:
            return math.inf
        if tf.config.list_physical_devices("GPU"):
            found = device_lib.list_local_devices()
            limits = [d.memory_limit for d in found if d.device_type == "GPU"]
            return min(limits) * self.replicas
        limits = [math.inf]
        with contextlib.suppress(AttributeError, OSError, ValueError):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        for path in _MEMORY_LIMITS:
            with contextlib.suppress(OSError, ValueError):
                limits.append(int(pathlib.Path(path).read_text()))
        return min(limits)

    def check(self, config):
        """Raise a ValueError unless a `TrainConfig` can be trained here."""
        parts = config.accumulation_steps
        shares = self.replicas * parts
        if config.batch_size % shares:
            below = config.batch_size // shares * shares
            nearest = [str(n) for n in (below, below + shares) if n]
            raise ValueError(
                "batch_size must be a multiple of the number of replicas times "
                f"accumulation_steps. Received: batch_size={config.batch_size}, "
                f"{self.replicas} replicas, accumulation_steps={parts}. "
                f"The nearest that work: {' and '.join(nearest)}."
            )
        if config.sam_rho and self.strategy is not None:
            raise ValueError(
                "sam_rho works on a single device. Received: "
                f"sam_rho={config.sam_rho}, {self.replicas} replicas. "
                "Use --strategy=single or --sam_rho=0."
            )

    def notes_on(self, config):
        """Return sentences about settings that do nothing here, or are slow."""
        notes = _slow_precision(config)
        if config.jit_compile and self.strategy is not None:
            notes.append(
                "jit_compile has no effect: XLA does not compile the sums over several "
                "devices."
            )
        if (config.mixup or config.cutmix) and config.batch_size == self.num_workers:
            notes.append(
                "mixup and cutmix have no effect: they mix the examples of a batch, "
                "which has only one."
            )
        return notes

    def distribute(self, dataset):
        """Give each of this worker's replicas its share of the worker's batches."""
        if self.num_workers == 1:
            return dataset
        local = self.replicas // self.num_workers
        return self.strategy.distribute_datasets_from_function(
            lambda context: dataset.rebatch(
                dataset.element_spec[0].shape[0] // local, drop_remainder=True
            )
        )


# What a processor has to have for a precision; without it products are emulated.
_PRODUCTS = {
    "mixed_bfloat16": {"AVX512-BF16", "AMX-BF16"},
    "mixed_float16": {"AVX512-FP16"},
}


def _slow_precision(config):
    wanted, features = _PRODUCTS.get(config.precision, set()), {*cpu_features()}
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    # XLA widens the products to float32.
    if not wanted or wanted & features or kinds != {"CPU"} or config.jit_compile:
        return []
    if "AVX2" not in features:  # a processor of which we do not know
        return []
    able = _PRODUCTS["mixed_bfloat16"] & features
    return [
        f"{config.precision} is slow on this CPU, which has no products in 16 bits of "
        f"that kind: use {'mixed_bfloat16' if able else 'float32'}."
    ]


def make_distribution(strategy):
    """Make a `Distribution`.

    Several processes have to agree before TensorFlow has done anything else, so this
    comes first in a program.

    Args:
        strategy: `"single"` device; `"mirrored"` over the devices of this machine;
            `"multi_worker"` over the machines that the environment variable TF_CONFIG
            names; `"tpu"`; or `"auto"`: multi_worker if TF_CONFIG names several
            workers, tpu if TPU_NAME is set, mirrored if there are several GPUs,
            otherwise single.

    Raises:
        ValueError: If `strategy` is none of these, TF_CONFIG cannot be used, there is
            no TPU, or TensorFlow has computed something before several workers agree.
    """
    check_choice("strategy", strategy, STRATEGIES)
    if strategy == "auto":
        if len(_workers()[0]) > 1:
            strategy = "multi_worker"
        elif os.environ.get("TPU_NAME"):
            strategy = "tpu"
        else:
            several = len(tf.config.list_logical_devices("GPU")) > 1
            strategy = "mirrored" if several else "single"
    if strategy == "single":
        return Distribution()
    if strategy == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        chosen = tf.distribute.MirroredStrategy([device.name for device in devices])
        return Distribution(chosen, chosen.num_replicas_in_sync)
    if strategy == "tpu":
        chosen = _tpu_strategy()
        return Distribution(chosen, chosen.num_replicas_in_sync)
    workers, index = _workers()
    if not workers:
        raise ValueError(
            "strategy=multi_worker needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}. Received: none.'
        )
    try:
        chosen = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "Several workers have to agree before TensorFlow computes anything, and "
            "before a model is built. Received: a process in which it has "
            f"({error}). Train first of all; a model of your own comes from its file, "
            "TrainConfig(model=PATH)."
        ) from error
    return Distribution(chosen, chosen.num_replicas_in_sync, index, len(workers))


def _workers():
    """Read the addresses of all workers and the number of this one from TF_CONFIG."""
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return [], 0
    problem = None
    try:
        config = json.loads(text)
        workers = config.get("cluster", {}).get("worker", [])
        task = config.get("task", {})
        index = task.get("index", 0)
        if not workers:
            return [], 0
        if set(config["cluster"]) != {"worker"} or task.get("type") != "worker":
            problem = "every task has to be of the type worker"
        elif not isinstance(index, int) or not 0 <= index < len(workers):
            problem = f"task.index is {index!r}, of {len(workers)} workers"
    except (ValueError, AttributeError, TypeError) as error:
        problem = str(error)
    if problem:
        raise ValueError(
            "TF_CONFIG must be JSON such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}. '
            f"Received: {text!r} ({problem})."
        )
    return workers, index


def _tpu_strategy():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except Exception as error:
        # TensorFlow raises whatever its lookup of the TPU stumbled over.
        raise ValueError(
            "strategy=tpu needs a TPU: run this on a TPU virtual machine, or set "
            f"TPU_NAME. Received: {str(error).splitlines()[0]} "
            "Without one use --strategy=auto."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


class MultiWorkerFit:
    """Makes `fit` work under `MultiWorkerMirroredStrategy`; goes before `keras.Model`.

    Keras 3 fails there twice (keras issue 20585), and this mends both:

    1. Before the first step it averages a batch over the replicas, in order to build
       the model by its shape. Across workers that wants an axis to reduce. The batch
       of a local replica has the same shape.
    2. After each step it averages the logs over the replicas along axis 0, which
       scalars do not have. They get one, of length 1.
    """

    _built_by_batch = False

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if self._built_by_batch:
            return
        self._built_by_batch = True
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda x: self.distribute_strategy.experimental_local_results(x)[0],
                next(batches),
            )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def train_step(self, data):
        return _with_axis(super().train_step(data))

    def test_step(self, data):
        return _with_axis(super().test_step(data))


def _with_axis(logs):
    return {name: tf.reshape(value, [1]) for name, value in logs.items()}
