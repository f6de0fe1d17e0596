r"""Export a trained model for TensorFlow Serving.

    python export/export_saved_model.py model.keras models/mixer --labels=labels.txt

writes `models/mixer/<next version>/`, whole or not at all, and prints its path in the
last line. A mistake is one line on standard error, and exit status 1.
"""

import os
import sys

from absl import app, flags, logging
from quiet import quiet_import

_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "Text file with the name of a class in each line, or the tag of weights with these "
    "classes, such as imagenet. Without it classes are named by their numbers.",
)
_TOP_K = flags.DEFINE_integer("top_k", 5, "How many classes to return for an image.")
_VERSION = flags.DEFINE_integer("version", None, "Version; the next one by default.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Catalogue tag that says how to prepare images, for a model built with "
    "include_preprocessing=False.",
)
_PRECISION = flags.DEFINE_string(
    "precision",
    "float32",
    "float32, or bfloat16 to store and compute the matrix products so.",
)
_FEATURES = flags.DEFINE_bool("features", False, "Add the signature `features`.")
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", "1,2,4,8,16,32", "Sizes to which the server pads its batches."
)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Compare its answers, by TensorFlow alone, before it is published."
)
_KEEP = flags.DEFINE_integer("keep", None, "How many versions to keep; all by default.")


def main(argv):
    logging.set_verbosity(
        logging.WARNING
    )  # the steps of saving are TensorFlow's affair
    if len(argv) != 3:
        _fail("Usage: export_saved_model.py MODEL.keras BASE_DIR [--labels=FILE]")
    _, model_path, base_dir = argv
    if not os.path.exists(model_path):
        _fail(f"The model is not there: {model_path}")
    # Only now: TensorFlow takes seconds to import.
    with quiet_import():
        import keras

        import keras_mixer  # noqa: F401  which a .keras file of a Mixer names
        from keras_mixer.serving import export

    try:
        model = keras.models.load_model(model_path, compile=False)
    except Exception as error:
        # Keras and h5py meet a broken file with many kinds of error.
        _fail(f"{model_path} cannot be loaded: {str(error).splitlines()[0]}")
    try:
        path = export.export_saved_model(
            model,
            base_dir,
            labels=_LABELS.value,
            top_k=_TOP_K.value,
            version=_VERSION.value,
            weights=_WEIGHTS.value,
            precision=_PRECISION.value,
            features=_FEATURES.value,
            batch_sizes=[int(size) for size in _BATCH_SIZES.value],
            verify=_VERIFY.value,
            keep=_KEEP.value,
            verbose=True,
        )
    except (OSError, ValueError) as error:
        _fail(error)
    print(path)


def _fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    app.run(main)
