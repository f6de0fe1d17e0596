"""The layers of MLP-Mixer.

Reference:
    Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", 2021
    (arXiv 2105.01601), section 2 and figure 1; Google's own code in
    google-research/vision_transformer, `vit_jax/models_mixer.py`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mixer.models import kernels
from keras_mixer.models.constants import KeepsConstants


@keras.saving.register_keras_serializable("keras_mixer")
class PixelNormalization(KeepsConstants):
    """Normalise pixels as the model's weights were trained: `(x / 255 - mean) / std`.

    Carries the rest of the evaluation transform (`interpolation`, `crop_ratio`), so
    that a saved model says how its images are to be prepared. Computes in float32 under
    every policy: bfloat16 has 8 significant bits, too few for interpolated pixels.

    Input and output shape: `(batch, height, width, 3)`; input in [0, 255].

    Args:
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, of pixels scaled to [0, 1].
        interpolation: `"bicubic"` or `"bilinear"`, for resizing before the crop.
        crop_ratio: Side of the centre crop over the short side of the resized image,
            in (0, 1].
        **kwargs: `name` and the like, for `keras.layers.Layer`.
    """

    must_agree = ("mean", "std")

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str,
        crop_ratio: float,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)
        self.interpolation = interpolation
        self.crop_ratio = crop_ratio

    def call(self, x):
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scale = ops.convert_to_tensor(1 / (255 * std), x.dtype)
        offset = ops.convert_to_tensor(-mean / std, x.dtype)
        return x * scale + offset

    def constants(self):
        return {
            "mean": self.mean,
            "std": self.std,
            "crop_ratio": self.crop_ratio,
            "bicubic": self.interpolation == "bicubic",
        }

    def get_config(self):
        return {
            **super().get_config(),
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "crop_ratio": self.crop_ratio,
        }


@keras.saving.register_keras_serializable("keras_mixer")
class PatchEmbedding(keras.layers.Layer):
    """Project each patch to the model's channels: the stem.

    A convolution whose windows do not overlap is one product of matrices.

    Input shape: `(batch, height, width, 3)`, height and width multiples of
    `patch_size`. Output shape: `(batch, height / patch_size, width / patch_size,
    hidden_dim)`.

    Args:
        hidden_dim: Number of channels; a positive integer.
        patch_size: Side of a patch in pixels; a positive integer.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: If height or width is not known when the layer is built, or is no
            multiple of `patch_size`.

    Reference:
        arXiv 2105.01601, section 2, "per-patch fully-connected".
    """

    def __init__(self, hidden_dim: int, patch_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.patch_size = patch_size

    def build(self, input_shape):
        sizes, side = input_shape[1:3], self.patch_size
        if None in sizes or any(size % side for size in sizes):
            raise ValueError(
                "PatchEmbedding needs a height and width that are known, and multiples "
                f"of patch_size={side}. Received: input_shape={tuple(input_shape)}."
            )
        shape = (side, side, input_shape[-1], self.hidden_dim)
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer="lecun_normal"
        )
        self.bias = self.add_weight(name="bias", shape=shape[-1:], initializer="zeros")

    def call(self, images, training=None):
        _, height, width, channels = images.shape
        side = self.patch_size
        rows, columns = height // side, width // side
        x = ops.reshape(images, (-1, rows, side, columns, side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, side * side * channels))
        kernel = ops.reshape(self.kernel, (-1, self.hidden_dim))
        x = kernels.linear(x, kernel, self.bias, training)
        return ops.reshape(x, (-1, rows, columns, self.hidden_dim))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        side = self.patch_size
        return batch, height // side, width // side, self.hidden_dim

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "patch_size": self.patch_size,
        }


@keras.saving.register_keras_serializable("keras_mixer")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' layer normalisation over the channels, by the kernel of the place.

    Input and output shape: `(batch, patches, channels)`.
    """

    def call(self, x, training=None):
        x = ops.cast(x, self.compute_dtype)
        return kernels.layer_norm(x, self.gamma, self.beta, self.epsilon, training)


