"""Whether an exported model, loaded by its runtime alone, answers as the one in memory.

It is loaded in a process of its own, where neither Keras nor this package can be
imported, and for another runtime than TensorFlow that neither.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

# Largest difference of a SavedModel's output from the model in memory.
TOLERANCE = 1e-5

# None in sys.modules makes an import fail. TensorFlow itself tries to import Keras, and
# JAX. Its objects stay to the end, and need no search for garbage.
_RUN = """
import gc, runpy, sys
gc.disable()
for name in ("keras", "keras_mixer", "jax"):
    sys.modules[name] = None
runpy.run_path(sys.argv[1], run_name="__main__")
gc.freeze()
"""

# Largest difference of a probability from the model in memory, as a part of the largest
# of its image: runtimes add up float32 in orders of their own, which was measured to
# change up to 6e-6, where the wrong form of GELU changes 1e-3. For a distribution of
# any shape it bounds the error of a logit.
FILE_TOLERANCE = 1e-4

# In int8: the largest share of an image's probability that moves to other classes, on
# the mean of the images. Nano4 moves 0.01 to 0.02; a layer of wrong scale, most of it.
INT8_TOLERANCE = 0.1

_RUN_FILE = """
import runpy, sys
import numpy as np
for name in ("keras", "keras_mixer", "tensorflow"):
    sys.modules[name] = None
_, runtime, model, folder = sys.argv
probabilities_of = runpy.run_path(runtime)["load"](model)
images = np.load(f"{folder}/images.npy")
answers = [probabilities_of(images), probabilities_of(images[:1])]
np.save(f"{folder}/probabilities.npy", np.concatenate(answers))
"""


def verify_file(runtime, path, images, expected, precision):
    """Load a file by its runtime in another process, and compare its probabilities.

    Args:
        runtime: Path of the runtime's file in `runtimes/`.
        path: The exported file.
        images: Array `(batch, size, size, 3)`, pixels in [0, 255].
        expected: The model's probabilities in float32, `(batch, classes)`.
        precision: The file's, `"float32"` or `"int8"`.

    Returns:
        A sentence that says how far they are apart.

    Raises:
        ValueError: If it cannot be loaded, or they are further apart than
            `FILE_TOLERANCE` or `INT8_TOLERANCE`.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        finished = subprocess.run(
            [sys.executable, "-c", _RUN_FILE, runtime, path, folder],
            capture_output=True,
            text=True,
        )
        if finished.returncode == 0:
            answer = np.load(f"{folder}/probabilities.npy")
    expected = np.concatenate([expected, expected[:1]])  # alone, too
    if finished.returncode != 0:
        found = (finished.stderr.strip().splitlines() or ["no message"])[-1]
    elif answer.shape != expected.shape:
        found = f"probabilities have the shape {answer.shape}, not {expected.shape}"
    else:
        compare = _compare_float32 if precision == "float32" else _compare_int8
        is_close, found = compare(answer, expected)
        if is_close:
            return found
    raise ValueError(
        "The exported file must answer as the model in memory, loaded by its runtime "
        f"alone. Received: {found}. No file was left."
    )


def _compare_float32(answer, expected):
    largest = expected.max(axis=1, keepdims=True)
    difference = float(np.max(np.abs(answer - expected) / largest))
    found = f"a probability differs by {difference:.1g} of the largest one"
    return difference <= FILE_TOLERANCE, found


def _compare_int8(answer, expected):
    moved = float(np.mean(np.abs(answer - expected).sum(axis=1) / 2))
    kept = float(np.mean(answer.argmax(axis=1) == expected.argmax(axis=1)))
    found = (
        f"{moved:.1%} of the probability moves to other classes, and {kept:.0%} of "
        "the images keep their best class"
    )
    return moved <= INT8_TOLERANCE, found


def verify(directory, signatures, probes):
    """Load a SavedModel in another process, and compare its answers.

    Args:
        directory: Path of the SavedModel.
        signatures: Dict of the concrete functions it was saved from.
        probes: Dict of the input array for each signature.

    Raises:
        ValueError: If it cannot be loaded, or an answer differs by more than
            `TOLERANCE`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = (
            pathlib.Path(temporary, name) for name in ("inputs.npz", "outputs.npz")
        )
        np.savez(asked, **{name: storable(probes[name]) for name in signatures})
        with subprocess.Popen(
            [sys.executable, "-c", _RUN, __file__, directory, asked, answered],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            # Each takes seconds to prepare its graphs, and both cores are there.
            expected = _answers(signatures, probes)
            _, printed = process.communicate()
        if process.returncode == 0:
            found = difference(_loaded(answered), expected)
        else:
            found = (printed.strip().splitlines() or ["no message"])[-1]
    if found:
        raise ValueError(
            "The exported model must answer as the model in memory, loaded by "
            f"TensorFlow alone. Received: {found}. Nothing was published."
        )


def _answers(signatures, inputs):
    """Return the outputs of all signatures, by `signature/output`."""
    found = {}
    for name, function in signatures.items():
        outputs = function(tf.constant(inputs[name]))
        found |= {f"{name}/{output}": v.numpy() for output, v in outputs.items()}
    return found


def difference(answers, expected):
    """Say in what answers differ from the expected ones; `None` if in nothing."""
    if answers.keys() != expected.keys():
        return f"it answers {sorted(answers)}, not {sorted(expected)}"
    for key, value in expected.items():
        answer = answers[key]
        if answer.shape != value.shape:
            return f"{key} has the shape {answer.shape}, not {value.shape}"
        if value.dtype.kind == "f":
            largest = float(np.max(np.abs(answer - value), initial=0.0))
            if not largest <= TOLERANCE:
                return f"{key} differs by {largest:.3g}"
        elif not np.array_equal(answer, value):
            return f"{key} differs"
    return None


def storable(value):
    # Object arrays would need pickle; hexadecimal keeps bytes that end in zeros.
    if value.dtype.kind not in "OS":
        return value
    return np.array([item.hex() for item in value.ravel()], "U").reshape(value.shape)


def _loaded(path):
    """Load the arrays of a file, of which some are `storable`."""
    return {name: _restored(value) for name, value in np.load(path).items()}


def _restored(value):
    if value.dtype.kind != "U":
        return value
    items = [bytes.fromhex(item) for item in value.ravel()]
    return np.array(items, object).reshape(value.shape)


def _by_position(function):
    (name,) = function.structured_input_signature[1]
    return lambda value: function(**{name: value})


def _answer(directory, asked, answered):
    signatures = tf.saved_model.load(directory).signatures
    called = {name: _by_position(function) for name, function in signatures.items()}
    answers = _answers(called, _loaded(asked))
    np.savez(answered, **{key: storable(value) for key, value in answers.items()})


if __name__ == "__main__":
    _answer(*sys.argv[2:])
