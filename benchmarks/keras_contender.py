"""Keras Mixers: the plain one that a tutorial writes, and what zeromodels has.

    python benchmarks/keras_contender.py FOLDER PRECISION
    python benchmarks/keras_contender.py FOLDER PRECISION_zeromodels

In bfloat16 the weights are stored so for inference, and the policy is mixed_bfloat16
for training.
"""

import json
import os
import pathlib
import sys

import contender

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers

tf.config.threading.set_intra_op_parallelism_threads(contender.THREADS)
tf.config.threading.set_inter_op_parallelism_threads(contender.THREADS)


def plain(sizes):
    """A Mixer of Keras' own layers, from pixels in [-1, 1] to logits."""
    side, patch, width = (
        sizes[name] for name in ("image_size", "patch_size", "hidden_dim")
    )
    x = inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(width, patch, strides=patch)(x)
    x = layers.Reshape((-1, width))(x)
    for _ in range(sizes["num_blocks"]):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Permute((2, 1))(y)
        y = layers.Dense(sizes["tokens_mlp_dim"], "gelu")(y)
        y = layers.Dense(x.shape[1])(y)
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(sizes["channels_mlp_dim"], "gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(sizes["classes"], dtype="float32")(x))


def zeromodels(sizes):
    from zeromodels.models.mlp_mixer import MLPMixerImageClassify

    # It rounds what it makes of the ratios down.
    mlps = sizes["tokens_mlp_dim"] + 0.5, sizes["channels_mlp_dim"] + 0.5
    return MLPMixerImageClassify(
        patch_size=sizes["patch_size"],
        embed_dim=sizes["hidden_dim"],
        depths=sizes["num_blocks"],
        mlp_ratio=tuple(dim / sizes["hidden_dim"] for dim in mlps),
        image_size=sizes["image_size"],
        num_classes=sizes["classes"],
    )


def assign(model, arrays):
    """Give a model timm's weights: its layers have them in timm's order."""
    parts = ["norm1", "mlp_tokens.fc1", "mlp_tokens.fc2"]
    parts += ["norm2", "mlp_channels.fc1", "mlp_channels.fc2"]
    built = [layer for layer in model.layers if layer.weights]
    blocks = (len(built) - 3) // len(parts)
    names = ["stem.proj"]
    names += [f"blocks.{block}.{part}" for block in range(blocks) for part in parts]
    for name, layer in zip([*names, "norm", "head"], built, strict=True):
        kernel = arrays[f"{name}.weight"]
        order = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[kernel.ndim]
        layer.set_weights([kernel.transpose(order), arrays[f"{name}.bias"]])


class Keras(contender.Inference):
    def load(self, folder, precision):
        self.sizes = json.loads((folder / "sizes.json").read_text())
        self.arrays = np.load(folder / "timm.npz")
        self.precision, _, library = precision.partition("_")
        self.make = zeromodels if library else plain
        keras.config.set_dtype_policy(self.precision)
        pixels = keras.Input(self.images.shape[1:], dtype="float32")
        scaled = layers.Rescaling(1 / 127.5, -1, dtype="float32")(pixels)
        logits = self._built()(scaled)
        self.model = keras.Model(pixels, layers.Softmax(dtype="float32")(logits))

    def _built(self):
        model = self.make(self.sizes)
        assign(model, self.arrays)
        return model

    def run(self, images):
        return self.model.predict_on_batch(images)

    def start_training(self, batch, learning_rate, weight_decay, clip_norm):
        """Prepare steps as `keras_mixer.train` takes them: AdamW, clipped gradient."""
        is_mixed = self.precision == "bfloat16"
        keras.config.set_dtype_policy("mixed_bfloat16" if is_mixed else self.precision)
        model = self.model = self._built()
        optimizer = keras.optimizers.AdamW(
            learning_rate, weight_decay, global_clipnorm=clip_norm
        )
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.weights if len(variable.shape) == 1]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
        images = self.images[:batch] / 127.5 - 1
        labels = np.arange(batch)

        def step():
            model.reset_metrics()  # or they would average over the steps
            return float(model.train_on_batch(images, labels))

        self.step = step
        return [step() for _ in range(2)]

    def train(self, repeats):
        return contender.timed(self.step, repeats)


if __name__ == "__main__":
    contender.answer(Keras(pathlib.Path(sys.argv[1]), sys.argv[2]))
