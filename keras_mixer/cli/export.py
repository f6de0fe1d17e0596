"""Export a trained model for TensorFlow Serving.

    keras-mixer export model.keras models/mixer --labels=labels.txt
    keras-mixer export MlpMixerNano4 models/mixer --weights=cifar10

The second argument is the folder of the model's versions. Writes the next version in
it, `models/mixer/1/` at first, whole or not at all, and prints its path in the last
line.
"""

from absl import flags

WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "For a named model: a tag of the catalogue or a path. For a .keras file built with "
    "include_preprocessing=False: the tag that says how to prepare images.",
)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "Text file with the name of a class in each line, or the tag of weights with these "
    "classes, such as imagenet. Without it: the classes of the tag, for a named model; "
    "labels.txt beside a .keras file; else ImageNet's, for as many classes; else the "
    "classes' numbers.",
)
TOP_K = flags.DEFINE_integer(
    "top_k", None, "How many classes to return for an image; five, or all of fewer."
)
VERSION = flags.DEFINE_integer("version", None, "Version; the next one by default.")
PRECISION = flags.DEFINE_string(
    "precision",
    "float32",
    "float32, or bfloat16 to store and compute the matrix products so.",
)
FEATURES = flags.DEFINE_bool("features", False, "Add the signature `features`.")
BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", "1,2,4,8,16,32", "Sizes to which the server pads its batches."
)
VERIFY = flags.DEFINE_bool(
    "verify", False, "Compare its answers, by TensorFlow alone, before it is published."
)
KEEP = flags.DEFINE_integer("keep", None, "How many versions to keep; all by default.")


def main(argv):
    """Export the model named first in `argv` into the folder named second."""
    if len(argv) != 3:
        raise ValueError(
            "export takes a model and a folder: keras-mixer export MODEL OUT. "
            f"Received: {argv[1:]}."
        )
    from keras_mixer.models import VARIANTS, default_labels, open_model
    from keras_mixer.serving import export_saved_model

    _, name, base_dir = argv
    weights = WEIGHTS.value
    if name in VARIANTS and weights is None:
        raise ValueError(
            f"{name} without weights would be served with random ones. Received: no "
            "--weights. Name them, as in --weights=imagenet."
        )
    model = open_model(name, weights)
    labels = LABELS.value or default_labels(name, weights, model.output_shape[-1])
    path = export_saved_model(
        model,
        base_dir,
        labels=labels,
        top_k=TOP_K.value,
        version=VERSION.value,
        weights=None if name in VARIANTS else weights,
        precision=PRECISION.value,
        features=FEATURES.value,
        batch_sizes=_batch_sizes(),
        verify=VERIFY.value,
        keep=KEEP.value,
        verbose=True,
    )
    print(path)


def _batch_sizes():
    try:
        return [int(size) for size in BATCH_SIZES.value]
    except ValueError:
        raise ValueError(
            "--batch_sizes must be whole numbers with commas between them, such as "
            f"1,2,4. Received: {','.join(BATCH_SIZES.value)}."
        ) from None
