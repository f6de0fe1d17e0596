"""The functions of the library that train: train, preview."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import threading
from collections.abc import Sequence
from typing import Any

import filelock
import keras
import numpy as np
import tensorflow as tf

from keras_mixer import data
from keras_mixer.catalog import TrainConfig
from keras_mixer.training import devices
from keras_mixer.training.evaluation import Evaluation, evaluate
from keras_mixer.training.fit import Run, write_text
from keras_mixer.training.optimizers import build_model
from keras_mixer.training.start import (
    START,
    check_mixer,
    check_same_mixer,
    continued,
    open_start,
)
from keras_mixer.training.trackers import tracked
from keras_mixer.weights import written_whole


@dataclasses.dataclass(frozen=True)
class Training:
    """What a finished training run leaves behind.

    Attributes:
        model: The inference model of the kept weights, in float32.
        source: The data set, a `keras_mixer.data.Source`.
        history: One dict of figures for each epoch.
        evaluation: The `Evaluation` of the model on the test split.
        report: What `report.json` says.
    """

    model: keras.Model
    source: data.Source
    history: list[dict[str, Any]]
    evaluation: Evaluation
    report: dict[str, Any]


def train(
    config: TrainConfig,
    output_dir: str | os.PathLike[str],
    callbacks: Sequence[keras.callbacks.Callback] = (),
    model: keras.Model | None = None,
) -> Training | None:
    """Train a model, or go on training it.

    Writes to `output_dir`: `config.json`; `checkpoint.npz`, from which the same call
    resumes to the bit; `model.keras`, the best weights by validation accuracy as a
    complete float32 model; `labels.txt`; `history.csv`; `report.json`; and
    `tensorboard/`, or the number of the run that another tracker has.

    Args:
        config: A `TrainConfig`.
        output_dir: The folder of the run, which all workers must see. One that holds
            another run's checkpoint is refused, and one that another process trains in.
        callbacks: Keras callbacks for `fit`, such as `keras.callbacks.EarlyStopping`.
            A run is one or more calls of `fit`, of which a callback hears as of so many
            trainings; what it knows is lost when a run is stopped and resumed.
        model: A Mixer to start from, as `MlpMixer(...)` of any sizes or a named model
            builds it, in the place of the configuration's `model` and `weights`. It
            stays as it is: a copy is trained, with a new head if the data have another
            number of classes, and by the configuration's precision and dropout rates.
            The copy that the run begins with is `start.keras` in its folder; the run
            resumes from its checkpoint, whatever the weights of `model` are then. Of
            several workers, each opens a file: set the configuration's `model`.

    Returns:
        A `Training`; `None` in the workers of several that are not the first.

    Raises:
        ValueError: If the configuration does not fit the data, the machine or the
            checkpoint; if the model is no Mixer of this package, is frozen, of another
            dtype policy, or does not normalise pixels; or if the loss is no longer
            finite.
        Preempted: If the process got SIGTERM; the state is saved.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Training runs on Keras' TensorFlow backend. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
        )
    # First of all: several workers have to agree before TensorFlow does anything.
    where = devices.make_distribution(config.strategy)
    folder = pathlib.Path(output_dir)
    if model is not None:
        check_mixer(model, config.precision)
        start = str(folder / START)
        config = dataclasses.replace(config, model=start, weights=None)
    with _locked(folder) if where.is_chief else contextlib.nullcontext():
        run = _begin(config, folder, where, model)
        with data.errors_in_words(run.source):
            if not where.is_chief:
                with _sigterm_noted() as run.stop:
                    run.fit(callbacks)
                return None
            with tracked(run.config, folder) as (tracker, log):
                with _sigterm_noted() as run.stop:
                    run.fit([tracker, *callbacks])
                done = _finish(run)
                log({key: done.report[key] for key in _FINAL})
                return done


# What a tracker gets of the report.
_FINAL = ("test_accuracy", "test_top5_accuracy", "test_loss")


