"""A training run: its model, where it stands, and its files."""

import contextlib
import csv
import functools
import io
import json
import sys
import threading
import time

import tensorflow as tf
from keras import ops

from keras_mixer.data import batches
from keras_mixer.training import checkpointing
from keras_mixer.training.trainer import build_model, inference_copy, make_trainer
from keras_mixer.training.watching import Watch
from keras_mixer.weights import written_whole


class Run:
    """One training run.

    Attributes:
        step: Optimizer steps so far.
        history: One dict of figures for each finished epoch.
        stop: Event that tells the run to save its state and stop.
    """

    def __init__(self, config, output_dir, where, source):
        self.config = config
        self.output_dir = output_dir
        self.where = where
        self.source = source
        self.step = 0
        self.history = []
        self.stop = threading.Event()
        self.seconds_before = 0.0
        self.started = time.monotonic()

        train_size = source.splits["train"].size
        if train_size < config.batch_size:
            raise ValueError(
                "batch_size must be at most the number of training examples. Received: "
                f"batch_size={config.batch_size}, {train_size} examples."
            )
        self.epoch_steps = train_size // config.batch_size
        self.total_steps = config.steps or config.epochs * self.epoch_steps
        if config.warmup_steps >= self.total_steps:
            raise ValueError(
                "warmup_steps must be less than the steps of the run. Received: "
                f"warmup_steps={config.warmup_steps}, {self.total_steps} steps "
                f"({self.epoch_steps} an epoch). Lower it by --warmup_steps=..."
            )

        with where.scope():
            self.model = build_model(config, len(source.class_names))
            self.trainer, self.optimizer, self.metrics = make_trainer(
                config, where, self.model, self.total_steps
            )
        self.transform = self.model.get_layer("preprocessing")
        self.image_size = self.model.input_shape[1:3]
        self.inference_model = inference_copy(self.model, config.loss)
        self.metric_values = None

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
    def checkpoint_path(self):
        return self.output_dir / "checkpoint.npz"

    @property
    def seconds(self):
        return self.seconds_before + time.monotonic() - self.started

    def resume(self):
        """Take up the run that the folder holds, if it holds one."""
        config_path = self.output_dir / "config.json"
        if self.checkpoint_path.exists():
            _check_same_run(self.config, config_path)
            meta = checkpointing.load_state(self.checkpoint_path, self.state)
            size = self.source.splits["train"].size
            if meta["train_examples"] != size:
                raise ValueError(
                    "A run resumes on the data that it began with. Received: "
                    f"{meta['train_examples']} training examples before, {size} now "
                    f"({self.source.name}). Use another --output_dir to start anew."
                )
            self.step = meta["step"]
            self.history = meta["history"]
            self.seconds_before = meta["seconds"]
            if self.step % self.epoch_steps:
                values = self.state["metrics"]
                self.metric_values = [value.numpy() for value in values]
            for metric in self.metrics:
                metric.reset_state()
            print(f"Resuming {self.output_dir} at step {self.step}.")
        if self.where.is_chief:
            _write_text(config_path, self.config.to_json())

    def save(self):
        """Write the checkpoint that `resume` reads."""
        if not self.where.is_chief:
            return
        meta = {
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "train_examples": self.source.splits["train"].size,
        }
        try:
            checkpointing.save_state(self.checkpoint_path, self.state, meta)
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

    @property
    def learning_rate(self):
        return float(ops.convert_to_numpy(self.trainer.optimizer.learning_rate))

    @property
    def best_row(self):
        """The figures of the epoch whose weights are kept: of the last among equals."""
        return max(self.history, key=lambda r: (r.get("val_accuracy", 0), r["epoch"]))

    def fit(self):
        """Run `model.fit` from the step that the run stands at to the last."""
        val = self.source.splits.get("val")
        while self.step < self.total_steps:
            # Whole epochs together; what is left of one, after resuming or before
            # the last step, by itself.
            epoch, done = divmod(self.step, self.epoch_steps)
            whole = (self.total_steps - self.step) // self.epoch_steps
            if done or not whole:
                count = 1
                steps = min(self.epoch_steps - done, self.total_steps - self.step)
            else:
                count, steps = whole, self.epoch_steps
            batches = self.training_batches()
            if self.step == 0 and self.where.is_chief:
                self.show(batches)
            self.trainer.fit(
                self.where.distribute(batches),
                initial_epoch=epoch,
                epochs=epoch + count,
                steps_per_epoch=steps,
                validation_data=val and self.where.distribute(self.batches_of(val)),
                validation_steps=val and -(-val.size // self.config.batch_size),
                callbacks=[Watch(self)],
                shuffle=False,  # The batches come shuffled.
                verbose=self.verbose,
            )

    @property
    def verbose(self):
        if not self.where.is_chief:
            return 0
        return 1 if sys.stdout.isatty() else 2

    def training_batches(self):
        """Return the batches from the step that the run stands at, without end."""
        return batches.training_batches(
            self.source.splits["train"],
            self.config,
            transform=self.transform,
            image_size=self.image_size,
            classes=len(self.source.class_names),
            batch_size=self.config.batch_size,
            epoch_steps=self.epoch_steps,
            seed=self.config.seed,
            first_step=self.step,
            worker=self.where.worker,
            num_workers=self.where.num_workers,
        )

    def batches_of(self, split):
        return batches.evaluation_batches(
            split,
            transform=self.transform,
            image_size=self.image_size,
            classes=len(self.source.class_names),
            batch_size=self.config.batch_size,
            worker=self.where.worker,
            num_workers=self.where.num_workers,
        )

    def end_epoch(self, epoch, logs):
        """Note the figures of an epoch, keep the best weights, save the state."""
        row = {"epoch": epoch + 1, "step": self.step}
        row |= {name: float(value) for name, value in logs.items()}
        row["learning_rate"] = self.learning_rate
        row["seconds"] = round(self.seconds, 3)
        self.history.append(row)
        if not self.where.is_chief:
            return
        if self.best_row is row:
            self.keep_weights()
        self.log(row)
        self.save()

    def keep_weights(self):
        """Write the present weights as a complete model."""
        with self.averaged_weights():
            self.inference_model.set_weights(self.model.get_weights())
        with written_whole(self.output_dir / "model.keras") as temporary:
            self.inference_model.save(temporary)
        labels = "".join(f"{name}\n" for name in self.source.class_names)
        _write_text(self.output_dir / "labels.txt", labels)

    @contextlib.contextmanager
    def averaged_weights(self):
        """Put the moving average of the weights, if there is one, in their place."""
        if not self.config.ema_momentum:
            yield
            return
        variables = self.model.trainable_variables
        values = [variable.numpy() for variable in variables]
        self.optimizer.put_average(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def log(self, row):
        """Write the history as CSV, and the newest figures for TensorBoard."""
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        _write_text(self.output_dir / "history.csv", text.getvalue())
        with self.summaries.as_default(step=row["step"]):
            for name, value in row.items():
                tf.summary.scalar(name, value)
        self.summaries.flush()

    def show(self, batches):
        """Let TensorBoard show some images as training sees them."""
        images, _ = next(iter(batches))
        with self.summaries.as_default(step=0):
            tf.summary.image("augmented", images / 255, max_outputs=16)

    @functools.cached_property
    def summaries(self):
        return tf.summary.create_file_writer(str(self.output_dir / "tensorboard"))


def _write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_same_run(config, path):
    """Raise a ValueError if a folder holds a run of another configuration."""
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(config.to_json())
    differing = [
        f"{name}={before.get(name)} before, {name}={value} now"
        for name, value in now.items()
        if before.get(name) != value and name not in _FREE_FIELDS
    ]
    if differing:
        raise ValueError(
            "A run resumes with the configuration that it began with. Received: "
            f"{'; '.join(differing)} ({path}). Use another --output_dir, or delete "
            "that one to start anew."
        )


# What may change between two parts of a run.
_FREE_FIELDS = frozenset(
    ("strategy", "jit_compile", "checkpoint_minutes", "checkpoint_steps", "data_dir")
)
