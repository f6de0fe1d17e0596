"""Weights as images: token-mixing units on the patch grid, and the stem's filters.

Reference:
    arXiv 2105.01601, section 3.4, figures 6 and 7.
"""

import keras
import numpy as np
import numpy.typing as npt


def token_mixing_units(model: keras.Model, block: int) -> npt.NDArray[np.float32]:
    """Return the hidden units of a block's token-mixing MLP as images.

    Args:
        model: An MLP-Mixer of this package, or a model that holds one.
        block: Number of the block, from 0.

    Returns:
        float32 `(units, rows, columns)`: for each unit its weight for each patch of
        the image, which is a column of `fc1`'s kernel.

    Raises:
        ValueError: If the model has no such block.
    """
    blocks = _num_blocks(model)
    if isinstance(block, bool) or block not in range(blocks):
        raise ValueError(
            f"block must be a whole number from 0 to {blocks - 1}. "
            f"Received: block={block!r}."
        )
    kernel = _layer(model, f"block{block}_token_mixing").fc1.kernel
    _, rows, columns, _ = _layer(model, "stem").output.shape
    kernel = np.asarray(kernel.numpy() if hasattr(kernel, "numpy") else kernel)
    return kernel.astype("float32").T.reshape(-1, rows, columns)


def stem_filters(model: keras.Model) -> npt.NDArray[np.float32]:
    """Return the filters of the stem, one for each channel of a token.

    Args:
        model: An MLP-Mixer of this package, or a model that holds one.

    Returns:
        float32 `(channels, patch_size, patch_size, 3)`.

    Raises:
        ValueError: If the model holds no MLP-Mixer.
    """
    _num_blocks(model)
    kernel = np.asarray(_layer(model, "stem").get_weights()[0], "float32")
    return np.moveaxis(kernel, -1, 0)


def spatial_frequency(images: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the mean spatial frequency of images, weighted by their power.

    Args:
        images: `(images, height, width)`, or the same with channels last, whose power
            is summed.

    Returns:
        `(images,)`, in cycles per pixel: 0 for an even image, 0.5 for stripes one
        pixel wide, 0.71 for a chessboard, about 0.38 for white noise.
    """
    images = np.asarray(images, "float64")
    power = np.abs(np.fft.fft2(images, axes=(1, 2))) ** 2
    if power.ndim == 4:
        power = power.sum(-1)
    vertical = np.fft.fftfreq(images.shape[1])[:, None]
    radius = np.hypot(vertical, np.fft.fftfreq(images.shape[2]))
    total = power.sum((1, 2))
    return (power * radius).sum((1, 2)) / np.where(total, total, 1)


def pair_opposites(images: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pair each image with its opposite: the most negative correlation first.

    Args:
        images: `(images, height, width)`.

    Returns:
        The numbers of the images, `(images // 2, 2)`, and the correlation of each
        pair, `(images // 2,)`. Of an odd number the one that nobody wants is left out.
    """
    images = np.asarray(images, "float64")
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(lengths, lengths, 1)
    correlation = flat @ flat.T
    np.fill_diagonal(correlation, np.inf)
    pairs, values = [], []
    for _ in range(len(flat) // 2):
        pair = np.unravel_index(np.argmin(correlation), correlation.shape)
        pairs.append(pair)
        values.append(correlation[pair])
        correlation[list(pair)] = np.inf
        correlation[:, list(pair)] = np.inf
    return np.array(pairs, int).reshape(-1, 2), np.array(values)


def sorted_pairs(
    images: npt.ArrayLike,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair images with their opposites, and sort the pairs by frequency, lowest first.

    Args:
        images: `(images, height, width)`.

    Returns:
        The numbers of the images, `(images // 2, 2)`, the brighter of each pair first;
        the mean frequency of each pair, as `spatial_frequency` measures it; and the
        correlation of each pair.
    """
    pairs, correlations = pair_opposites(images)
    brightness = np.asarray(images).sum((1, 2))[pairs]
    pairs = np.take_along_axis(pairs, np.argsort(-brightness, axis=1), axis=1)
    frequencies = spatial_frequency(images)[pairs].mean(1)
    order = np.argsort(frequencies, kind="stable")
    return pairs[order], frequencies[order], correlations[order]


def _num_blocks(model):
    number = 0
    while _layer(model, f"block{number}_token_mixing") is not None:
        number += 1
    if not number or _layer(model, "stem") is None:
        raise ValueError(
            "model must be an MLP-Mixer of this package, or hold one. Received: "
            f"{getattr(model, 'name', type(model).__name__)!r} without a layer named "
            "`stem` or `block0_token_mixing`."
        )
    return number


def _layer(model, name):
    """Return the layer of that name, also of a Mixer inside another model, or None."""
    for layer in getattr(model, "layers", ()):
        if layer.name == name:
            return layer
        if (inner := _layer(layer, name)) is not None:
            return inner
    return None
