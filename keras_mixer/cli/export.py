"""Export a model for TensorFlow Serving and other runtimes.

    keras-mixer export model.keras models/mixer --labels=labels.txt
    keras-mixer export MlpMixerNano4 nano.onnx --weights=cifar10
    keras-mixer export runs/digits digits.tflite
    keras-mixer export runs/digits digits.xml --precision=int8 --calibrate=digits
    keras-mixer predict cat.jpg --model=nano.onnx

The name says the format: .onnx is a file for ONNX Runtime, .xml for OpenVINO (with a
.bin beside it), .tflite for LiteRT; any other is the folder of a SavedModel's versions,
and gets the next one, `models/mixer/1/` at first. Beside a file lie its labels and its
card, `nano.onnx.labels.txt` and `nano.onnx.keras_mixer.json`.

What was written is loaded by its runtime alone, in another process, and has to answer
as the model does. Then it appears, whole or not at all, and the last line is its path.
"""

import pathlib

from absl import flags

from keras_mixer.cli import _flags

ARGUMENTS = "MODEL OUT"
WEIGHTS = _flags.define_weights(_flags.PREPARES)
LABELS = _flags.define_labels()
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ["saved_model", "onnx", "openvino", "litert"],
    "For a name that does not say it.",
)
PRECISION = flags.DEFINE_string(
    "precision",
    "float32",
    "float32; for a SavedModel also bfloat16, to store and compute the matrix products "
    "so; for a file also int8: a quarter of the size, and mostly the fastest.",
)
CALIBRATE = flags.DEFINE_string(
    "calibrate",
    None,
    "int8: data set like the images to come, folder:PATH or the name of a TensorFlow "
    "Dataset, to measure on. By default two photographs that come with scikit-learn.",
)
VERIFY = flags.DEFINE_bool(
    "verify",
    None,
    "Compare its answers with the model's before it appears. By default where the "
    "runtime is installed.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")

# For a SavedModel alone.
TOP_K = flags.DEFINE_integer(
    "top_k",
    None,
    "SavedModel: how many classes to return for an image; five, or all of fewer.",
)
VERSION = flags.DEFINE_integer(
    "version", None, "SavedModel: its version; the next one by default."
)
FEATURES = flags.DEFINE_bool(
    "features", False, "SavedModel: add the signature `features`."
)
BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes",
    ["1", "2", "4", "8", "16", "32"],
    "SavedModel: sizes to which the server pads its batches.",
)
KEEP = flags.DEFINE_integer(
    "keep", None, "SavedModel: how many versions to keep; all by default."
)
_OF_SAVED_MODELS = ("top_k", "version", "features", "batch_sizes", "keep")


def main(argv):
    """Export the model named first in `argv` to the place named second."""
    if len(argv) != 3:
        raise ValueError(
            "export takes a model and where to write it: keras-mixer export MODEL OUT. "
            f"Received: {argv[1:]}."
        )
    from keras_mixer.models import VARIANTS, default_labels
    from keras_mixer.serving import runtimes

    _, name, out = argv
    weights = WEIGHTS.value
    is_file = FORMAT.value in runtimes.RUNTIMES or (
        FORMAT.value is None and pathlib.Path(out).suffix in runtimes.SUFFIXES
    )
    _check_flags(
        ("overwrite", "calibrate") if not is_file else _OF_SAVED_MODELS, is_file
    )
    model = _flags.open_trained(name, weights)
    common = {
        "labels": LABELS.value or default_labels(name, weights, model.output_shape[-1]),
        "weights": None if name in VARIANTS else weights,
        "precision": PRECISION.value,
        "verbose": True,
    }
    export = _export_file if is_file else _export_saved_model
    print(export(model, out, **common))


def _export_file(model, out, **common):
    from keras_mixer.serving import export_model

    return export_model(
        model,
        out,
        format=FORMAT.value,
        calibrate=CALIBRATE.value,
        verify=VERIFY.value,
        overwrite=OVERWRITE.value,
        **common,
    )


def _export_saved_model(model, out, **common):
    from keras_mixer.serving import export_saved_model

    return export_saved_model(
        model,
        out,
        top_k=TOP_K.value,
        version=VERSION.value,
        features=FEATURES.value,
        batch_sizes=_flags.numbers(BATCH_SIZES),
        verify=VERIFY.value is not False,
        keep=KEEP.value,
        **common,
    )


def _check_flags(of_the_other, is_file):
    for name in of_the_other:
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} is for {'a SavedModel' if is_file else 'a file'}. Received: "
                f"--{name}, and {'a file' if is_file else 'a SavedModel'} to write. "
                "Leave it out."
            )
