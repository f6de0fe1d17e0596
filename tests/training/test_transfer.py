"""The paper's fine-tuning on two small TensorFlow Datasets, made here."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_variant  # noqa: F401
from program import keras_mixer_main

from keras_mixer import models, training
from keras_mixer.catalog import PAPER_TRANSFER
from keras_mixer.training import transfer

PAPER = training.RECIPES["paper_cifar10"]

tfds = pytest.importorskip("tensorflow_datasets")

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
COLOURS = {"blue": (30, 40, 210), "green": (40, 200, 30), "red": (210, 30, 40)}


class Squares(tfds.core.GeneratorBasedBuilder):
    """Squares of a colour, with noise."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=sorted(COLOURS))
        image = tfds.features.Image(shape=(16, 16, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, manager):
        return {
            "train": self._generate_examples(20),
            "test": self._generate_examples(4),
        }

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for name, colour in COLOURS.items():
            for number in range(count):
                noise = rng.integers(-20, 20, (16, 16, 3))
                image = np.clip(np.array(colour) + noise, 0, 255).astype("uint8")
                yield f"{name}{number}", {"image": image, "label": name}


class Tiles(Squares):
    """A second data set."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Squares, Tiles):
        builder(data_dir=folder).download_and_prepare()
    path = folder / "tiny.weights.h5"
    models.MlpMixerTiny(input_shape=(16, 16, 3), classes=5).save_weights(path)
    return folder, path


def arguments(prepared, *flags):
    folder, path = prepared
    return [
        *("transfer", "MlpMixerTiny", f"--weights={path}", f"--data_dir={folder}"),
        *("--datasets=squares,tiles", "--image_sizes=16", "--learning_rates=0.1"),
        *("--seeds=1", "--steps=6", "--batch_size=16", "--strategy=single", *flags),
    ]


def report_of(run):
    return json.loads((run / "report.json").read_text())


@pytest.mark.slow
def test_a_killed_transfer_goes_on_and_ends_in_the_table(prepared, tmp_path):
    runs = tmp_path / "runs"
    command = arguments(prepared, f"--output_dir={runs}")
    code = "import tiny_variant; from keras_mixer.cli import main; main()"
    path = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT)])
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, command)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
    # The first run is finished, and the second has begun.
    begun = runs / "squares/16/seed0/checkpoint.npz"
    while process.poll() is None and not begun.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    first = runs / "squares/16/rate0.1/report.json"
    before = first.stat().st_mtime_ns

    done = keras_mixer_main(*command)
    assert done.returncode == 0, done.stderr
    assert f"Resuming {begun.parent} at step " in done.stdout
    assert first.stat().st_mtime_ns == before
    assert done.stdout.splitlines()[-6:] == [
        f"| MlpMixerTiny, `{prepared[1]}` | image | squares | tiles | Avg. 5 |",
        "|---|---:|---:|---:|---:|",
        "| here | 16 | 100.00% | 100.00% | - |",
        "",
        "squares at 16: learning rate 0.1 of 0.1 100.00%.",
        "tiles at 16: learning rate 0.1 of 0.1 100.00%.",
    ]
    sweep, final = runs / "tiles/16/rate0.1", runs / "tiles/16/seed0"
    examples = [report_of(run)["train_examples"] for run in (sweep, final)]
    assert examples == [54, 60]
    assert not list(runs.glob("**/checkpoint.npz"))
    assert sorted(runs.glob("**/model.keras")) == [
        runs / name / "16/seed0/model.keras" for name in ("squares", "tiles")
    ]

    # With everything finished nothing trains, and what is printed is JSON alone.
    again = keras_mixer_main(*command, "--json")
    found = json.loads(again.stdout)
    assert [t["test_accuracies"] for t in found["transfers"]] == [[1.0], [1.0]]
    assert "Epoch" not in again.stderr
    other = keras_mixer_main(*command, "--steps=9")
    assert "steps=6 before, steps=9 now" in other.stderr


def test_the_rate_is_chosen_by_the_last_validation(prepared, tmp_path):
    folder, path = prepared
    settings = {"model": "MlpMixerTiny", "weights": str(path), "steps": 3, "seed": 4}
    settings |= {"data_dir": str(folder), "batch_size": 16, "strategy": "single"}
    # Finished runs: the best epoch of the lowest rate is better than all others.
    for rate, last in [(0.001, 0.5), (0.1, 0.75), (1.0, 0.75)]:
        config = transfer._config_of(
            "squares",
            dataclasses.replace(PAPER, **settings),
            settings,
        )
        config = dataclasses.replace(config, learning_rate=rate, image_size=16)
        run = tmp_path / f"squares/16/rate{rate:g}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(
            config.fitted(54, 1, 1e9, models.VARIANTS[config.model]).to_json()
        )
        (run / "report.json").write_text('{"val_accuracy": 1.0}')
        (run / "history.csv").write_text(f"val_accuracy\n1.0\n{last}\n")
    (found,) = training.transfer_all(
        ["squares"],
        tmp_path,
        image_sizes=[16],
        learning_rates=[1.0, 0.1, 0.001],
        seeds=1,
        **settings,
    )
    assert found.val_accuracies == {0.001: 0.5, 0.1: 0.75, 1.0: 0.75}
    assert found.learning_rate == 0.1
    report = report_of(tmp_path / "squares/16/seed4")
    assert report["config"]["learning_rate"] == 0.1
    assert found.test_accuracies == (report["test_accuracy"],)


def test_the_papers_figures_stand_beside_ours():
    published = transfer.published_transfers("MlpMixerL16", "imagenet21k")
    assert [(p.source, p.image_size) for p in published] == [
        ("arXiv 2105.01601, table 3", 224),
        ("vit_jax README", 224),
        ("arXiv 2105.01601, table 3", 448),
    ]
    assert published[0].figures["Avg. 5"] == pytest.approx(0.9363)
    assert transfer.published_transfers("MlpMixerB16", "imagenet21k_miil") == []
    five = [
        training.Transfer(name, 224, {0.03: 1.0}, 0.03, (0.1 * number, 0.3 * number))
        for number, name in enumerate(["imagenet2012", *PAPER_TRANSFER.datasets])
    ]
    assert transfer.average_of_five(five, 224) == pytest.approx(0.4)
    assert transfer.average_of_five(five[1:], 224) is None
    assert transfer.average_of_five(five, 448) is None


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--datasets=squares,nowhere"], "Received: 'nowhere'"),
        (["--datasets=squares,cifar100"], "`tfds build cifar100 --data_dir="),
        (["--datasets=squares,squares"], "each once. Received: ['squares', 'squares']"),
        (["--image_sizes=a"], "whole numbers with commas"),
        (["--learning_rates="], "learning_rates must be one or more"),
        (["--learning_rates=x"], "numbers with commas between them, such as 0.003,"),
        (["--weights="], "Received: weights="),
        (["--output_dir="], "--output_dir=runs/NAME"),
        (["--strategy=multi_worker"], "Received: strategy=multi_worker"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_transferred_is_one_line(prepared, tmp_path, flags, words):
    command = arguments(prepared, f"--output_dir={tmp_path / 'runs'}", *flags)
    done = keras_mixer_main(*command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line
    assert not (tmp_path / "runs").exists()


def test_a_schedule_is_that_of_the_data_sets_size(prepared):
    folder, path = prepared
    settings = {"model": "MlpMixerTiny", "weights": str(path), "data_dir": str(folder)}
    config = transfer._config_of("squares", training.TrainConfig(**settings), settings)
    assert (config.steps, config.warmup_steps, config.val_fraction) == (500, 100, 0.1)
