"""Weights files into Keras variables, strictly, by tables; and back.

Every format is read into one set of names, those of the Keras model
(`block0_token_mixing/fc1/kernel`), and written from it. What is not in the tables, or
does not fit, is refused before anything is assigned.
"""

import dataclasses
import math
import re
import zlib

import keras
import numpy as np

from keras_mixer.catalog import ImageTransform
from keras_mixer.weights import names
from keras_mixer.weights.constants import constants as told_constants
from keras_mixer.weights.formats import checkpoints, keras_h5
from keras_mixer.weights.resize import fitting


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
        array = checkpoints.to_float32(np.asarray(self.array))
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
        ):
            raise ValueError(
                "The file must hold an MLP-Mixer for square images. Received: "
                f"{self.origin} with the tensors {_some(self)}."
            )
        patch_size, *_, hidden_dim = stem.shape
        return (
            hidden_dim,
            _num_blocks(self.tensors),
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
    names = [t.source_name for t in source.tensors.values()] + source.unexpected
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"


def _num_blocks(names):
    blocks = {int(m[1]) for n in names if (m := re.match(r"block(\d+)_", n))}
    return max(blocks, default=-1) + 1


def open_source(path, transform=None):
    """Read the names and shapes of a weights file; the values follow when needed.

    Args:
        path: A `.pdparams`, `.npz`, `.safetensors`, `.weights.h5` or `.keras` file;
            its content decides, not its name.
        transform: The evaluation transform of the weights, where it is known; a file
            of this package says it itself, any other is taken to be the usual one.

    Returns:
        A `Source`.

    Raises:
        ValueError: If the file is not one of these, or is damaged.
        FileNotFoundError: If there is no such file.
    """
    path = str(path)
    file_format = checkpoints.detect_format(path)
    if file_format in ("h5", "keras"):
        arrays, constants = keras_h5.read(path)
        layout_name = "keras"
    else:
        arrays = checkpoints.read_checkpoint(path)
        constants = {}
        layout_name = names.LAYOUT_OF_FORMAT[file_format]
        if "embedding/kernel" in arrays:
            layout_name = "google_legacy"
    layout = names.LAYOUTS[layout_name]
    depth = len(arrays)  # at least as many tensors as blocks
    keras_names = {theirs: ours for ours, theirs in names.pairs(depth, layout.column)}
    tensors, unexpected = {}, []
    for name, array in arrays.items():
        ours = keras_names.get(_plain_name(name, layout_name))
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
        constants = told_constants(path, source.classes)
    known = {f.name for f in dataclasses.fields(ImageTransform)} & constants.keys()
    if transform is None and known:
        source.transform = ImageTransform(**{name: constants[name] for name in known})
    source.approximate_gelu = constants.get("approximate_gelu", layout.approximate_gelu)
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


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a report: where a tensor came from and where it went."""

    source: str
    target: str
    shape: tuple[int, ...]  # of the target
    how: str  # "copied", "transposed", "block-diagonal" or "interpolated"
    checksum: int  # CRC-32 of the source's bytes


@dataclasses.dataclass(frozen=True)
class Report:
    """What `load_weights` did.

    Attributes:
        origin: The file's path.
        rows: One `Row` for each variable that was assigned.
        dropped: Names in the file that were left out: the head, when the model has
            none or another number of classes.
        new_head: Whether the model's head was left as it was.
    """

    origin: str
    rows: tuple[Row, ...]
    dropped: tuple[str, ...]
    new_head: bool

    def __str__(self):
        width = max((len(row.source) for row in self.rows), default=6)
        lines = [f"{'source':{width}}  {'target':34}  {'shape':18} how, CRC-32"]
        lines += [
            f"{row.source:{width}}  {row.target:34}  {row.shape!s:18} "
            f"{row.how}, {row.checksum:08x}"
            for row in self.rows
        ]
        lines += [f"{name:{width}}  (dropped)" for name in self.dropped]
        if self.new_head:
            lines.append(f"{'(new)':{width}}  head")
        count = sum(int(np.prod(row.shape)) for row in self.rows)
        lines.append(f"{len(self.rows)} tensors, {count:,} parameters")
        return "\n".join(lines)


def fill(model, source, resize=None):
    """Assign a file's tensors to a model: all of them, or none.

    Args:
        model: An MLP-Mixer of this package.
        source: What `open_source` returned.
        resize: `"interpolate"` to fit the token-mixing kernels of another image size
            approximately.

    Returns:
        A `Report`.

    Raises:
        ValueError: With every missing, unexpected, misshapen and non-finite tensor;
            then nothing was assigned.
    """
    variables = model_variables(model)
    wanted = dict(source.tensors)
    head = {"head/kernel", "head/bias"}
    new_head = (
        "head/bias" in variables and source.classes != (variables["head/bias"].shape[0])
    )
    dropped = []
    if new_head or "head/bias" not in variables:
        dropped = sorted(wanted.pop(n).source_name for n in head & wanted.keys())
        for name in head & variables.keys():
            del variables[name]

    problems = [
        f"missing: {name} {tuple(variables[name].shape)}"
        for name in variables.keys() - wanted.keys()
    ]
    problems += [
        f"unexpected: {wanted[name].source_name} {wanted[name].shape}"
        for name in wanted.keys() - variables.keys()
    ]
    problems += [f"unexpected: {name}" for name in source.unexpected]
    converted = {}
    for name in sorted(variables.keys() & wanted.keys()):
        tensor, shape = wanted[name], tuple(variables[name].shape)
        fit = fitting(name, source.patches, tensor.shape, shape, resize)
        if fit is None:
            problems.append(
                f"misshapen: {tensor.source_name} {tensor.shape} for {name} {shape}"
            )
        elif not np.isfinite(tensor.read()).all():
            problems.append(f"not finite: {tensor.source_name} has NaN or infinity")
        else:
            converted[name] = (tensor, fit)
    if problems:
        raise ValueError(
            f"The weights must fit the model, tensor by tensor; nothing was assigned. "
            f"Received: {source.origin} ({source.format}; {source.described()}) for "
            f"{model.name}. Build the model that the file was made for. "
            f"{len(problems)} problems:\n  " + "\n  ".join(sorted(problems))
        )
    rows = []
    for name, (tensor, fit) in converted.items():
        variables[name].assign(fit.convert(tensor.read()))
        how = fit.how
        if how == "copied" and tensor.axes is not None:
            how = "transposed"
        rows.append(
            Row(
                tensor.source_name,
                name,
                tuple(variables[name].shape),
                how,
                tensor.checksum(),
            )
        )
    order = {name: k for k, name in enumerate(variables)}
    rows.sort(key=lambda row: order[row.target])
    return Report(source.origin, tuple(rows), tuple(dropped), new_head)


def model_variables(model):
    """The variables of an MLP-Mixer as `{Keras name: variable}`, in the tables' order.

    Raises:
        ValueError: If the model is not an MLP-Mixer of this package.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "stem" not in layers or "block0_token_mixing" not in layers:
        raise ValueError(
            "The model must be an MLP-Mixer of keras_mixer, whose layers are named "
            f"stem, block0_token_mixing and so on. Received: {model.name} with layers "
            f"{', '.join(list(layers)[:5])}, ... Of a larger model, pass the Mixer in "
            "it."
        )
    variables = {}
    for name, _ in names.pairs(_num_blocks(layers), 0):
        layer_name, *attributes = name.split("/")
        if layer_name in layers:
            target = layers[layer_name]
            for attribute in attributes:
                target = getattr(target, attribute)
            variables[name] = target
    return variables


def model_sizes(model):
    """A model's (hidden_dim, num_blocks, channels_mlp_dim, patch_size)."""
    variables = model_variables(model)
    return (
        variables["stem/bias"].shape[0],
        _num_blocks(variables),
        variables["block0_channel_mixing/fc1/bias"].shape[0],
        variables["stem/kernel"].shape[0],
    )


def check_constants(model, source):
    """Refuse weights for a model of another normalisation or GELU.

    Raises:
        ValueError: If they differ.
    """
    model_variables(model)
    layers = {layer.name: layer for layer in model.layers}
    built = {"approximate_gelu": layers["block0_token_mixing"].approximate_gelu}
    made = {"approximate_gelu": source.approximate_gelu}
    if "preprocessing" in layers:
        for name in ("mean", "std"):
            built[name] = getattr(layers["preprocessing"], name)
            made[name] = getattr(source.transform, name)
    if built != made:
        raise ValueError(
            "A model must have the normalisation and the GELU that the weights were "
            f"trained with. Received: {source.origin} made with {made}; {model.name} "
            f"built with {built}. Build the model with weights=... instead."
        )


def export_arrays(model, layout_name):
    """A model's weights under another project's names and in its layout.

    Args:
        model: An MLP-Mixer of this package.
        layout_name: A key of `names.LAYOUTS`.

    Returns:
        `{name: float32 ndarray}`, ready for `checkpoints.write_checkpoint`.
    """
    layout = names.LAYOUTS[layout_name]
    variables = model_variables(model)
    theirs = dict(names.pairs(_num_blocks(variables), layout.column))
    arrays = {}
    for name, variable in variables.items():
        array, axes = keras.ops.convert_to_numpy(variable), layout.axes(name)
        if axes is not None:
            array = np.ascontiguousarray(array.transpose(np.argsort(axes)))
        arrays[theirs[name]] = array
    return arrays
