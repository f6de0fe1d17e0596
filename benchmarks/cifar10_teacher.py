"""Train a teacher for Mixers on CIFAR-10: a small convolutional network.

    python benchmarks/cifar10_teacher.py --cifar10=folder:cifar10 --output=teacher.keras

For `keras-mixer train --teacher=teacher.keras`. Convolutions know that pixels have
neighbours, which a Mixer has to learn from the data; their scores tell it. The teacher
is trained on the images that its pupil trains on, and no others; validation and test
images only tell how good it is. The file appears whole, at the end; the same command
goes on after the last whole epoch of a run that was stopped, in the order of the first
epochs again.

Reference:
    Convolution, pooling, norm, activation: Jordan, 2024 (arXiv 2404.00498), section 3.
"""

import pathlib

import keras
import numpy as np
from absl import app, flags
from keras import layers

from keras_mixer import data
from keras_mixer.models.layers import PixelNormalization
from keras_mixer.weights import written_whole

CIFAR10 = flags.DEFINE_string(
    "cifar10", "cifar10", "folder:PATH, or cifar10 of TensorFlow Datasets."
)
OUTPUT = flags.DEFINE_string("output", "teacher.keras", "Where to write the model.")
EPOCHS = flags.DEFINE_integer("epochs", 16, "Passes over the training images.")

# Little, for a teacher that learns fast: it meets stronger ones when it teaches. And no
# label smoothing: it would hide from the pupil which classes an image resembles (Müller
# et al., 2019, arXiv 1906.02629).
AUGMENTATION = data.Augmentation(flip=True, shift=0.08)
STEM, STAGES = 24, (48, 96, 192)
BATCH = 128


def build(image_size, classes):
    """The network, from pixels in [0, 255] to probabilities."""
    inputs = keras.Input((*image_size, 3))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10
    x = PixelNormalization(mean, std, "bilinear", 1.0, name="preprocessing")(inputs)

    def convolution(x, channels):
        return layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)

    def normalised(x):
        # For `folded`.
        norm = layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, gamma_constraint="non_neg"
        )
        return layers.Activation("relu")(norm(x))

    x = normalised(convolution(x, STEM))
    for channels in STAGES:
        x = normalised(layers.MaxPooling2D()(convolution(x, channels)))
        x = normalised(convolution(x, channels))
    x = layers.GlobalMaxPooling2D()(x)
    outputs = layers.Dense(classes, "softmax", name="head")(x)
    return keras.Model(inputs, outputs, name="cifar10_teacher")


def folded(model):
    """The same function in fewer layers: each convolution does its norm's work.

    A norm behind a pool goes before it, which changes nothing where gamma >= 0.
    """

    def copy(layer):
        config = layer.get_config()
        if isinstance(layer, layers.Conv2D):
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer, x, **_):
        return x if isinstance(layer, layers.BatchNormalization) else layer(x)

    copied = keras.models.clone_model(model, clone_function=copy, call_function=call)
    convolutions, norms = (
        [layer for layer in model.layers if isinstance(layer, kind)]
        for kind in (layers.Conv2D, layers.BatchNormalization)
    )
    for layer, norm in zip(convolutions, norms, strict=True):
        gamma, beta, mean, variance = norm.get_weights()
        scale = gamma / np.sqrt(variance + norm.epsilon)
        (kernel,) = layer.get_weights()
        copied.get_layer(layer.name).set_weights([kernel * scale, beta - mean * scale])
    copied.get_layer("head").set_weights(model.get_layer("head").get_weights())
    return copied


def main(argv):
    del argv
    keras.utils.set_random_seed(0)
    # The same 2 % held out as in the pupil's recipe.
    source = data.open_source(CIFAR10.value, val_fraction=0.02)
    classes, image_size = len(source.class_names), (32, 32)
    model = build(image_size, classes)
    batching = {
        "transform": model.get_layer("preprocessing"),
        "image_size": image_size,
        "classes": classes,
        "batch_size": BATCH,
    }
    train = source.splits["train"]
    steps = train.size // BATCH
    warmup = steps * EPOCHS.value // 5
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps * EPOCHS.value - warmup, warmup_target=0.1, warmup_steps=warmup
    )
    # Keras' decay is of the weights, not of the gradient: ten times as much for 0.9.
    optimizer = keras.optimizers.SGD(
        schedule, momentum=0.9, nesterov=True, weight_decay=5e-3
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(
        optimizer,
        "categorical_crossentropy",
        weighted_metrics=["accuracy"],
        jit_compile=False,  # XLA's convolutions are slow on a CPU
    )
    val, test = (
        data.evaluation_batches(source.splits[name], **batching)
        for name in ("val", "test")
    )
    model.fit(
        data.training_batches(
            train, AUGMENTATION, epoch_steps=steps, seed=0, **batching
        ),
        steps_per_epoch=steps,
        epochs=EPOCHS.value,
        shuffle=False,
        verbose=2,
        callbacks=[keras.callbacks.BackupAndRestore(f"{OUTPUT.value}.epochs")],
    )
    for name, batches in [("validation", val), ("test", test)]:
        accuracy = model.evaluate(batches, verbose=0, return_dict=True)["accuracy"]
        print(f"Right on {accuracy:.2%} of the {name} images.")
    with written_whole(pathlib.Path(OUTPUT.value)) as temporary:
        folded(model).save(temporary)


if __name__ == "__main__":
    app.run(main)
