"""Image files to model input, on every Keras backend."""

import math
import operator
import os
from typing import Any, BinaryIO

import keras
import numpy as np
import numpy.typing as npt
from PIL import Image

from keras_mixer.catalog import ImageTransform, transform_of
from keras_mixer.images.decode import MAX_PIXELS, read_image

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def load_image(
    image: str | os.PathLike[str] | bytes | BinaryIO,
    size: int | None = None,
    *,
    weights: str | ImageTransform | keras.Model | None = None,
) -> npt.NDArray[np.float32]:
    """Load an image file as the evaluation crop that a set of weights expects.

    The short side is resized to `floor(size / crop_ratio)` with antialias, and the
    centre square of `size` is cut out: what timm and torchvision do, with Pillow.

    EXIF orientation is applied. Grey, palette and CMYK images become RGB, 16-bit ones
    keep their upper 8 bits, an alpha channel is dropped as TensorFlow and torchvision
    drop it (transparent pixels show the colour stored under them), and of an animation
    or a file of several pages the first image counts. Colour profiles are ignored.

    Args:
        image: Path of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file, or its content as
            bytes, or a binary file object, which is read from where it stands. At most
            `MAX_PIXELS` (50 million) pixels, by its header.
        size: Side of the crop in pixels. `None` is the input size of the model given
            as `weights`, or else 224.
        weights: Whose transform to follow: a tag of the catalogue, a model of this
            package (also inside another model), or an `ImageTransform`. `None` is
            that of `"imagenet"`: bicubic, crop ratio 0.875.

    Returns:
        A float32 array of shape `(size, size, 3)`, RGB, pixel values in [0, 255].

    Raises:
        ValueError: If the file is missing, not an image of these formats, cut off,
            damaged or too large, or if `size` or `weights` is not valid.
    """
    transform = transform_for(weights)
    if transform.interpolation not in _RESAMPLING:
        raise ValueError(
            f"interpolation must be one of {sorted(_RESAMPLING)}. Received: "
            f"{transform.interpolation!r}."
        )
    size = _crop_size(size, weights)
    crop = _evaluation_crop(read_image(image), size, transform)
    return np.array(crop, dtype="float32")


def preprocess_input(x: Any, *, weights: str | ImageTransform | None = None) -> Any:
    """Normalise pixels for a model built with `include_preprocessing=False`.

    Args:
        x: Array or tensor of shape `(..., 3)`, RGB, pixel values in [0, 255].
        weights: Whose mean and standard deviation to use: a tag of the catalogue, or an
            `ImageTransform`, whose own are 0.5 and 0.5 (pixels become [-1, 1]).

    Returns:
        `(x / 255 - mean) / std` in float32: a tensor of the Keras backend (symbolic
        ones too) if `x` is one, otherwise a NumPy array. `x` is not changed.

    Raises:
        ValueError: If `weights` is not given or a model, since the models of this
            package normalise their own input unless told not to; if the last axis is
            not 3 long; or if an array is normalised already.
    """
    if weights is None:
        raise ValueError(
            "preprocess_input is for models built with include_preprocessing=False, "
            "and has to be told whose constants they use. Received: no weights. All "
            "other models normalise their own input: give them pixels in [0, 255] as "
            'they are. For one of the former: preprocess_input(x, weights="imagenet").'
        )
    if hasattr(weights, "layers"):
        raise ValueError(
            "preprocess_input takes a tag or an ImageTransform as weights. Received: "
            f"the model {getattr(weights, 'name', weights)!r}. A model with a layer "
            "named `preprocessing` normalises its own input: give it pixels in "
            "[0, 255]. For one without, name the tag of its weights."
        )
    transform = transform_for(weights)
    mean = np.asarray(transform.mean, dtype="float32")
    std = np.asarray(transform.std, dtype="float32")
    is_tensor = isinstance(x, keras.KerasTensor) or keras.ops.is_tensor(x)
    x = keras.ops.cast(x, "float32") if is_tensor else np.asarray(x, dtype="float32")
    if len(x.shape) < 1 or x.shape[-1] != 3:
        raise ValueError(
            "x must have its 3 colour channels on the last axis. Received: shape "
            f"{tuple(x.shape)}. Move the channel axis there with `np.moveaxis`; repeat "
            "a grey channel 3 times; drop an alpha channel with `x[..., :3]`."
        )
    if not is_tensor and x.size and x.min() < 0:
        raise ValueError(
            "x must be pixel values in [0, 255]. Received: values from "
            f"{x.min():.3g} to {x.max():.3g}, as if normalised already."
        )
    if is_tensor:
        return keras.ops.divide(keras.ops.subtract(x / 255.0, mean), std)
    return (x / 255.0 - mean) / std


