"""Arrays into a model's variables, strictly; and back.

What does not fit is refused before anything is assigned, and where a model is built for
a file, before it is built.
"""

import dataclasses

import keras
import numpy as np

from keras_mixer.weights import names
from keras_mixer.weights.resize import fitting


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


def check_fit(source, shapes, model_name, resize=None):
    """Compare every tensor of a file with what a model wants, by names and shapes.

    Args:
        source: A `Source`.
        shapes: What the model wants, as `{Keras name: shape}`: `names.shapes(...)` of a
            model that is still to be built.
        model_name: The model's name, for messages.
        resize: `"interpolate"` to fit the token-mixing kernels of another image size
            approximately.

    Returns:
        A pair: `{Keras name: Fit}`, without the head where it is to stay new, and the
        file's names that are left out.

    Raises:
        ValueError: With the missing, unexpected and misshapen tensors.
    """
    wanted, tensors = dict(shapes), dict(source.tensors)
    if wanted.get("head/bias") != (source.classes,):
        for name in ("head/kernel", "head/bias"):
            wanted.pop(name, None)
    head = {"head/kernel", "head/bias"} - wanted.keys()
    dropped = sorted(tensors.pop(n).source_name for n in head & tensors.keys())

    problems = [
        f"missing: {name} {wanted[name]}" for name in wanted.keys() - tensors.keys()
    ]
    problems += [
        f"unexpected: {tensors[name].source_name[:100]} {tensors[name].shape}"
        for name in tensors.keys() - wanted.keys()
    ]
    problems += [f"unexpected: {name[:100]}" for name in source.unexpected]
    fits = {}
    for name in wanted.keys() & tensors.keys():
        shape = tensors[name].shape
        fits[name] = fitting(name, source.patches, shape, wanted[name], resize)
        if fits[name] is None:
            problems.append(
                f"misshapen: {tensors[name].source_name[:100]} {shape} for {name} "
                f"{wanted[name]}"
            )
    if problems:
        problems += source.not_finite(name for name in fits if fits[name])
    _refuse(source, model_name, problems)
    return fits, dropped


def fill_model(model, source, resize=None):
    """Assign a file's tensors to a model: all of them, or none.

    Args:
        model: An MLP-Mixer of this package.
        source: A `Source`.
        resize: As `check_fit` has it.

    Returns:
        A `Report`.

    Raises:
        ValueError: With every missing, unexpected, misshapen and non-finite tensor;
            then nothing was assigned.
    """
    variables = model_variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    fits, dropped = check_fit(source, shapes, model.name, resize)
    _refuse(source, model.name, source.not_finite(fits))
    rows = []
    for name in (name for name in variables if name in fits):
        tensor, how = source.tensors[name], fits[name].how
        variables[name].assign(fits[name].convert(tensor.read()))
        if how == "copied" and tensor.axes is not None:
            how = "transposed"
        rows.append(Row(tensor.source_name, name, shapes[name], how, tensor.checksum()))
    new_head = "head/bias" in variables and "head/bias" not in fits
    return Report(source.origin, tuple(rows), tuple(dropped), new_head)


def check_whole(source, model_name, classes):
    """Refuse a file unless it is a whole Mixer of that many classes, all finite.

    Raises:
        ValueError: With what is missing, unexpected, misshapen or not finite.
    """
    *sizes, _ = source.sizes()
    if source.classes != classes:
        _refuse(source, model_name, [f"misshapen: a head of {classes} was expected"])
    shapes = names.shapes(sizes, source.patches, classes)
    fits, _ = check_fit(source, shapes, model_name)
    _refuse(source, model_name, source.not_finite(fits))


_SHOWN_PROBLEMS = 100  # of a hostile file there may be thousands


def _refuse(source, model_name, problems):
    if not problems:
        return
    shown = sorted(problems)[:_SHOWN_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    raise ValueError(
        "The weights must fit the model, tensor by tensor; nothing was assigned. "
        f"Received: {source.origin} ({source.format}; {source.described()}) for "
        f"{model_name}. Build the model that the file was made for. "
        f"{len(problems)} problems:\n  " + "\n  ".join(shown)
    )


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
    for name, _ in names.pairs(names.num_blocks(layers), 0):
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
        names.num_blocks(variables),
        variables["block0_channel_mixing/fc1/bias"].shape[0],
        variables["stem/kernel"].shape[0],
    )


def check_same_constants(model, source):
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
        `{name: float32 ndarray}`, ready for `formats.write_checkpoint`.
    """
    layout = names.LAYOUTS[layout_name]
    variables = model_variables(model)
    theirs = dict(names.pairs(names.num_blocks(variables), layout.column))
    arrays = {}
    for name, variable in variables.items():
        array, axes = keras.ops.convert_to_numpy(variable), layout.axes(name)
        if axes is not None:
            array = np.ascontiguousarray(array.transpose(np.argsort(axes)))
        arrays[theirs[name]] = array
    return arrays
