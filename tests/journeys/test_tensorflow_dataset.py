"""A prepared TensorFlow Dataset: train, be killed, go on, evaluate, export, serve."""

import json
import re

import journey
import numpy as np
import pytest
import serving_support
import tensorflow_datasets as tfds


class Snapshots(tfds.core.GeneratorBasedBuilder):
    """Pictures of things, as a user would make a data set of them."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, pictures=None, **kwargs):
        self.pictures = pictures
        super().__init__(**kwargs)

    def _info(self):
        label = tfds.features.ClassLabel(names=sorted(self.pictures))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(encoding_format="jpeg"), "label": label}
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, manager):
        return {
            "train": self._generate_examples(0, 30),
            "test": self._generate_examples(30, 36),
        }

    def _generate_examples(self, start, end):
        for name, pictures in self.pictures.items():
            for number, picture in enumerate(pictures[start:end]):
                yield f"{name}{number}", {"image": np.array(picture), "label": name}


@pytest.mark.slow
def test_from_a_tensorflow_dataset_to_a_served_model(home, snapshots):
    data = home / "data"
    Snapshots(snapshots, data_dir=data).download_and_prepare()
    run = home / "run"
    chosen = ["--dataset=snapshots", f"--data_dir={data}"]

    report = journey.train_through_a_kill(
        run, *chosen, "--model=MlpMixerNano4", "--weights=cifar10"
    )
    assert report["test_examples"] == 18
    assert report["test_accuracy"] > 0.9

    evaluated = json.loads(
        journey.do("evaluate", run / "model.keras", *chosen, "--json")
    )
    assert evaluated["top1"] == report["test_accuracy"]

    paths = []
    for name, pictures in snapshots.items():
        paths.append(home / f"{name}.jpg")
        paths[-1].write_bytes(serving_support.encoded(pictures[30]))
    found = journey.scores_everywhere(run, paths, home / "models")
    journey.assert_agree(found)
    table = journey.do("predict", *paths, f"--model={run / 'model.keras'}")
    best = re.findall(r"\.jpg\n +[\d.]+% +(\w+)", table)
    assert best == list(snapshots)