def transform_for(weights):
    """The `ImageTransform` that `load_image` follows, given the same `weights`."""
    if weights is None:
        return ImageTransform()
    if isinstance(weights, ImageTransform):
        return weights
    if isinstance(weights, str):
        return transform_of(weights)
    layer = preprocessing_layer(weights)
    if layer is None:
        raise ValueError(
            "weights must be None, a tag of the catalogue, an ImageTransform or a "
            "model with a layer named `preprocessing`. Received: "
            f"{type(weights).__name__}. For a model built with "
            "include_preprocessing=False name the tag of its weights."
        )
    return ImageTransform(layer.mean, layer.std, layer.interpolation, layer.crop_ratio)


def preprocessing_layer(model):
    """Return a model's layer `preprocessing`, or None for a model without one.

    A fine-tuned model often holds the Mixer as one of its layers: those are searched
    too.
    """
    for layer in getattr(model, "layers", ()):
        if layer.name == "preprocessing" and hasattr(layer, "crop_ratio"):
            return layer
        if (inner := preprocessing_layer(layer)) is not None:
            return inner
    return None


def _crop_size(size, weights):
    if size is None and hasattr(weights, "input_shape"):
        height, width = weights.input_shape[1:3]
        if height != width:
            raise ValueError(
                f"load_image cuts squares. Received: a model for images of {height} x "
                f"{width} pixels. Pass size and cut the rest yourself."
            )
        size = height
    if size is None:
        return 224
    largest = math.isqrt(MAX_PIXELS)
    try:
        side = operator.index(size)
    except TypeError:
        side = 0
    if isinstance(size, bool) or not 1 <= side <= largest:
        raise ValueError(
            f"size must be a whole number of pixels from 1 to {largest}. "
            f"Received: size={size!r}."
        )
    return side


def _evaluation_crop(image, size, transform):
    """Resize the short side to `size / crop_ratio`, and cut out the centre square.

    The crop alone is computed: the same values, and a strip of 1 x 1,000,000 pixels
    cannot ask for a resized long side of 256,000,000.
    """
    short = math.floor(size / transform.crop_ratio)
    part, box = [], []
    for length in image.size:
        # torchvision's Resize and CenterCrop, with their rounding.
        resized = int(short * length / min(image.size))
        start = round((resized - size) / 2)
        scale = length / resized
        low, high = start * scale, min((start + size) * scale, length)
        # The bicubic filter reaches 2 pixels of the coarser grid beyond the crop.
        # Without what is farther, the box that Pillow takes in float32 has small
        # numbers, however long the side.
        reach = 2 * max(scale, 1) + 1
        first = max(math.floor(low - reach), 0)
        last = min(math.ceil(high + reach), length)
        part.append((first, last))
        box.append((low - first, high - first))
    (left, right), (top, bottom) = part
    if (right - left, bottom - top) != image.size:
        image = image.crop((left, top, right, bottom))
    (left, right), (top, bottom) = box
    resampling = _RESAMPLING[transform.interpolation]
    return image.resize((size, size), resampling, box=(left, top, right, bottom))
