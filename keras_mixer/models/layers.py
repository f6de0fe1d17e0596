"""The layers of MLP-Mixer, in `keras.ops`; in training on a CPU, in `kernels`.

Reference:
    Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", 2021
    (arXiv 2105.01601), section 2 and figure 1; Google's own code in
    google-research/vision_transformer, `vit_jax/models_mixer.py`.
"""

import contextlib
import contextvars
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

_weights_follow = contextvars.ContextVar("weights_follow", default=False)


@contextlib.contextmanager
def weights_follow(follow=True):
    """Build mixing layers with kernels of zeros, because weights are loaded next.

    Drawing the random numbers of an L/16 takes longer than reading its weights.
    """
    token = _weights_follow.set(follow)
    try:
        yield
    finally:
        _weights_follow.reset(token)


def _kernels(training):
    """Return the module of that name in training on a CPU under TensorFlow, or None."""
    if not training or keras.backend.backend() != "tensorflow":
        return None
    from keras_mixer.models import kernels

    return kernels if kernels.are_of_use() else None


@keras.saving.register_keras_serializable("keras_mixer")
class PatchEmbedding(keras.layers.Conv2D):
    """Project each patch to the model's channels: the stem.

    A convolution whose windows do not overlap, computed as one product of matrices: a
    convolution of 3 channels leaves most of a CPU's vector registers empty.

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
        super().__init__(
            hidden_dim,
            patch_size,
            strides=patch_size,
            kernel_initializer="lecun_normal",
            data_format="channels_last",
            **kwargs,
        )
        self.hidden_dim = hidden_dim
        self.patch_size = patch_size

    def build(self, input_shape):
        _, height, width, _ = input_shape
        if (
            None in (height, width)
            or height % self.patch_size
            or (width % self.patch_size)
        ):
            raise ValueError(
                "PatchEmbedding needs a height and width that are known, and multiples "
                f"of patch_size={self.patch_size}. "
                f"Received: input_shape={tuple(input_shape)}."
            )
        super().build(input_shape)

    def call(self, images, training=None):
        _, height, width, channels = images.shape
        side = self.patch_size
        rows, columns = height // side, width // side
        x = ops.reshape(images, (-1, rows, side, columns, side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, side * side * channels))
        kernel = ops.reshape(self.kernel, (-1, self.hidden_dim))
        kernels = _kernels(training)
        if kernels:
            x = kernels.dense(x, kernel, self.bias)
        else:
            x = ops.add(ops.matmul(x, kernel), self.bias)
        return ops.reshape(x, (-1, rows, columns, self.hidden_dim))

    def get_config(self):
        config = keras.layers.Layer.get_config(self)
        return {
            **config,
            "hidden_dim": self.hidden_dim,
            "patch_size": self.patch_size,
        }


@keras.saving.register_keras_serializable("keras_mixer")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras' layer normalisation over the channels, faster in training on a CPU.

    Input and output shape: `(batch, patches, channels)`.
    """

    def call(self, x, training=None):
        kernels = _kernels(training)
        if kernels:
            return kernels.layer_norm(x, self.gamma, self.beta, self.epsilon)
        return super().call(x)


class _MixingMlp(keras.layers.Layer):
    """Apply `Dense -> GELU -> Dense` along one axis of `(batch, patches, channels)`."""

    def __init__(
        self,
        mlp_dim: int,
        approximate_gelu: bool = False,
        dropout_rate: float = 0.0,
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

    def _build_mlp(self, width):
        # Google leaves flax's defaults in place: lecun_normal kernels, zero biases
        # (vit_jax/models_mixer.py, MlpBlock).
        initializer = "zeros" if _weights_follow.get() else "lecun_normal"
        common = {"kernel_initializer": initializer, "dtype": self.dtype_policy}
        self.fc1 = keras.layers.Dense(self.mlp_dim, name="fc1", **common)
        self.fc2 = keras.layers.Dense(width, name="fc2", **common)
        self.fc1.build((None, width))
        self.fc2.build((None, self.mlp_dim))
        self.dropout = None
        if self.dropout_rate:
            self.dropout = keras.layers.Dropout(
                self.dropout_rate, dtype=self.dtype_policy
            )

    def _mlp(self, x, training):
        # On a rank-3 tensor Dense becomes a batched product, which TensorFlow cannot
        # fuse with the bias and the GELU; on rank 2 it is one fused MatMul. The same
        # numbers, sooner.
        *_, length, width = x.shape
        y = ops.reshape(x, (-1, width))
        y = self._hidden(y, training)
        if self.dropout is not None:
            y = self.dropout(y, training=training)
        kernels = _kernels(training)
        fc2 = self.fc2
        y = kernels.dense(y, fc2.kernel, fc2.bias) if kernels else fc2(y)
        if self.dropout is not None:
            y = self.dropout(y, training=training)
        return ops.reshape(y, (-1, length, width))

    def _hidden(self, x, training):
        kernels = _kernels(training)
        if kernels and not self.approximate_gelu:
            x = ops.matmul(x, self.fc1.kernel)
            return kernels.biased_gelu(x, self.fc1.bias)
        return ops.gelu(self.fc1(x), approximate=self.approximate_gelu)

    def save_own_variables(self, store):
        # So that a file of weights alone still says which GELU they were trained with.
        store["approximate_gelu"] = np.asarray(self.approximate_gelu)

    def load_own_variables(self, store):
        saved_names = store.keys()  # all a Keras store can be asked for
        if "approximate_gelu" in saved_names:
            saved = bool(store["approximate_gelu"][()])
            if saved != self.approximate_gelu:
                raise ValueError(
                    "Weights must be used with the GELU they were trained with. "
                    f"Received: a file made with approximate_gelu={saved} for "
                    f"{self.name}, built with {self.approximate_gelu}. Build the model "
                    "with weights=PATH, or with that approximate_gelu."
                )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "mlp_dim": self.mlp_dim,
            "approximate_gelu": self.approximate_gelu,
            "dropout_rate": self.dropout_rate,
        }


