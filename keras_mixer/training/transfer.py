"""The paper's fine-tuning on several data sets: a sweep, then runs on all examples.

Section 3 and appendix C of the paper, which follows ViT's (arXiv 2010.11929, B.1.1 and
table 4): a grid of learning rates on a held-out part of the training examples, the best
of which then trains on all of them.
"""

import csv
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from keras_mixer import data
from keras_mixer.catalog import PAPER_TRANSFER, RECIPES, TrainConfig, check_positive
from keras_mixer.training.run import train
from keras_mixer.training.start import continued

# ViT, B.1.1: what is held out to choose the rate; a tenth of the others.
_HELD_OUT = {"cifar10": 0.02, "cifar100": 0.02, "imagenet2012": 0.01}
# The paper's 2,000 examples are both.
_TRAIN_SPLITS = {"oxford_flowers102": "train+validation"}
# Steps, and those of warm-up, by the number of training examples. The steps are ViT's
# table 4; it is silent about warm-up, which is that of BiT's rule for so many steps
# (google-research/big_transfer, bit_hyperrule.py) and of vit_jax.
_SCHEDULES = ((20_000, 500, 100), (500_000, 10_000, 500), (float("inf"), 20_000, 500))


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What a model reaches on a data set at one resolution.

    Attributes:
        dataset: Name of the data set.
        image_size: Side of the input, in pixels.
        val_accuracies: By learning rate, the share of the held-out examples that was
            right after the last step, in [0, 1].
        learning_rate: The best of them, the lower one of equals.
        test_accuracies: Share of the test examples that was right, in [0, 1], of each
            run on all training examples with that rate.
    """

    dataset: str
    image_size: int
    val_accuracies: dict[float, float]
    learning_rate: float
    test_accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean of the test accuracies."""
        return sum(self.test_accuracies) / len(self.test_accuracies)


@dataclasses.dataclass(frozen=True)
class Published:
    """Accuracies that are published of a model's fine-tuning at one resolution.

    Attributes:
        source: Where.
        image_size: Side of the input, in pixels.
        figures: By data set, or `AVERAGE`, in [0, 1].
    """

    source: str
    image_size: int
    figures: dict[str, float]


AVERAGE = "Avg. 5"  # over ImageNet and the four others, in the paper's words
_TABLE = "arXiv 2105.01601, table 3"
_VIT_JAX = "vit_jax README"
_FROM_IMAGENET = ("imagenet", "imagenet_google", "imagenet_timm")
_FROM_IMAGENET_21K = ("imagenet21k", "imagenet21k_timm")
_PUBLISHED = [
    # The paper gives ImageNet and the average alone.
    (
        "MlpMixerB16",
        _FROM_IMAGENET,
        224,
        _TABLE,
        {"imagenet2012": 76.44, AVERAGE: 88.33},
    ),
    ("MlpMixerB16", _FROM_IMAGENET, 224, _VIT_JAX, {"cifar10": 96.72}),
    (
        "MlpMixerL16",
        _FROM_IMAGENET,
        224,
        _TABLE,
        {"imagenet2012": 71.76, AVERAGE: 87.25},
    ),
    (
        "MlpMixerB16",
        _FROM_IMAGENET_21K,
        224,
        _TABLE,
        {"imagenet2012": 80.64, AVERAGE: 92.50},
    ),
    (
        "MlpMixerL16",
        _FROM_IMAGENET_21K,
        224,
        _TABLE,
        {"imagenet2012": 82.89, AVERAGE: 93.63},
    ),
    ("MlpMixerL16", _FROM_IMAGENET_21K, 224, _VIT_JAX, {"cifar10": 98.34}),
    (
        "MlpMixerL16",
        _FROM_IMAGENET_21K,
        448,
        _TABLE,
        {"imagenet2012": 83.91, AVERAGE: 93.86},
    ),
]


def published_transfers(model: str, tag: str | None) -> list[Published]:
    """List what is published about fine-tuning a model from the weights of a tag."""
    return [
        Published(source, side, {k: v / 100 for k, v in figures.items()})
        for name, tags, side, source, figures in _PUBLISHED
        if name == model and tag in tags
    ]


def average_of_five(transfers: Sequence[Transfer], image_size: int) -> float | None:
    """The paper's average at a resolution; `None` unless all five are there."""
    found = {t.dataset: t.accuracy for t in transfers if t.image_size == image_size}
    five = ("imagenet2012", *PAPER_TRANSFER.datasets)
    if not all(name in found for name in five):
        return None
    return sum(found[name] for name in five) / len(five)


