"""Keras' own weights files, `.weights.h5` and `.keras`, by their layers' names."""

import contextlib
import io
import zipfile

import h5py

from keras_mixer.weights.formats import npz
from keras_mixer.weights.formats.common import MAX_TENSORS, CheckpointError, map_file

MIXING_VARIABLES = {"0": "kernel", "1": "bias"}
NORM_VARIABLES = {"0": "gamma", "1": "beta"}
MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
# An L/16's takes 125 KB.
_MAX_CONFIG_BYTES = 1 << 20
_MAX_DEPTH = 32


def read(path):
    """Read an MLP-Mixer's tensors and constants; nothing but HDF5 data is opened.

    Args:
        path: A `.weights.h5` or `.keras` file of a model of this package.

    Returns:
        A pair: `{"block0_token_mixing/fc1/kernel": h5py.Dataset, ...}`, whose values
        are read when asked for, and the constants the layers saved beside them (`mean`,
        `std`, `interpolation`, `crop_ratio`, `approximate_gelu`), as far as the file
        has them.

    Raises:
        CheckpointError: If the file is damaged, not of this kind, points outside
            itself, or declares more than it holds.
    """
    with _damage_named(path):
        if not zipfile.is_zipfile(path):
            return _read(h5py.File(path, "r"), path, map_file(path))
        _, raw = _members(path)
        return _read(h5py.File(_Window(raw), "r"), path, raw)


def read_config(path):
    """Read the `config.json` of a `.keras` file whose other members are in order too.

    Raises:
        CheckpointError: As `read` does.
    """
    with _damage_named(path):
        config, raw = _members(path)
        with h5py.File(_Window(raw), "r") as file:
            _check(file, path, len(raw))
        return config


@contextlib.contextmanager
def _damage_named(path):
    try:
        yield
    except CheckpointError:
        raise
    except Exception as e:  # h5py and its library meet damage with any kind of error
        raise CheckpointError(
            "A Keras weights file must be whole and written by model.save or "
            f"model.save_weights. Received: {path}, which cannot be read "
            f"({str(e)[:200]}). Copy or write it again."
        ) from e


def _members(path):
    """The bytes of a `.keras` file's configuration and of its weights, as views."""
    listed = npz.list_members(path)
    members = {member.filename: member for member in listed}
    config, weights = (members.get(name) for name in MEMBERS[1:])
    if (
        set(members) - set(MEMBERS)
        or config is None
        or weights is None
        or len(listed) != len(members)
        or weights.compress_type != zipfile.ZIP_STORED
        or config.file_size > _MAX_CONFIG_BYTES
    ):
        raise CheckpointError(
            f"A .keras file holds {', '.join(MEMBERS)}, each once, and the weights "
            "are not compressed: as model.save writes it. Received: "
            f"{[name[:40] for name in members][:5]} in {path}. Save the model again."
        )
    data = map_file(path)
    # Every member is held to its checksum here: Keras does not look.
    raw = {name: npz.unpack(path, data, members[name]) for name in members}
    return raw[MEMBERS[1]].tobytes(), raw[MEMBERS[2]]


class _Window(io.RawIOBase):
    """A part of a mapped file, as a file."""

    def __init__(self, raw):
        self.raw, self.at = memoryview(raw), 0

    def readinto(self, buffer):
        piece = self.raw[self.at : self.at + len(buffer)]
        memoryview(buffer)[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + (0, self.at, len(self.raw))[whence]
        return self.at

    def tell(self):
        return self.at

    def readable(self):
        return True

    def seekable(self):
        return True


def _read(file, path, raw):
    _check(file, path, len(raw))
    arrays, constants, seen = {}, {}, set()
    for group in file["layers"].values():
        name = group["vars"].attrs["name"]
        layer_name = name.decode() if isinstance(name, bytes) else name
        if layer_name in seen:
            _refuse(path, "A layer's name appears once", layer_name)
        seen.add(layer_name)
        for attribute, subgroup in [("", group), *group.items()]:
            if attribute in ("vars", "seed_generator", "dropout"):
                continue
            names = NORM_VARIABLES if layer_name.endswith("_norm") else MIXING_VARIABLES
            for key, dataset in subgroup["vars"].items():
                if key in names:
                    parts = [layer_name, attribute, names[key]]
                    arrays["/".join(filter(None, parts))] = dataset
                    continue
                value = _constant(dataset, path)
                if key in constants and constants[key] != value:
                    _refuse(path, "Layers agree on a constant", dataset.name)
                constants[key] = value
    if "bicubic" in constants:
        bicubic = constants.pop("bicubic")
        constants["interpolation"] = {True: "bicubic", False: "bilinear"}.get(bicubic)
    return arrays, constants


def _constant(dataset, path):
    if dataset.shape is None or dataset.size > 3 or dataset.dtype.kind not in "fiub":
        _refuse(path, "A constant of a layer is at most three numbers", dataset.name)
    return dataset[()].tolist()


def _check(file, path, size_bytes):
    """Refuse links to elsewhere, holes, and more than the file has room for."""
    left = {"items": MAX_TENSORS, "bytes": size_bytes}

    def walk(group, depth):
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                _refuse(
                    path,
                    "A weights file holds its tensors itself",
                    f"{group.name}/{name}, which points to another place or file",
                )
            item = group[name]
            left["items"] -= 1
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                left["bytes"] -= item.nbytes
                if (
                    item.external
                    or item.is_virtual
                    or item.dtype.hasobject
                    or item.id.get_storage_size() != item.nbytes
                ):
                    _refuse(
                        path,
                        "A weights file holds its tensors itself, in full",
                        f"{item.name} of shape {item.shape}",
                    )
            if min(left.values()) < 0 or depth == _MAX_DEPTH:
                _refuse(path, "A file holds what it declares", item.name[:100])
            if isinstance(item, h5py.Group):
                walk(item, depth + 1)

    walk(file, 0)


def _refuse(path, rule, received):
    raise CheckpointError(
        f"{rule}. Received: {received[:200]!r} in {path}. Write the file again by "
        "model.save or model.save_weights."
    )
