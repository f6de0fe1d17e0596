"""Token-mixing weights for another number of patches.

Reference:
    arXiv 2105.01601, on fine-tuning at a higher resolution: for an image K times
    larger on each side the token-mixing MLP becomes K^2 copies of the trained one, one
    for each of K x K tiles.
"""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np

# The axis of a token-mixing tensor that counts patches.
PATCH_AXIS = {"fc1/kernel": 0, "fc2/kernel": 1, "fc2/bias": 0}


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a source tensor becomes a variable's value."""

    how: str
    convert: Callable[[np.ndarray], np.ndarray]


def scale_of(patches, new_patches):
    """K such that `new_patches = K^2 * patches`, a whole number; else None."""
    scale = math.isqrt(new_patches // patches) if patches else 0
    return scale if scale and scale * scale * patches == new_patches else None


def fitted_tokens_mlp_dim(width, source, image_shape, patch_size, resize=None):
    """Token width of a model that takes weights of another number of patches.

    Args:
        width: Token width of the model at the resolution it was made for.
        source: The `Source` of the weights.
        image_shape: (height, width, channels) of the model's images.
        patch_size: Side of a patch, in pixels.
        resize: `"interpolate"`, or None.

    Raises:
        ValueError: If the weights cannot be fitted exactly to that size.
    """
    patches = source.patches
    rows, columns = image_shape[0] // patch_size, image_shape[1] // patch_size
    if not scale_of(width, source.tokens_mlp_dim):
        return width  # another model's weights: for the strict check to say
    if rows * columns == patches:
        return source.tokens_mlp_dim
    scale = scale_of(patches, rows * columns) if rows == columns else None
    if scale:
        return source.tokens_mlp_dim * scale**2
    if resize == "interpolate" and rows == columns:
        return source.tokens_mlp_dim
    side = math.isqrt(patches) * patch_size
    raise ValueError(
        f"Weights of {side}x{side} images fit images K times as large on each side: "
        f"{side}, {2 * side}, {3 * side}, ... Received: image_size="
        f"{image_shape[0]}x{image_shape[1]}. Any other square size works approximately "
        'with resize="interpolate".'
    )


def fitting(name, patches, shape, wanted, resize=None):
    """The way from a source tensor to a variable, or None where there is none.

    Args:
        name: Keras name of the variable.
        patches: Number of patches of the source's model.
        shape: Shape of the source tensor, in Keras' layout.
        wanted: Shape of the variable.
        resize: `"interpolate"`, or None.

    Returns:
        A `Fit` or None.
    """
    if shape == wanted:
        return Fit("copied", lambda array: array)
    if "_token_mixing/" not in name or len(shape) != len(wanted):
        return None
    grid = math.isqrt(patches)
    if grid * grid != patches:
        return None
    kind = name.split("_token_mixing/")[1]
    scale = scale_of(shape[0], wanted[0])
    if scale and wanted == tuple(n * scale**2 for n in shape):
        return Fit("block-diagonal", lambda a: _block_diagonal(a, kind, grid, scale))
    axis = PATCH_AXIS.get(kind)
    if resize != "interpolate" or axis is None:
        return None
    new_grid = math.isqrt(wanted[axis])
    if wanted != tuple(new_grid**2 if k == axis else n for k, n in enumerate(shape)):
        return None
    return Fit("interpolated", lambda a: _interpolate(a, kind, grid, new_grid))


def _block_diagonal(array, kind, grid, scale):
    copies = scale**2
    if array.ndim == 1:
        array = np.tile(array, copies)
    else:
        array = np.kron(np.eye(copies, dtype=array.dtype), array)
    if kind not in PATCH_AXIS:
        return array
    # The copies come tile after tile; the model's patches are in row-major order.
    side = grid * scale
    tiles = np.arange(side**2).reshape(scale, grid, scale, grid)
    row_major = tiles.transpose(0, 2, 1, 3).reshape(-1)
    return np.take(array, np.argsort(row_major), axis=PATCH_AXIS[kind])


def _interpolate(array, kind, grid, new_grid):
    axis = PATCH_AXIS[kind]
    image = np.moveaxis(array, axis, 0).reshape(grid, grid, -1)
    resized = keras.ops.image.resize(
        image,
        (new_grid, new_grid),
        interpolation="bilinear",
        antialias=True,
        data_format="channels_last",
    )
    resized = keras.ops.convert_to_numpy(resized).reshape(new_grid**2, *image.shape[2:])
    if kind == "fc1/kernel":
        # fc1 sums over the patches: more of them must not mean a larger sum.
        resized *= (grid / new_grid) ** 2
    return np.moveaxis(resized, 0, axis) if array.ndim == 2 else resized[:, 0]