def _check_static(layer, input_shape):
    if len(input_shape) != 3 or input_shape[1] is None or input_shape[2] is None:
        raise ValueError(
            f"{type(layer).__name__} maps (batch, patches, channels) with both patches "
            f"and channels known, since they are the sizes of its kernels. "
            f"Received: input_shape={tuple(input_shape)}."
        )


@keras.saving.register_keras_serializable("keras_mixer")
class TokenMixing(_MixingMlp):
    """Mix information across patches: one MLP, shared by all channels.

    Input and output shape: `(batch, patches, channels)`.

    Args:
        mlp_dim: Width of the hidden layer, D_S in the paper; a positive integer.
        approximate_gelu: Use the tanh form of GELU (weights trained by Google's JAX
            code), not the exact one (PyTorch's and Paddle's).
        dropout_rate: Dropout after each of the two Dense layers, in [0, 1).
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: If `mlp_dim` is not positive, or the number of patches or channels
            is not known when the layer is built.

    Reference:
        arXiv 2105.01601, section 2, equation 1.
    """

    def build(self, input_shape):
        _check_static(self, input_shape)
        self._build_mlp(input_shape[1])

    def call(self, x, training=None):
        y = ops.transpose(x, (0, 2, 1))
        y = self._mlp(y, training)
        return ops.transpose(y, (0, 2, 1))


@keras.saving.register_keras_serializable("keras_mixer")
class ChannelMixing(_MixingMlp):
    """Mix information across channels: one MLP, shared by all patches.

    Input and output shape: `(batch, patches, channels)`.

    Args:
        mlp_dim: Width of the hidden layer, D_C in the paper; a positive integer.
        approximate_gelu: Use the tanh form of GELU (weights trained by Google's JAX
            code), not the exact one (PyTorch's and Paddle's).
        dropout_rate: Dropout after each of the two Dense layers, in [0, 1).
        **kwargs: `name`, `dtype` and the like, for `keras.layers.Layer`.

    Raises:
        ValueError: If `mlp_dim` is not positive, or the number of patches or channels
            is not known when the layer is built.

    Reference:
        arXiv 2105.01601, section 2, equation 1.
    """

    def build(self, input_shape):
        _check_static(self, input_shape)
        self._build_mlp(input_shape[2])

    def call(self, x, training=None):
        return self._mlp(x, training)


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


@keras.saving.register_keras_serializable("keras_mixer")
class PixelNormalization(keras.layers.Layer):
    """Normalise pixels as the model's weights were trained: `(x / 255 - mean) / std`.

    Carries the rest of the evaluation transform (`interpolation`, `crop_ratio`) as
    configuration, so that a saved model still says how its images are to be prepared.
    Computes in float32 also under a mixed-precision policy: bfloat16 has 8 significant
    bits, too few for interpolated pixels.

    Input and output shape: `(batch, height, width, 3)`; input in [0, 255].

    Args:
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, of pixels scaled to [0, 1].
        interpolation: `"bicubic"` or `"bilinear"`, for resizing before the crop.
        crop_ratio: Side of the centre crop over the short side of the resized image,
            in (0, 1].
        **kwargs: `name` and the like, for `keras.layers.Layer`.
    """

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
        scale = ops.convert_to_tensor([1 / (255 * s) for s in self.std], x.dtype)
        offset = ops.convert_to_tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], x.dtype
        )
        return x * scale + offset

    def save_own_variables(self, store):
        store["mean"] = np.asarray(self.mean)
        store["std"] = np.asarray(self.std)
        store["crop_ratio"] = np.asarray(self.crop_ratio)
        store["bicubic"] = np.asarray(self.interpolation == "bicubic")

    def load_own_variables(self, store):
        saved_names = store.keys()
        if "mean" in saved_names:
            mean, std = (tuple(np.asarray(store[k]).tolist()) for k in ("mean", "std"))
            if (mean, std) != (self.mean, self.std):
                raise ValueError(
                    "Weights must be used with the normalisation they were trained "
                    f"with. Received: a file made with mean={mean}, std={std}; the "
                    f"model has mean={self.mean}, std={self.std}. Build the model with "
                    "weights=PATH, which takes the file's."
                )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "crop_ratio": self.crop_ratio,
        }
