"""One training run: `model.fit`, restartable at any step, and what it writes."""

import contextlib
import csv
import io
import json
import math
import sys
import threading
import time

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_mixer import data
from keras_mixer.training.distillation import open_teacher
from keras_mixer.training.optimizers import build_model, inference_copy, make_trainer
from keras_mixer.weights import written_whole

_META = "meta.json"


class Preempted(Exception):
    """Training was told to stop, has saved its state, and can be resumed."""


class Run(keras.callbacks.Callback):
    """One training run, which is also the callback of its `fit`.

    Attributes:
        step: Optimizer steps so far.
        history: One dict of figures for each finished epoch.
        stop: Event that tells the run to save its state and stop.
        ended: Whether a callback ended it before its last step.
    """

    def __init__(self, config, folder, where, source, start, services=()):
        super().__init__()
        self.config = config
        self.folder = folder
        self.where = where
        self.source = source
        self.services = services
        self.step = 0
        self.history = []
        self.stop = threading.Event()
        self.ended = False
        self.seconds_before = 0.0
        self.started = self.saved_at = time.monotonic()
        self.metric_values = None
        self.raw_weights = contextlib.ExitStack()

        self.train_size = source.splits["train"].size
        if self.train_size < config.batch_size:
            raise ValueError(
                "batch_size must be at most the number of training examples. Received: "
                f"batch_size={config.batch_size}, {self.train_size} examples."
            )
        self.epoch_steps = self.train_size // config.batch_size
        self.total_steps = config.steps or config.epochs * self.epoch_steps
        if config.warmup_steps >= self.total_steps:
            raise ValueError(
                "warmup_steps must be less than the steps of the run. Received: "
                f"warmup_steps={config.warmup_steps}, {self.total_steps} steps "
                f"({self.epoch_steps} an epoch). Lower it by --warmup_steps=..."
            )
        with where.scope():
            self.network = build_model(config, start, len(source.class_names))
            teach = config.teacher and open_teacher(
                config.teacher,
                config.precision,
                self.network.input_shape[1:3],
                source.class_names,
            )
            self.trainer, self.optimizer, self.metrics = make_trainer(
                config, where, self.network, self.total_steps, teach
            )
        self.inference_model = inference_copy(self.network, config.loss)
        self.verbose = (1 if sys.stdout.isatty() else 2) if where.is_chief else 0

    @property
    def state(self):
        metrics = [self.trainer.metrics[0], *self.metrics]
        if self.where.num_workers > 1:
            # To read a metric is to sum it over the workers, for which all of them
            # would have to save at the same step.
            metrics = []
        return {
            "model": self.trainer.variables,
            "optimizer": self.trainer.optimizer.variables,
            "metrics": [v for metric in metrics for v in metric.variables],
        }

    @property
    def seconds(self):
        return self.seconds_before + time.monotonic() - self.started

    @property
    def learning_rate(self):
        return float(ops.convert_to_numpy(self.trainer.optimizer.learning_rate))

    @property
    def best_row(self):
        """The best epoch by validation accuracy; ties go to the latest."""
        return max(self.history, key=lambda r: (r.get("val_accuracy", 0), r["epoch"]))

    def resume(self):
        """Go on where the checkpoint in the folder was saved."""
        state = self.state
        # What a run of several workers saves has no metrics.
        meta = load_state(self.folder / "checkpoint.npz", state, optional=["metrics"])
        if meta["train_examples"] != self.train_size:
            raise ValueError(
                "A run resumes on the data that it began with. Received: "
                f"{meta['train_examples']} training examples before, {self.train_size} "
                f"now ({self.source.name}). Use another --output_dir to start anew."
            )
        self.step = meta["step"]
        self.ended = meta.get("ended", False)
        self.history = meta["history"]
        self.seconds_before = meta["seconds"]
        if self.step % self.epoch_steps:
            self.metric_values = [value.numpy() for value in state["metrics"]]
        for metric in self.metrics:
            metric.reset_state()
        print(f"Resuming {self.folder} at step {self.step}.")

    def save(self):
        """Write the checkpoint that `resume` reads."""
        self.saved_at = time.monotonic()
        if not self.where.is_chief:
            return
        meta = {
            "step": self.step,
            "ended": self.ended,
            "history": self.history,
            "seconds": self.seconds,
            "train_examples": self.train_size,
        }
        try:
            save_state(self.folder / "checkpoint.npz", self.state, meta)
        except FloatingPointError as error:
            raise self.diverged(f"the weights {error} are not finite") from error

    def diverged(self, what):
        """Return the error that says that training cannot go on."""
        return ValueError(
            f"The loss must stay finite. Received: {what} at step {self.step}, where "
            f"the learning rate is {self.learning_rate:.3g}. Lower --learning_rate, "
            "lengthen --warmup_steps, or clip by --clip_norm=1; the run resumes from "
            "its last checkpoint unless --output_dir is another."
        )

    def preempted(self):
        return Preempted(
            f"Stopped at step {self.step} of {self.total_steps}. The same command "
            "resumes there."
        )

    def fit(self, callbacks=()):
        """Run `model.fit` from the step that the run stands at to the last."""
        val = self.source.splits.get("val")
        if val:
            val_steps = -(-val.size // self.config.batch_size)
            val = data.evaluation_batches(val, **self.batching())
            val = self.where.distribute(data.on_one_iterator(val))
        while self.step < self.total_steps and not self.ended:
            # Whole epochs together; what is left of one, after resuming or before
            # the last step, by itself.
            epoch, done = divmod(self.step, self.epoch_steps)
            count, steps = (self.total_steps - self.step) // self.epoch_steps, None
            if done or not count:
                count = 1
                steps = min(self.epoch_steps - done, self.total_steps - self.step)
            stream = data.training_batches(
                self.source.splits["train"],
                self.config,
                epoch_steps=self.epoch_steps,
                seed=self.config.seed,
                first_step=self.step,
                services=self.services,
                **self.batching(),
            )
            try:
                self.trainer.fit(
                    self.where.distribute(stream),
                    initial_epoch=epoch,
                    epochs=epoch + count,
                    steps_per_epoch=steps or self.epoch_steps,
                    validation_data=val,
                    validation_steps=val and val_steps,
                    callbacks=[self, *callbacks],
                    shuffle=False,  # The batches come shuffled.
                    verbose=self.verbose,
                )
            except tf.errors.NotFoundError as error:
                if not data.service_restarted(error):
                    raise
                # The step that failed has counted, and the dispatcher, which numbers
                # from the beginning again, would take this process for another.
                raise Preempted(
                    f"Stopped at step {self.step} of {self.total_steps}: a tf.data "
                    "service was started anew. The same command resumes from the last "
                    "checkpoint."
                ) from error
            if self.trainer.stop_training:
                self.ended = True
                self.save()

    def batching(self):
        """Return what the batches of all splits have in common."""
        return {
            "transform": self.network.get_layer("preprocessing"),
            "image_size": self.network.input_shape[1:3],
            "classes": len(self.source.class_names),
            "batch_size": self.config.batch_size,
            "worker": self.where.worker,
            "num_workers": self.where.num_workers,
        }

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_end = min((epoch + 1) * self.epoch_steps, self.total_steps)
        if self.metric_values is not None:
            # fit has just set them to zero; in the middle of an epoch they go on.
            metrics = self.state["metrics"]
            for variable, value in zip(metrics, self.metric_values, strict=True):
                variable.assign(value)
            self.metric_values = None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise self.diverged(f"loss {loss}")
        if self.step == self.epoch_end:
            return  # Validation comes first, then on_epoch_end saves.
        every = self.config.checkpoint_steps
        if every:
            due = self.step % every == 0
        else:
            waited = time.monotonic() - self.saved_at
            due = waited > 60 * self.config.checkpoint_minutes
        if due or self.stop.is_set():
            self.save()
        if self.stop.is_set():
            raise self.preempted()

    def on_test_begin(self, logs=None):
        self.raw_weights.enter_context(self.averaged_weights())

    def on_test_end(self, logs=None):
        self.raw_weights.close()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "step": self.step}
        row |= {name: float(value) for name, value in logs.items()}
        row["learning_rate"] = self.learning_rate
        row["seconds"] = round(self.seconds, 3)
        self.history.append(row)
        if self.where.is_chief:
            if self.best_row is row:
                self.keep_weights()
            self.write_history()
        self.save()
        if self.stop.is_set():
            raise self.preempted()

    def keep_weights(self):
        """Write the present weights as a complete model."""
        with self.averaged_weights():
            self.inference_model.set_weights(self.network.get_weights())
        with written_whole(self.folder / "model.keras") as temporary:
            self.inference_model.save(temporary)
        labels = "".join(f"{name}\n" for name in self.source.class_names)
        write_text(self.folder / "labels.txt", labels)

    @contextlib.contextmanager
    def averaged_weights(self):
        """Put the moving average of the weights, if there is one, in their place."""
        if not self.config.ema_momentum:
            yield
            return
        # Keras' SwapEMAWeights adds and subtracts, which rounds the weights.
        variables = self.network.trainable_variables
        values = [variable.numpy() for variable in variables]
        self.optimizer.put_average(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def write_history(self):
        """Write the history as CSV, what was before a resumption included."""
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.folder / "history.csv", text.getvalue())