def _begin(config, folder, where, model):
    """Open the data, build the model, and go on where the folder's run stopped."""
    devices.set_precision(config.precision)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    services = data.find_services(config.data_service) if config.data_service else ()
    source = _open_source(config)
    if "train" not in source.splits:
        raise ValueError(
            "Training needs examples that are in no other split. Received: "
            f"{source.name} with the splits {', '.join(source.splits)} alone. Leave "
            "some to train on, as by --test_split='train[90%:]'."
        )
    examples = source.splits["train"].size
    resumes = (folder / "checkpoint.npz").exists()
    asked = config
    if resumes:
        config = continued(config, folder)
    if model is not None:
        if resumes:
            check_same_mixer(model, config.model, config.precision)
        else:
            with written_whole(folder / START) as temporary:
                model.save(temporary)
    start = open_start(config)
    if not resumes:
        shares = where.replicas * config.accumulation_steps
        config = config.fitted(examples, shares, where.memory, start.sizes)
    where.check(config)
    run = Run(config, folder, where, source, start, services)
    if where.is_chief:
        sizes = ", ".join(f"{split.size} {n}" for n, split in source.splits.items())
        print(
            f"{source.name}: {sizes} images of {len(source.class_names)} classes; "
            f"{run.epoch_steps} steps an epoch, {run.total_steps} in all."
        )
        if config != asked:
            known = where.memory < math.inf
            memory = f" and {where.memory / 1e9:.0f} GB of memory" if known else ""
            print(
                f"Chosen for these examples{memory}: "
                f"batch_size={config.batch_size}, warmup_steps={config.warmup_steps}."
            )
        for note in where.notes_on(config):
            print(note)
    if resumes:
        run.resume()
    elif where.is_chief:
        write_text(folder / "config.json", config.to_json())
    return run


@contextlib.contextmanager
def _locked(folder):
    """Keep other processes out of the folder of a run, which it makes if need be."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            "An output_dir takes one run at a time. Received: "
            f"{folder}, where another process trains. Use another --output_dir."
        ) from None
    try:
        yield
    finally:
        came_to_nothing = is_new and list(folder.glob("*")) == [path]
        with contextlib.suppress(OSError):  # as Windows does not unlink open files
            if came_to_nothing:
                path.unlink()  # while it is held: nobody else can take it
        lock.release()
        with contextlib.suppress(OSError):
            if came_to_nothing:
                folder.rmdir()


def preview(
    config: TrainConfig, count: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the first training examples as augmentation leaves them.

    Args:
        config: A `TrainConfig`.
        count: How many; at most a batch of the training split.

    Returns:
        Images, float32 `(count, height, width, 3)` in [0, 255]; labels, float32
        `(count, classes)`; and the names of the classes.
    """
    source = _open_source(config)
    model = build_model(config, open_start(config), len(source.class_names))
    split = source.splits["train"]
    batch_size = min(config.batch_size or count, split.size)
    stream = data.training_batches(
        split,
        config,
        transform=model.get_layer("preprocessing"),
        image_size=model.input_shape[1:3],
        classes=len(source.class_names),
        batch_size=batch_size,
        epoch_steps=split.size // batch_size,
        seed=config.seed,
    )
    images, labels = next(stream.as_numpy_iterator())
    return images[:count], labels[:count], source.class_names


def _open_source(config):
    source = data.open_source(config.dataset, **config.source_settings)
    for note in source.notes:
        print(note)
    return source


@contextlib.contextmanager
def _sigterm_noted():
    """Turn SIGTERM into an event, for the training loop to see between two steps."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread alone, which is somebody else's here.
        yield told
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, previous)


def _finish(run):
    model = keras.saving.load_model(run.folder / "model.keras")
    evaluation = evaluate(
        model,
        run.source.splits["test"],
        batch_size=run.config.batch_size,
        verbose=run.verbose,
    )
    kept = run.best_row
    report = {
        "dataset": run.source.name,
        "classes": len(run.source.class_names),
        "train_examples": run.source.splits["train"].size,
        "kept_epoch": kept["epoch"],
        "val_accuracy": kept.get("val_accuracy"),
        "test_accuracy": evaluation.top1,
        "test_top5_accuracy": evaluation.top5,
        "test_loss": evaluation.loss,
        "test_examples": evaluation.examples,
        "steps": run.step,
        "train_seconds": round(run.seconds, 1),
        "parameters": model.count_params(),
        "config": dataclasses.asdict(run.config),
    }
    text = json.dumps(report, indent=2) + "\n"
    write_text(run.folder / "report.json", text)
    return Training(model, run.source, run.history, evaluation, report)