class MixingMlp(KeepsConstants):
    """One MLP, `Dense -> GELU -> Dense`, over an axis of `(batch, patches, channels)`.

    Input and output shape: `(batch, patches, channels)`.

    Args:
        mlp_dim: Width of the hidden layer; a positive integer.
        approximate_gelu: Use the tanh form of GELU (weights trained by Google's JAX
            code), not the exact one (PyTorch's and Paddle's).
        dropout_rate: Dropout after each of the two Dense layers, in [0, 1).
        kernel_initializer: What the kernels start as; the default is Google's. No part
            of the configuration: `"zeros"` is for who assigns weights next, since to
            draw the numbers of an L/16 takes longer than to read its file.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: If `mlp_dim` is not positive, or the number of patches or channels
            is not known when the layer is built.
    """

    axis: int
    must_agree = ("approximate_gelu",)

    def __init__(
        self,
        mlp_dim: int,
        approximate_gelu: bool = False,
        dropout_rate: float = 0.0,
        kernel_initializer: str = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mlp_dim < 1:
            raise ValueError(
                f"mlp_dim must be a positive integer. Received: mlp_dim={mlp_dim}."
            )
        self.mlp_dim = mlp_dim
        self.approximate_gelu = approximate_gelu
        self.dropout_rate = dropout_rate
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape):
        if len(input_shape) != 3 or None in input_shape[1:]:
            raise ValueError(
                f"{type(self).__name__} maps (batch, patches, channels) with both "
                "patches and channels known, since they are the sizes of its kernels. "
                f"Received: input_shape={tuple(input_shape)}."
            )
        width, dtype = input_shape[self.axis], self.dtype_policy
        dense = {
            "kernel_initializer": self.kernel_initializer,
            "dtype": dtype,
            "trainable": self.trainable,  # as when a frozen layer is loaded
        }
        self.fc1 = keras.layers.Dense(self.mlp_dim, name="fc1", **dense)
        self.fc2 = keras.layers.Dense(width, name="fc2", **dense)
        self.fc1.build((None, width))
        self.fc2.build((None, self.mlp_dim))
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=dtype)

    def mlp(self, x, training):
        # One product over all rows; a Dense of a rank-3 tensor is a batch of products.
        y = ops.reshape(x, (-1, x.shape[-1]))
        y = kernels.gelu_dense(y, self.fc1, self.approximate_gelu, training)
        y = self.dropout(y, training=training)
        y = kernels.dense(y, self.fc2, training)
        y = self.dropout(y, training=training)
        return ops.reshape(y, (-1, *x.shape[1:]))

    def constants(self):
        return {"approximate_gelu": self.approximate_gelu}

    def get_config(self):
        return {
            **super().get_config(),
            "mlp_dim": self.mlp_dim,
            "approximate_gelu": self.approximate_gelu,
            "dropout_rate": self.dropout_rate,
        }


@keras.saving.register_keras_serializable("keras_mixer")
class TokenMixing(MixingMlp):
    """Mix information across patches: one MLP, shared by all channels.

    `mlp_dim` is D_S in the paper. Arguments and errors are those of `MixingMlp`.

    Input and output shape: `(batch, patches, channels)`.

    Reference:
        arXiv 2105.01601, section 2, equation 1.
    """

    axis = 1

    def call(self, x, training=None):
        y = ops.transpose(x, (0, 2, 1))
        y = self.mlp(y, training)
        return ops.transpose(y, (0, 2, 1))


@keras.saving.register_keras_serializable("keras_mixer")
class ChannelMixing(MixingMlp):
    """Mix information across channels: one MLP, shared by all patches.

    `mlp_dim` is D_C in the paper. Arguments and errors are those of `MixingMlp`.

    Input and output shape: `(batch, patches, channels)`.

    Reference:
        arXiv 2105.01601, section 2, equation 1.
    """

    axis = 2

    def call(self, x, training=None):
        return self.mlp(x, training)


@keras.saving.register_keras_serializable("keras_mixer")
class StochasticDepth(keras.layers.Dropout):
    """Drop a whole residual branch, sample by sample, while training.

    Survivors are divided by `1 - rate`, so that the expected output is the input and
    nothing has to be rescaled at inference.

    Input and output shape: `(batch, patches, channels)`.

    Args:
        rate: Probability that a sample's branch is dropped, in [0, 1].
        seed: Seed of the layer's random numbers; an integer or None.
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: If `rate` is outside [0, 1].

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", 2016 (arXiv 1603.09382);
        rescaled while training, as timm's `DropPath` does.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(rate, noise_shape=(None, 1, 1), seed=seed, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config
