"""Train the tiny variant in a process of its own.

    python training_child.py SETTINGS FOLDER [SETTINGS FOLDER]...

SETTINGS is JSON of fields of TrainConfig. With LOGICAL_DEVICES=n the processor counts
as n devices. With ANNOUNCE=1 each step prints its number, and waits, for a test to
interrupt the process there.
"""

import dataclasses
import json
import os
import sys
import time

import tensorflow as tf
import tiny_variant  # noqa: F401

from keras_mixer import training
from keras_mixer.training import watching

SMALL = dataclasses.replace(
    training.RECIPES["digits"],
    model="MlpMixerTiny",
    epochs=3,
    batch_size=256,
    learning_rate=0.01,
    warmup_steps=3,
    ema_momentum=0.0,
    val_fraction=0.1,
    deterministic=False,
    strategy="single",
)


def run(settings, folder):
    return training.train(dataclasses.replace(SMALL, **settings), folder)


def announce_steps():
    original = watching.Watch.on_train_batch_end

    def announced(self, batch, logs=None):
        original(self, batch, logs)
        print(f"step {self.run.step}", flush=True)
        time.sleep(0.2)

    watching.Watch.on_train_batch_end = announced


def main():
    if devices := int(os.environ.get("LOGICAL_DEVICES", 0)):
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * devices,
        )
    if os.environ.get("ANNOUNCE"):
        announce_steps()
    for settings, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            run(json.loads(settings), folder)
        except watching.Preempted:
            sys.exit(training.run.RESUME_ME)


if __name__ == "__main__":
    main()