def transfer_all(
    datasets: Sequence[str],
    output_dir: str | pathlib.Path,
    *,
    image_sizes: Sequence[int] = PAPER_TRANSFER.image_sizes,
    learning_rates: Sequence[float] = PAPER_TRANSFER.learning_rates,
    seeds: int = PAPER_TRANSFER.seeds,
    **settings: Any,
) -> Iterator[Transfer]:
    """Fine-tune on several data sets as the paper does.

    For each data set and image size, each learning rate trains on a part of the
    training examples. The rate that is best on the others then trains on all, several
    times; a validation split of the data set's own is never trained on.

    A run is a folder of `keras_mixer.train`, such as
    `output_dir/cifar10/224/rate0.03` or `output_dir/cifar10/224/seed0`. The same call
    goes on where it was stopped, and leaves finished runs alone. Of these it deletes
    `checkpoint.npz`, and `model.keras` of those that chose the rate.

    Args:
        datasets: Names of prepared TensorFlow Datasets; also `digits` and
            `folder:PATH`.
        output_dir: The folder for the runs.
        image_sizes: Sides of the input, in pixels.
        learning_rates: The rates to choose from.
        seeds: How often to train on all examples.
        **settings: Fields of `TrainConfig`, such as `model`, `weights`, `data_dir` and
            `precision`, that differ from the recipe `paper_cifar10`. Steps and warm-up
            follow from the number of examples unless they are given.

    Yields:
        A `Transfer` for each data set and image size.

    Raises:
        ValueError: If a data set is not there, or of no use; if there are no weights;
            or as `keras_mixer.train` does.
        Preempted: If the process got SIGTERM; the state is saved.
    """
    check_positive("seeds", seeds)
    for name, values in [
        ("datasets", datasets),
        ("image_sizes", image_sizes),
        ("learning_rates", learning_rates),
    ]:
        if not values or len(set(values)) < len(values):
            raise ValueError(
                f"{name} must be one or more, each once. Received: {list(values)}."
            )
    base = dataclasses.replace(RECIPES[PAPER_TRANSFER.recipe], **settings)
    if not base.weights:
        raise ValueError(
            "What is transferred is what weights know. Received: "
            f"weights={base.weights}. Name a "
            "tag that `keras-mixer weights` lists, or a file."
        )
    if base.strategy == "multi_worker":
        raise ValueError(
            "A transfer is many runs, one after the other in one process. Received: "
            "strategy=multi_worker. Use another, or several times keras-mixer train."
        )
    # What cannot be is said before hours are spent on the rest.
    configs = {name: _config_of(name, base, settings) for name in datasets}
    folder = pathlib.Path(output_dir)
    for dataset, config in configs.items():
        for side in image_sizes:
            yield _transfer_one(
                dataclasses.replace(config, image_size=side),
                folder / re.sub(r"[^\w.-]", "_", dataset) / str(side),
                learning_rates,
                seeds,
            )


def _config_of(dataset, base, settings):
    """Check a data set, and return the configuration of its sweep."""
    if dataset != "digits" and not dataset.startswith("folder:"):
        data.prepared_builder(dataset, base.data_dir)
    name = re.split("[/:]", dataset)[0]  # builder/config:version
    config = dataclasses.replace(base, dataset=dataset)
    if "train_split" not in settings:
        config = dataclasses.replace(config, train_split=_TRAIN_SPLITS.get(name))
    if "val_fraction" not in settings:
        held_out = _HELD_OUT.get(name, 0.1)
        config = dataclasses.replace(config, val_fraction=held_out)
    source = data.open_source(dataset, **config.source_settings)
    if "val" not in source.splits or "train" not in source.splits:
        raise ValueError(
            "The learning rate is chosen on examples that are held out. Received: "
            f"{dataset} with the splits {', '.join(source.splits)}, and "
            f"val_fraction={config.val_fraction}."
        )
    examples = source.splits["train"].size + source.splits["val"].size
    steps, warmup_steps = next(
        (steps, warmup) for limit, steps, warmup in _SCHEDULES if examples < limit
    )
    chosen = {"steps": steps, "warmup_steps": warmup_steps}
    if "steps" in settings:
        chosen = {"warmup_steps": -1}
    return dataclasses.replace(config, **{**chosen, **settings, "dataset": dataset})


def _transfer_one(config, folder, learning_rates, seeds):
    where = f"{config.dataset} at {config.image_size} pixels"
    val_accuracies = {}
    for rate in sorted(learning_rates):
        print(f"{where}: learning rate {rate:g}")
        run = folder / f"rate{rate:g}"
        _train_once(dataclasses.replace(config, learning_rate=rate), run)
        (run / "model.keras").unlink(missing_ok=True)
        with open(run / "history.csv", newline="", encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
        val_accuracies[rate] = float(last["val_accuracy"])
    best = max(val_accuracies, key=val_accuracies.__getitem__)
    accuracies = []
    for seed in range(config.seed, config.seed + seeds):
        print(f"{where}: all examples, learning rate {best:g}, seed {seed}")
        final = dataclasses.replace(
            config, learning_rate=best, val_fraction=0.0, seed=seed
        )
        report = _train_once(final, folder / f"seed{seed}")
        accuracies.append(report["test_accuracy"])
    return Transfer(
        config.dataset, config.image_size, val_accuracies, best, tuple(accuracies)
    )


def _train_once(config: TrainConfig, folder):
    """Train unless that is done; return the report."""
    report = folder / "report.json"
    if report.exists():
        continued(config, folder)
    else:
        train(config, folder)
    (folder / "checkpoint.npz").unlink(missing_ok=True)
    return json.loads(report.read_text(encoding="utf-8"))
