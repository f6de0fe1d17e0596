"""The state of a training run in one file, written whole or not at all."""

import json
import zipfile

import numpy as np

from keras_mixer.weights import written_whole

_META = "meta.json"


def save_state(path, groups, meta):
    """Write variables, and what else a run needs to go on, to a checkpoint.

    Args:
        path: The file to write, `.npz`.
        groups: Lists of Keras variables by name, such as `model` and `optimizer`.
        meta: What else there is to remember, as JSON can hold it.

    Raises:
        FloatingPointError: If a value of the group `model` is not finite. Nothing is
            written then.
    """
    arrays = {}
    for group, variables in groups.items():
        for number, variable in enumerate(variables):
            arrays[f"{group}/{number}"] = value = variable.numpy()
            if group == "model" and not np.isfinite(value).all():
                raise FloatingPointError(variable.path)
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with written_whole(path) as temporary:
        np.savez(temporary, **arrays)


def load_state(path, groups):
    """Set variables to what a checkpoint holds.

    Args:
        path: A file that `save_state` wrote.
        groups: The lists of variables that were saved, of the same shapes.

    Returns:
        The `meta` that was saved.

    Raises:
        ValueError: If the file cannot be read, or is of another model or optimizer.
            No variable is changed then.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(_META).tobytes())
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"The checkpoint must be one that training wrote. Received: {path} "
            f"({error}). Delete it, or use another output_dir, to start anew."
        ) from error
    wanted = {
        f"{group}/{number}": variable
        for group, variables in groups.items()
        for number, variable in enumerate(variables)
    }
    unfit = [f"{name} missing" for name in wanted if name not in arrays]
    unfit += [f"{name} unexpected" for name in arrays if name not in wanted]
    unfit += [
        f"{name} ({variable.path}): {arrays[name].shape} instead of {variable.shape}"
        for name, variable in wanted.items()
        if name in arrays and arrays[name].shape != tuple(variable.shape)
    ]
    if unfit:
        raise ValueError(
            "The checkpoint must be of the same model and optimizer. Received: "
            f"{path}, where {len(unfit)} variables do not fit: {', '.join(unfit[:5])}. "
            "Delete it, or use another output_dir, to start anew."
        )
    for name, variable in wanted.items():
        variable.assign(arrays[name])
    return meta
