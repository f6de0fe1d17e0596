"""Measure a model's accuracy on a data set.

    keras-mixer evaluate runs/digits/model.keras --dataset=digits
    keras-mixer evaluate --model=MlpMixerB16 --weights=imagenet --dataset=imagenet2012
    keras-mixer evaluate model.keras --dataset=folder:cifar10 --per_class

Images are cropped and normalised as the model was trained to have them. Where the
figures of published weights are known, they are printed beside the measured ones.
"""

import json
import sys

import numpy as np
from absl import flags

MODEL = flags.DEFINE_string("model", None, "A named model, such as MlpMixerB16.")
WEIGHTS = flags.DEFINE_string(
    "weights", None, "For a named model: a tag of the catalogue, or a file."
)
DATASET = flags.DEFINE_string(
    "dataset", None, "digits, folder:PATH, or the name of a TensorFlow Dataset."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TensorFlow Datasets keeps its data."
)
SPLIT = flags.DEFINE_string(
    "split",
    "test",
    "train, val or test; of a TensorFlow Dataset also its own split syntax.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
PER_CLASS = flags.DEFINE_bool("per_class", False, "Print the accuracy of each class.")
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv):
    """Print accuracy, loss and speed of the model that `argv` or the flags name."""
    if len(argv) > 2 or (len(argv) == 2) == bool(MODEL.value):
        raise ValueError(
            "evaluate takes one model: MODEL.keras, or --model=NAME --weights=TAG. "
            f"Received: {argv[1:]}, --model={MODEL.value}."
        )
    if not DATASET.value:
        raise ValueError(
            "evaluate needs a data set, as --dataset=digits. Received: none."
        )
    from keras_mixer.models import open_model
    from keras_mixer.training import run

    name = argv[1] if len(argv) == 2 else MODEL.value
    model = open_model(name, WEIGHTS.value)
    source, split = run.open_split(DATASET.value, SPLIT.value, DATA_DIR.value)
    run.check_classes(model, source)
    verbose = 0 if JSON.value or not sys.stdout.isatty() else 1
    result = run.evaluate(model, split, batch_size=BATCH_SIZE.value, verbose=verbose)
    published = run.published_figures(model.name, WEIGHTS.value, source.name)
    figures = {
        "model": name,
        "weights": WEIGHTS.value,
        "dataset": source.name,
        "split": SPLIT.value,
        "examples": result.examples,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "images_per_second": result.images_per_second,
        "published": published,
    }
    if JSON.value:
        print(json.dumps(figures, indent=2))
        return 0
    print(f"{name} on {result.examples} images of {source.name}, {SPLIT.value}:")
    for label, key in [("top-1", "top1"), ("top-5", "top5")]:
        beside = f"   published {published[key]:.2%}" if key in published else ""
        print(f"  {label}   {figures[key]:7.2%}{beside}")
    print(f"  loss    {result.loss:7.4f}")
    print(f"  speed   {result.images_per_second:7.1f} images/s")
    if PER_CLASS.value:
        for number, class_name in enumerate(source.class_names):
            mine = result.labels == number
            if mine.any():
                share = np.mean(result.predictions[mine] == number)
                print(f"  {class_name:24} {share:7.2%} of {mine.sum()}")
    return 0
