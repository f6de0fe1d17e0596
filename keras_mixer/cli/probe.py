"""Measure what a model's features are worth on another data set.

    keras-mixer probe MlpMixerB16 --weights=imagenet21k --dataset=tf_flowers
    keras-mixer probe runs/digits --dataset=folder:photos --method=knn
    keras-mixer probe MlpMixerNano4 --weights=cifar10 --dataset=digits --plot=shots.png

Nothing is trained but a classifier on the pooled features: by `few_shot` a regression
on a few examples of each class, by `linear` a logistic regression on all of them, by
`knn` the nearest neighbours. Its one setting is chosen on the validation examples, and
the accuracy is that on the test examples. Features are computed once, and kept.
"""

import dataclasses
import json
import sys

from absl import flags

from keras_mixer.cli import _flags

ARGUMENTS = "MODEL"
METHODS = ["few_shot", "linear", "knn"]

WEIGHTS = _flags.define_weights()
DATASET, DATA_DIR = _flags.define_data()
METHOD = flags.DEFINE_list("method", METHODS, f"Some of {', '.join(METHODS)}.")
SHOTS = flags.DEFINE_list(
    "shots", ["1", "5", "10", "25"], "few_shot: examples of each class."
)
SEEDS = flags.DEFINE_integer("seeds", 5, "few_shot: how often to draw them.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", 1)
PLOT = flags.DEFINE_string("plot", None, "A PNG file: accuracy against shots.")
JSON = _flags.define_json()


def main(argv):
    """Print what the features of the model named in `argv` are worth."""
    if len(argv) != 2 or not DATASET.value:
        raise ValueError(
            "probe takes a model and a data set: keras-mixer probe MODEL "
            f"--dataset=NAME. Received: {argv[1:]}, --dataset={DATASET.value}."
        )
    unknown = [method for method in METHOD.value if method not in METHODS]
    if unknown or not METHOD.value:
        raise ValueError(
            f"method must be some of {', '.join(METHODS)}. Received: {METHOD.value}."
        )
    if PLOT.value and "few_shot" not in METHOD.value:
        raise ValueError(
            "--plot draws accuracy against shots, so few_shot must be among the "
            f"methods. Received: --method={','.join(METHOD.value)}."
        )
    shots = _flags.numbers(SHOTS)
    from keras_mixer import data, training

    name = argv[1]
    model = _flags.open_trained(name, WEIGHTS.value)
    source = data.open_source(DATASET.value, data_dir=DATA_DIR.value)
    verbose = 0 if JSON.value or not sys.stdout.isatty() else 1
    with data.errors_in_words(source):
        examples = training.split_features(
            model, source, batch_size=BATCH_SIZE.value, verbose=verbose
        )
    probes = []
    if "few_shot" in METHOD.value:
        probes += training.few_shot(examples, shots, SEEDS.value)
    if "linear" in METHOD.value:
        probes.append(training.linear(examples))
    if "knn" in METHOD.value:
        probes.append(training.knn(examples))
    if PLOT.value:
        from keras_mixer import visualize

        curve = [(p.shots, p.accuracy, p.spread) for p in probes if p.shots]
        figure = visualize.plot_shots(
            {name: curve}, title=f"Few-shot accuracy on {source.name}"
        )
        visualize.save_figure(figure, PLOT.value)
    if JSON.value:
        figures = {
            "model": name,
            "weights": WEIGHTS.value,
            "dataset": source.name,
            "examples": {split: len(y) for split, (_, y) in examples.items()},
            "probes": [dataclasses.asdict(probe) for probe in probes],
        }
        print(json.dumps(figures, indent=2))
        return
    counts = ", ".join(f"{len(y)} {split}" for split, (_, y) in examples.items())
    print(f"Features of {name} on {source.name} ({counts}):")
    for probe in probes:
        print(f"  {_words(probe):24} {probe.accuracy:7.2%}", end="")
        print(f" ± {probe.spread:.2%}" if probe.shots and SEEDS.value > 1 else "")


def _words(probe):
    if probe.method == "few_shot":
        return f"{probe.shots} a class"
    if probe.method == "linear":
        return f"linear, C={probe.chosen:g}"
    return f"{probe.chosen:.0f} nearest"
