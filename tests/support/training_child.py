"""Train the tiny variant in a process of its own.

    python training_child.py SETTINGS FOLDER [SETTINGS FOLDER]...

SETTINGS is JSON of fields of TrainConfig, and of `stop_at`: after that many steps the
process sends itself SIGTERM, or, if the number is negative, says so and waits for a
line. Stopped by SIGTERM, it goes on to the next pair. With LOGICAL_DEVICES=n the
processor counts as n devices.
"""

import dataclasses
import json
import os
import signal
import sys

import tensorflow as tf
import tiny_variant  # noqa: F401

from keras_mixer import training
from keras_mixer.training import fit

# Without keras-cv, which takes seconds to import and to trace.
SMALL = dataclasses.replace(
    training.RECIPES["digits"],
    model="MlpMixerTiny",
    epochs=3,
    batch_size=256,
    learning_rate=0.01,
    warmup_steps=3,
    ema_momentum=0.0,
    val_fraction=0.1,
    shift=0.0,
    rotation=0.0,
    crop_scale=0.5,
    deterministic=False,
    strategy="single",
)
# Everything that draws random numbers or has a state of its own.
STATEFUL = {
    "deterministic": True,
    "ema_momentum": 0.9,
    "dropout_rate": 0.1,
    "stochastic_depth_rate": 0.2,
    "checkpoint_steps": 2,
}


def run(settings, folder):
    return training.train(dataclasses.replace(SMALL, **settings), folder)


def stop_at(step):
    """Let the next run be stopped at a step."""
    original = fit.Run.on_train_batch_begin

    def on_train_batch_begin(self, batch, logs=None):
        if self.step == abs(step):
            fit.Run.on_train_batch_begin = original
            if step > 0:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                print(f"step {self.step}", flush=True)
                sys.stdin.readline()

    fit.Run.on_train_batch_begin = on_train_batch_begin


def main():
    if devices := int(os.environ.get("LOGICAL_DEVICES", 0)):
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * devices,
        )
    for settings, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        settings = json.loads(settings)
        if step := settings.pop("stop_at", 0):
            stop_at(step)
        try:
            run(settings, folder)
        except training.Preempted as preempted:
            print(preempted)


if __name__ == "__main__":
    main()