def write_text(path, text):
    """Write a text file whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_state(path, groups, meta):
    """Write lists of variables by name, and what JSON can hold, to an `.npz` file.

    Raises:
        FloatingPointError: If a value of the group `model` is not finite. Nothing is
            written then.
    """
    arrays = {}
    for group, variables in groups.items():
        for number, variable in enumerate(variables):
            arrays[f"{group}/{number}"] = value = variable.numpy()
            if group == "model" and not np.isfinite(value).all():
                raise FloatingPointError(variable.path)
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with written_whole(path) as temporary:
        np.savez(temporary, **arrays)


def load_state(path, groups, optional=()):
    """Set variables to what `save_state` wrote, and return its `meta`.

    Either side may lack the groups named in `optional`: they stay as they are.

    Raises:
        ValueError: If the file cannot be read, or is of another model or optimizer.
            No variable is changed then.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(_META).tobytes())
    except Exception as error:
        # What numpy raises at a damaged file is as various as the damage.
        raise ValueError(
            f"The checkpoint must be one that training wrote. Received: {path} "
            f"({error}). Delete it, or use another output_dir, to start anew."
        ) from error
    wanted = {
        f"{group}/{number}": variable
        for group, variables in groups.items()
        for number, variable in enumerate(variables)
    }
    for prefix in tuple(f"{group}/" for group in optional):
        sides = [[n for n in side if n.startswith(prefix)] for side in (arrays, wanted)]
        if not all(sides):
            for side, names in zip((arrays, wanted), sides, strict=True):
                for name in names:
                    del side[name]
    unfit = [f"{name} missing" for name in wanted if name not in arrays]
    unfit += [f"{name} unexpected" for name in arrays if name not in wanted]
    unfit += [
        f"{name} ({variable.path}): {arrays[name].dtype} {arrays[name].shape} instead "
        f"of {variable.dtype} {variable.shape}"
        for name, variable in wanted.items()
        if name in arrays
        and (arrays[name].shape, arrays[name].dtype)
        != (tuple(variable.shape), variable.dtype)
    ]
    if unfit:
        raise ValueError(
            "The checkpoint must be of the same model and optimizer. Received: "
            f"{path}, where {len(unfit)} variables do not fit: {', '.join(unfit[:5])}. "
            "Delete it, or use another output_dir, to start anew."
        )
    for name, variable in wanted.items():
        variable.assign(arrays[name])
    return meta
