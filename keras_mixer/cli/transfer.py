"""Fine-tune on several data sets, as the paper does.

    keras-mixer transfer MlpMixerB16 --weights=imagenet21k --output_dir=runs/transfer
    keras-mixer transfer MlpMixerL16 --weights=imagenet21k --output_dir=runs/large \\
        --precision=mixed_bfloat16 --accumulation_steps=8
    keras-mixer transfer MlpMixerNano4 --weights=cifar10 --image_sizes=32 \\
        --datasets=cifar100,svhn_cropped --output_dir=runs/nano

SGD with momentum 0.9, batches of 512, the gradient clipped at norm 1, a cosine after a
linear warm-up; 500 steps for a data set of less than 20,000 examples, 10,000 for one of
less than 500,000, 20,000 beyond. Each learning rate trains on a part of the training
examples; the one that is best on the others trains on all, once for each seed. The
table has the mean of the test accuracies and their standard deviation, beside what is
published. `Avg. 5` is there once imagenet2012 is among the data sets.

A run is a folder, such as runs/transfer/cifar10/224/rate0.03 or .../seed0. The same
command goes on where it was stopped, and does not repeat finished runs; after SIGTERM,
which saves first, the exit status is 75. The data sets have to be prepared before, as
by `tfds build cifar10`.
"""

import contextlib
import dataclasses
import json
import statistics
import sys

from absl import flags

from keras_mixer import cli
from keras_mixer.catalog import PAPER_TRANSFER, RECIPES, TrainConfig
from keras_mixer.cli import _flags

ARGUMENTS = "MODEL"
WEIGHTS = _flags.define_weights()
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the runs.")
DATASETS = flags.DEFINE_list(
    "datasets",
    list(PAPER_TRANSFER.datasets),
    "Names of TensorFlow Datasets; digits and folder:PATH are taken, too.",
)
IMAGE_SIZES = flags.DEFINE_list(
    "image_sizes",
    list(map(str, PAPER_TRANSFER.image_sizes)),
    "Sides of the input in pixels.",
)
LEARNING_RATES = flags.DEFINE_list(
    "learning_rates",
    list(map(str, PAPER_TRANSFER.learning_rates)),
    "The rates to choose from.",
)
SEEDS = flags.DEFINE_integer(
    "seeds", PAPER_TRANSFER.seeds, "How often to train on all examples.", 1
)
STEPS = flags.DEFINE_integer(
    "steps", None, "Steps of every run. Without it: by the number of examples.", 1
)
JSON = _flags.define_json()
_RECIPE = RECIPES[PAPER_TRANSFER.recipe]
_SETTINGS = (
    *("data_dir", "batch_size", "accumulation_steps", "precision", "strategy"),
    *("jit_compile", "checkpoint_minutes"),
)
given_settings = _flags.define_settings(
    [f for f in dataclasses.fields(TrainConfig) if f.name in _SETTINGS],
    lambda field: f"{field.metadata['help']} Default: {getattr(_RECIPE, field.name)}.",
)


def main(argv):
    """Transfer the model named in `argv`, and print the table."""
    if len(argv) != 2 or not OUTPUT_DIR.value:
        raise ValueError(
            "transfer takes a model and a folder: keras-mixer transfer MODEL "
            f"--weights=TAG --output_dir=runs/NAME. Received: {argv[1:]}, "
            f"--output_dir={OUTPUT_DIR.value}."
        )
    with cli.lasting_imports():
        from keras_mixer import training
        from keras_mixer.training import transfer

    model = argv[1]
    settings = given_settings()
    if STEPS.value:
        settings["steps"] = STEPS.value
    # What training prints as it goes on must not get into the JSON.
    said = contextlib.redirect_stdout(sys.stderr if JSON.value else sys.stdout)
    try:
        with said:
            found = list(
                training.transfer_all(
                    DATASETS.value,
                    OUTPUT_DIR.value,
                    image_sizes=_flags.numbers(IMAGE_SIZES),
                    learning_rates=_flags.numbers(LEARNING_RATES, float),
                    seeds=SEEDS.value,
                    model=model,
                    weights=WEIGHTS.value,
                    **settings,
                )
            )
    except training.Preempted as preempted:
        print(f"keras-mixer: {preempted}", file=sys.stderr)
        return _flags.RESUME_ME
    published = transfer.published_transfers(model, WEIGHTS.value)
    published = [p for p in published if p.image_size in _flags.numbers(IMAGE_SIZES)]
    if JSON.value:
        figures = {
            "model": model,
            "weights": WEIGHTS.value,
            "transfers": [
                dataclasses.asdict(t) | {"accuracy": t.accuracy} for t in found
            ],
            "published": [dataclasses.asdict(p) for p in published],
        }
        print(json.dumps(figures, indent=2))
        return 0
    print("\n".join(_table(f"{model}, `{WEIGHTS.value}`", found, published)))
    return 0


def _table(name, found, published):
    """Yield the lines of a Markdown table."""
    from keras_mixer.training import transfer

    columns = list(dict.fromkeys(t.dataset for t in found))
    yield f"| {name} | image | {' | '.join(columns)} | {transfer.AVERAGE} |"
    yield f"|---|{'---:|' * (2 + len(columns))}"
    for side in dict.fromkeys(t.image_size for t in found):
        cells = [_cell(t) for t in found if t.image_size == side]
        average = transfer.average_of_five(found, side)
        cells.append("-" if average is None else f"{average:.2%}")
        yield f"| here | {side} | {' | '.join(cells)} |"
        for one in published:
            if one.image_size == side:
                figures = [one.figures.get(c) for c in [*columns, transfer.AVERAGE]]
                cells = ["-" if f is None else f"{f:.2%}" for f in figures]
                yield f"| {one.source} | {side} | {' | '.join(cells)} |"
    yield ""
    for t in found:
        rates = ", ".join(f"{rate:g} {a:.2%}" for rate, a in t.val_accuracies.items())
        chosen = f"learning rate {t.learning_rate:g} of {rates}."
        yield f"{t.dataset} at {t.image_size}: {chosen}"


def _cell(one):
    cell = f"{one.accuracy:.2%}"
    if len(one.test_accuracies) > 1:
        cell += f" ± {statistics.stdev(one.test_accuracies):.2%}"
    return cell
