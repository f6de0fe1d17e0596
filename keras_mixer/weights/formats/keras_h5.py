"""Keras' own weights files, `.weights.h5` and `.keras`, by their layers' names."""

import zipfile

import h5py

MIXING_VARIABLES = {"0": "kernel", "1": "bias"}
NORM_VARIABLES = {"0": "gamma", "1": "beta"}


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
        ValueError: If the file is damaged, not of this kind, or points outside itself.
    """
    try:
        return _read(path)
    except (OSError, RuntimeError, KeyError, AttributeError, zipfile.BadZipFile) as e:
        # What h5py and zipfile raise on damaged input, by experience.
        raise ValueError(
            "A Keras weights file must be whole and written by model.save or "
            f"model.save_weights. Received: {path}, which cannot be read ({e}). "
            "Copy or write it again."
        ) from e


def _read(path):
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        file = h5py.File(archive.open("model.weights.h5"), "r")
    else:
        file = h5py.File(path, "r")
    arrays, constants = {}, {}
    _check_inside(file, path)
    _check_inside(file["layers"], path)
    for group in file["layers"].values():
        layer_name = _layer_name(group)
        for attribute, subgroup in [("", group), *group.items()]:
            if attribute in ("vars", "seed_generator", "dropout"):
                continue
            _check_inside(subgroup, path)
            values = subgroup["vars"]
            _check_inside(values, path)
            names = NORM_VARIABLES if layer_name.endswith("_norm") else MIXING_VARIABLES
            for key, dataset in values.items():
                if dataset.external or dataset.is_virtual:
                    raise ValueError(_outside(path, dataset.name))
                if key in names:
                    parts = [layer_name, attribute, names[key]]
                    arrays["/".join(filter(None, parts))] = dataset
                else:
                    constants[key] = _constant(dataset)
    if "bicubic" in constants:
        bicubic = constants.pop("bicubic")
        constants["interpolation"] = "bicubic" if bicubic else "bilinear"
    return arrays, constants


def _layer_name(group):
    name = group["vars"].attrs["name"]
    return name.decode() if isinstance(name, bytes) else name


def _constant(dataset):
    if dataset.size > 3:
        raise ValueError(
            f"A constant of a layer must be at most three numbers. Received: "
            f"{dataset.name} of shape {dataset.shape}."
        )
    return dataset[()].tolist() if dataset.shape == () else tuple(dataset[()].tolist())


def _check_inside(group, path):
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(_outside(path, f"{group.name}/{name}"))


def _outside(path, name):
    return (
        "A weights file must hold its tensors itself. Received: "
        f"{path}, in which {name} points to another place or file."
    )
