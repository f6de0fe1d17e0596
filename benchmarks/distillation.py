"""What a teacher is worth: a small Mixer on CIFAR-10, with one and without.

    python benchmarks/distillation.py --cifar10=folder:cifar10

The student has four blocks of 48 channels. Each seed trains it twice, by the same steps
on the same images from the same initial weights: by the labels, and by the labels and
the teacher's scores. Prints both accuracies on the test images.
"""

import os
import statistics

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
from absl import app, flags

import keras_mixer
from keras_mixer import data, training
from keras_mixer.training import devices, distillation, optimizers

CIFAR10 = flags.DEFINE_string(
    "cifar10", "cifar10", "folder:PATH, or cifar10 of TensorFlow Datasets."
)
TEACHER = flags.DEFINE_string("teacher", "MlpMixerNano4:cifar10", "Who teaches.")
SEEDS = flags.DEFINE_integer("seeds", 3, "How often to train both.")
EPOCHS = flags.DEFINE_integer("epochs", 4, "Passes over the training images.")


def build():
    """The student, which returns logits."""
    return keras_mixer.MlpMixer(
        hidden_dim=48,
        num_blocks=4,
        tokens_mlp_dim=32,
        channels_mlp_dim=192,
        patch_size=4,
        input_shape=(32, 32, 3),
        classes=10,
        classifier_activation=None,
    )


def accuracy(source, teacher, seed):
    """Train a student, and return its accuracy on the test images."""
    keras.utils.set_random_seed(seed)
    config = training.TrainConfig(
        teacher=teacher,
        teacher_weight=0.9,
        temperature=2.0,
        epochs=EPOCHS.value,
        batch_size=128,
        learning_rate=3e-3,
        warmup_steps=100,
        weight_decay=0.05,
        clip_norm=1.0,
        crop_scale=0.6,
        flip=True,
        seed=seed,
    )
    student = build()
    batching = {
        "transform": student.get_layer("preprocessing"),
        "image_size": (32, 32),
        "classes": len(source.class_names),
        "batch_size": config.batch_size,
    }
    student.get_layer("preprocessing").crop_ratio = 1.0
    train = source.splits["train"]
    steps = train.size // config.batch_size
    teach = teacher and distillation.open_teacher(
        teacher, config.precision, (32, 32), source.class_names
    )
    trainer, _, _ = optimizers.make_trainer(
        config,
        devices.make_distribution("single"),
        student,
        steps * EPOCHS.value,
        teach,
    )
    trainer.fit(
        data.training_batches(train, config, epoch_steps=steps, seed=seed, **batching),
        steps_per_epoch=steps,
        epochs=EPOCHS.value,
        shuffle=False,
        verbose=0,
    )
    scores = optimizers.inference_copy(student, config.loss)
    scores.set_weights(student.get_weights())
    return training.evaluate(scores, source.splits["test"], batch_size=256).top1


def main(argv):
    del argv
    source = data.open_source(CIFAR10.value, val_fraction=0.02)
    print(f"{build().count_params():,} parameters, {EPOCHS.value} epochs.\n")
    print("| seed | labels alone | with the teacher | margin |")
    print("|------|--------------|------------------|--------|")
    margins = []
    for seed in range(SEEDS.value):
        alone, taught = (accuracy(source, t, seed) for t in (None, TEACHER.value))
        margins.append(taught - alone)
        margin = f"{100 * margins[-1]:+.2f}"
        print(f"| {seed} | {alone:.2%} | {taught:.2%} | {margin} |", flush=True)
    print(
        f"\n{TEACHER.value} is worth {100 * statistics.mean(margins):.2f} points, "
        f"{100 * min(margins):.2f} at the least."
    )


if __name__ == "__main__":
    app.run(main)
