"""What happens between two training steps: counting, saving, stopping."""

import contextlib
import math
import time

import keras


class Preempted(Exception):
    """Training was told to stop, has saved its state, and can be resumed."""


class Watch(keras.callbacks.Callback):
    """Counts steps, and saves, stops or complains between two of them."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.saved_at = time.monotonic()
        self.raw_weights = contextlib.ExitStack()

    def on_epoch_begin(self, epoch, logs=None):
        run = self.run
        self.epoch_end = min((epoch + 1) * run.epoch_steps, run.total_steps)
        if run.metric_values is not None:
            # fit has just set them to zero; in the middle of an epoch they go on.
            for variable, value in zip(
                run.state["metrics"], run.metric_values, strict=True
            ):
                variable.assign(value)
            run.metric_values = None

    def on_train_batch_end(self, batch, logs=None):
        run = self.run
        run.step += 1
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise run.diverged(f"loss {loss}")
        if run.step == self.epoch_end:
            return  # Validation comes first, then end_epoch saves.
        if run.stop.is_set():
            self.stop()
        if self.is_due():
            run.save()
            self.saved_at = time.monotonic()

    def is_due(self):
        config = self.run.config
        if config.checkpoint_steps:
            return self.run.step % config.checkpoint_steps == 0
        return time.monotonic() - self.saved_at > 60 * config.checkpoint_minutes

    def on_test_begin(self, logs=None):
        self.raw_weights.enter_context(self.run.averaged_weights())

    def on_test_end(self, logs=None):
        self.raw_weights.close()

    def on_epoch_end(self, epoch, logs=None):
        self.run.end_epoch(epoch, logs)
        self.saved_at = time.monotonic()
        if self.run.stop.is_set():
            raise self.preempted()

    def stop(self):
        self.run.save()
        raise self.preempted()

    def preempted(self):
        return Preempted(
            f"Stopped at step {self.run.step} of {self.run.total_steps}. The same "
            "command resumes there."
        )
