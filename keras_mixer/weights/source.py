"""A weights file as the tensors of a Keras model, by tables; values are read late.

Every format is read into one set of names, those of the Keras model
(`block0_token_mixing/fc1/kernel`).
"""

import dataclasses
import math
import re
import zlib

import numpy as np

from keras_mixer.catalog import ImageTransform
from keras_mixer.weights import formats, names
from keras_mixer.weights.constants import checked_constants, constants_told
from keras_mixer.weights.formats import keras_h5


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a weights file and the way to its Keras layout."""

    source_name: str
    array: object  # ndarray or h5py.Dataset: both have shape and dtype, read late
    axes: tuple[int, ...] | None = None
    squeezed: bool = False  # without axes of length 1

    @property
    def shape(self):
        shape = tuple(self.array.shape)
        if self.squeezed:
            return tuple(size for size in shape if size != 1)
        if self.axes is None or len(self.axes) != len(shape):
            return shape
        return tuple(shape[axis] for axis in self.axes)

    def read(self):
        """Return the tensor as a float32 array in Keras' layout."""
        array = formats.to_float32(np.asarray(self.array))
        if self.squeezed:
            array = array.reshape(self.shape)
        return array if self.axes is None else array.transpose(self.axes)

    def checksum(self):
        """CRC-32 of the stored bytes, the same on every machine."""
        return zlib.crc32(np.ascontiguousarray(self.array))


@dataclasses.dataclass
class Source:
    """The tensors of a weights file under Keras' names, and what they were made for.

    Attributes:
        origin: The file's path, for messages.
        format: `"pdparams"`, `"npz"`, `"safetensors"`, `"h5"` or `"keras"`.
        tensors: `{Keras name: Tensor}`.
        unexpected: Names in the file that no table has.
        transform: The evaluation transform of the weights.
        approximate_gelu: Whether the weights were trained with the tanh form of GELU.
    """

    origin: str
    format: str
    tensors: dict[str, Tensor]
    unexpected: list[str]
    transform: ImageTransform
    approximate_gelu: bool

    @property
    def classes(self):
        """Number of classes of the head, or None for a file without one."""
        head = self.tensors.get("head/bias")
        return head.shape[0] if head and len(head.shape) == 1 else None

    @property
    def patches(self):
        """Number of patches the token-mixing MLPs were made for; 0 without any."""
        return self._token_width("fc2")

    @property
    def tokens_mlp_dim(self):
        """Hidden width of the token-mixing MLPs; 0 without any."""
        return self._token_width("fc1")

    def _token_width(self, dense):
        bias = self.tensors.get(f"block0_token_mixing/{dense}/bias")
        return bias.shape[0] if bias and len(bias.shape) == 1 else 0

    def not_finite(self, keras_names):
        """The problems of those tensors that hold NaN or infinity, in words."""
        return [
            f"not finite: {self.tensors[name].source_name} has NaN or infinity"
            for name in keras_names
            if not np.isfinite(self.tensors[name].read()).all()
        ]

    def sizes(self):
        """The arguments of the model that the file's shapes are of.

        Returns:
            (hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim, patch_size,
            image_size), for square images.

        Raises:
            ValueError: If the file holds no MLP-Mixer.
        """
        stem = self.tensors.get("stem/kernel")
        channels = self.tensors.get("block0_channel_mixing/fc1/bias")
        grid = math.isqrt(self.patches)
        if (
            stem is None
            or channels is None
            or len(stem.shape) != 4
            or len(channels.shape) != 1
            or not 0 < grid * grid == self.patches
            or names.num_blocks(self.tensors) > names.MAX_BLOCKS
        ):
            raise ValueError(
                "The file must hold an MLP-Mixer for square images, of at most "
                f"{names.MAX_BLOCKS} blocks. Received: {self.origin} with the tensors "
                f"{_some(self)}."
            )
        patch_size, *_, hidden_dim = stem.shape
        return (
            hidden_dim,
            names.num_blocks(self.tensors),
            self.tokens_mlp_dim,
            channels.shape[0],
            patch_size,
            grid * patch_size,
        )

    def described(self):
        """What the file holds, in words."""
        try:
            hidden_dim, num_blocks, *_, patch_size, image_size = self.sizes()
        except ValueError:
            return f"no MLP-Mixer, but the tensors {_some(self)}"
        return (
            f"hidden_dim={hidden_dim}, num_blocks={num_blocks}, "
            f"patch_size={patch_size}, image_size={image_size}, classes={self.classes}"
        )


def _some(source):
    found = [t.source_name for t in source.tensors.values()] + source.unexpected
    found = [name[:60] for name in found]
    return ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") or "none"


def open_file(path, transform=None):
    """Read the names and shapes of a weights file; the values follow when needed.

    Args:
        path: A `.pdparams`, `.npz`, `.safetensors`, `.weights.h5` or `.keras` file;
            its content decides, not its name.
        transform: The evaluation transform of the weights, where it is known; a file
            of this package says it itself, any other is taken to be the usual one.

    Returns:
        A `Source`.

    Raises:
        ValueError: If the file is not one of these, is damaged, or says of its weights
            what cannot be.
        FileNotFoundError: If there is no such file.
    """
    path = str(path)
    file_format = formats.detect_format(path)
    if file_format in ("h5", "keras"):
        arrays, constants = keras_h5.read(path)
        layout_name = "keras"
    else:
        arrays, constants = formats.read_checkpoint(path), {}
        layout_name = names.LAYOUT_OF_FORMAT[file_format]
        if "embedding/kernel" in arrays:
            layout_name = "google_legacy"
    layout = names.LAYOUTS[layout_name]
    tensors, unexpected = {}, []
    for name, array in arrays.items():
        ours = names.keras_name(_plain_name(name, layout_name), layout.column)
        if ours is None or ours in tensors:
            unexpected.append(name)
        else:
            squeezed = layout.squeezes_mixing and "_mixing/" in ours
            tensors[ours] = Tensor(name, array, layout.axes(ours), squeezed)
    source = Source(
        origin=path,
        format=file_format,
        tensors=tensors,
        unexpected=unexpected,
        transform=transform or ImageTransform(),
        approximate_gelu=layout.approximate_gelu,
    )
    if transform is None and file_format == "safetensors":
        constants = constants_told(path, source.classes)
    constants = checked_constants(constants, path)
    source.approximate_gelu = constants.pop("approximate_gelu", layout.approximate_gelu)
    if transform is None:
        source.transform = ImageTransform(**constants)
    return source


def _plain_name(name, layout_name):
    """A tensor's name as the table has it."""
    if layout_name == "passl":
        # PASSL's wrapper model holds .backbone and .head, and the head calls its layer
        # fc_cls; a bare backbone and a bare head come too.
        name = name.removeprefix("backbone.")
        return re.sub(r"^(head\.)?fc_cls\.", "head.", name)
    if layout_name == "google_legacy":
        # Before linen, flax numbered all children of a module together: the second
        # norm may be LayerNorm_2. Google's code passes its files through flax's
        # convert_pre_linen, which counts each kind by itself.
        return re.sub(r"/LayerNorm_[1-9]\d*/", "/LayerNorm_1/", name)
    return name
