"""Train a model: `model.fit` on the batches of `data`, restartable at any step."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.data import batches, sources
from keras_mixer.data.splits import Source
from keras_mixer.training import devices
from keras_mixer.training.evaluation import (
    Evaluation,
    check_classes,
    evaluate,
    published_figures,
)
from keras_mixer.training.recipes import RECIPES, TrainConfig, default_recipe
from keras_mixer.training.runs import Run
from keras_mixer.training.trainer import build_model
from keras_mixer.training.watching import Preempted
from keras_mixer.weights import written_whole

__all__ = [
    "RECIPES",
    "RESUME_ME",
    "Evaluation",
    "Preempted",
    "TrainConfig",
    "Training",
    "check_classes",
    "default_recipe",
    "evaluate",
    "open_split",
    "preview",
    "published_figures",
    "train",
]

open_split = sources.open_split

# EX_TEMPFAIL of sysexits.h, "temporary failure": try the same command again.
RESUME_ME = 75


@dataclasses.dataclass(frozen=True)
class Training:
    """What a finished training run leaves behind.

    Attributes:
        model: The inference model of the kept weights, in float32.
        source: The data set, a `sources.Source`.
        history: One dict of figures for each epoch.
        evaluation: The `Evaluation` of the model on the test split.
        report: What `report.json` says.
    """

    model: keras.Model
    source: Source
    history: list[dict[str, Any]]
    evaluation: Evaluation
    report: dict[str, Any]


def train(config: TrainConfig, output_dir: str | os.PathLike[str]) -> Training | None:
    """Train a model, or go on training it.

    Writes to `output_dir`: `config.json`; `checkpoint.npz`, from which the same call
    resumes to the bit; `model.keras`, the best weights by validation accuracy as a
    complete float32 model; `labels.txt`; `history.csv`; `tensorboard/`; `report.json`.

    Args:
        config: A `TrainConfig`.
        output_dir: The folder of the run, which all workers must see. One that holds
            another run's checkpoint is refused.

    Returns:
        A `Training`; `None` in the workers of several that are not the first.

    Raises:
        ValueError: If the configuration does not fit the data, the machine or the
            checkpoint, or the loss is no longer finite.
        Preempted: If the process got SIGTERM; the state is saved.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Training runs on Keras' TensorFlow backend. Received: "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
        )
    # First of all: several workers have to agree before TensorFlow does anything.
    where = devices.make_distribution(config.strategy)
    where.check_batch(config.batch_size, config.accumulation_steps)
    if config.sam_rho and where.strategy is not None:
        raise ValueError(
            "sam_rho works on a single device. Received: "
            f"sam_rho={config.sam_rho}, {where.replicas} replicas. "
            "Use --strategy=single or --sam_rho=0."
        )
    devices.set_precision(config.precision)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    source = _open_source(config)
    run = Run(config, pathlib.Path(output_dir), where, source)
    if where.is_chief:
        sizes = ", ".join(f"{split.size} {n}" for n, split in source.splits.items())
        print(
            f"{source.name}: {sizes} images of {len(source.class_names)} classes; "
            f"{run.epoch_steps} steps an epoch, {run.total_steps} in all."
        )
    run.resume()
    with _sigterm_noted() as run.stop:
        try:
            run.fit()
        except tf.errors.InvalidArgumentError as error:
            if batches.LABEL_RULE not in str(error):
                raise
            raise ValueError(
                f"{batches.LABEL_RULE} {len(source.class_names)}). Received: others in "
                f"{source.name}. A split without labels, as the test split of many "
                "data sets is, cannot be used: name another by --test_split."
            ) from error
    return _finish(run) if where.is_chief else None


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
    model = build_model(config, len(source.class_names))
    split = source.splits["train"]
    batch_size = min(config.batch_size, split.size)
    stream = batches.training_batches(
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
    source = sources.open_source(
        config.dataset,
        data_dir=config.data_dir,
        val_fraction=config.val_fraction,
        splits={
            "train": config.train_split,
            "val": config.val_split,
            "test": config.test_split,
        },
    )
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
    model = keras.saving.load_model(run.output_dir / "model.keras")
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
    with written_whole(run.output_dir / "report.json") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Training(model, run.source, run.history, evaluation, report)
