"""Measure a model's accuracy on a data set.

    keras-mixer evaluate runs/digits --dataset=digits
    keras-mixer evaluate MlpMixerB16 --weights=imagenet --dataset=imagenet2012
    keras-mixer evaluate model.keras --dataset=folder:cifar10 --per_class
    keras-mixer evaluate MlpMixerB16 --weights=imagenet_miil --suite=imagenet

Images are cropped and normalised as the model was trained to have them. The splits of
a data set that the model was trained on are those of its run. Where the figures of
published weights are known, they are printed beside the measured ones. The suite goes
through ImageNet's validation images, ReaL, V2, A, R and C, those that are prepared.
"""

import dataclasses
import json
import pathlib
import re
import sys

import numpy as np
from absl import flags

from keras_mixer.catalog import ENTRIES
from keras_mixer.cli import _flags

ARGUMENTS = "MODEL"
WEIGHTS = _flags.define_weights()
DATASET, DATA_DIR = _flags.define_data()
SUITE = flags.DEFINE_enum(
    "suite", None, ["imagenet"], "Several data sets, instead of --dataset."
)
SPLIT = flags.DEFINE_string(
    "split",
    "test",
    "train, val or test; of a TensorFlow Dataset also its own split syntax.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
PER_CLASS = flags.DEFINE_bool("per_class", False, "Print the accuracy of each class.")
JSON = _flags.define_json()


def main(argv):
    """Print accuracy, loss and speed of the model named in `argv`."""
    if len(argv) != 2:
        raise ValueError(
            "evaluate takes one model: keras-mixer evaluate MODEL --dataset=NAME, "
            "where MODEL is a run's folder, a .keras file, or a named model with "
            f"--weights. Received: {argv[1:]}."
        )
    if bool(DATASET.value) == bool(SUITE.value):
        raise ValueError(
            "evaluate needs a data set, as --dataset=digits, or --suite=imagenet. "
            f"Received: --dataset={DATASET.value}, --suite={SUITE.value}."
        )
    from keras_mixer import data, training

    name = argv[1]
    model = _flags.open_trained(name, WEIGHTS.value)
    verbose = 0 if JSON.value or not sys.stdout.isatty() else 1
    if SUITE.value:
        return _suite(name, model, verbose)
    source, split = _open_split(name)
    _check_classes(model, source)
    with data.errors_in_words(source):
        result = training.evaluate(
            model, split, batch_size=BATCH_SIZE.value, verbose=verbose
        )
    published = _published_figures(model.name, WEIGHTS.value, source.name)
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
    if PER_CLASS.value:
        figures["classes"] = {}
        for number, class_name in enumerate(source.class_names):
            mine = result.labels == number
            if mine.any():
                share = float(np.mean(result.predictions[mine] == number))
                shown = {"top1": share, "examples": int(mine.sum())}
                figures["classes"][class_name] = shown
    if JSON.value:
        print(json.dumps(figures, indent=2))
        return 0
    print(f"{name} on {result.examples} images of {source.name}, {SPLIT.value}:")
    for label, key in [("top-1", "top1"), ("top-5", "top5")]:
        beside = f"   published {published[key]:.2%}" if key in published else ""
        print(f"  {label}   {figures[key]:7.2%}{beside}")
    print(f"  loss    {result.loss:7.4f}")
    print(f"  speed   {result.images_per_second:7.1f} images/s")
    for class_name, shown in figures.get("classes", {}).items():
        print(f"  {class_name:24} {shown['top1']:7.2%} of {shown['examples']}")
    return 0


def _suite(name, model, verbose):
    """Score a model on each test set of ImageNet; the last line is Markdown."""
    from keras_mixer import training

    entry = ENTRIES.get((model.name, WEIGHTS.value))
    known = {"ImageNet": entry.top1, "ReaL": entry.real} if entry else {}
    scores = []
    for score in training.imagenet_suite(
        model, data_dir=DATA_DIR.value, batch_size=BATCH_SIZE.value, verbose=verbose
    ):
        scores.append(score)
        published = known.get(score.name)
        if JSON.value:
            continue
        if score.value is None:
            print(f"  {score.name:8} -        {score.missing}")
            continue
        line = f"  {score.name:8} {score.value:7.2%}"
        line += " of AlexNet's error" if score.name == "C" else ""
        line += f"  top-5 {score.top5:.2%}" if score.top5 is not None else ""
        line += f"  published {published:.2f}%" if published is not None else ""
        print(f"{line}  ({score.examples} images)")
    if JSON.value:
        found = {score.name: dataclasses.asdict(score) for score in scores}
        for test_set, published in known.items():
            found[test_set]["published"] = published and published / 100
        figures = {"model": name, "weights": WEIGHTS.value, "scores": found}
        print(json.dumps(figures, indent=2))
        return 0
    if all(score.value is None for score in scores):
        raise ValueError(
            "At least one data set of the suite must be prepared. Received: none in "
            f"--data_dir={DATA_DIR.value}. See above what each needs."
        )
    cells = ["-" if s.value is None else f"{100 * s.value:.2f}" for s in scores]
    print(f"| `{name}` | `{WEIGHTS.value}` | {' | '.join(cells)} |")
    return 0


def _open_split(model):
    """Open the split to evaluate on: that of the model's run, if it has one."""
    from keras_mixer import data, training

    settings = {}
    path = pathlib.Path(model)
    config_path = (path if path.is_dir() else path.parent) / "config.json"
    if config_path.exists():
        text = config_path.read_text(encoding="utf-8")
        try:
            config = training.TrainConfig.from_json(text)
        except ValueError:
            config = None  # Some other program's; many write a config.json.
        if config is not None and config.dataset == DATASET.value:
            settings = config.source_settings
    if DATA_DIR.value:
        settings["data_dir"] = DATA_DIR.value
    return data.open_split(DATASET.value, SPLIT.value, **settings)


def _check_classes(model, source):
    """Raise a ValueError unless a model has the classes of a data set."""
    classes = model.output_shape[-1]
    if classes != len(source.class_names):
        raise ValueError(
            "The model and the data set must have the same classes. Received: "
            f"{classes} of the model {model.name}, {len(source.class_names)} of "
            f"{source.name}. Fine-tune first: keras-mixer train --weights=..."
        )


def _published_figures(model_name, tag, dataset):
    """Return the top1 and top5 that are published about weights on a data set."""
    entry = ENTRIES.get((model_name, tag))
    folder = dataset.startswith("folder:")
    known = pathlib.PurePath(dataset.removeprefix("folder:")).name if folder else None
    known = known or re.split("[/:]", dataset)[0]  # builder/config:version
    if entry is None or known != entry.accuracy_dataset:
        return {}
    figures = {"top1": entry.top1, "top5": entry.top5}
    return {name: value / 100 for name, value in figures.items() if value is not None}
