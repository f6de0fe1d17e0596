"""Probes of frozen features, against scikit-learn, numpy and what is known."""

import json
import sys

import numpy as np
import pytest
from program import keras_mixer_main
from sklearn.linear_model import Ridge

from keras_mixer import data, models, training
from keras_mixer.training import probe, split_features

CLASSES, CHANNELS = 4, 6


def blobs(count, seed, spread=1.0):
    """`count` examples of each class around its own mean, not all channels alike."""
    generator = np.random.default_rng(seed)
    means = np.random.default_rng(0).normal(0, 1.5, (CLASSES, CHANNELS))
    labels = np.tile(np.arange(CLASSES), count)
    features = means[labels] + generator.normal(0, spread, (len(labels), CHANNELS))
    return (3 + features * [1, 2, 3, 4, 5, 6]).astype("float32"), labels


@pytest.fixture(scope="module")
def examples():
    return {"train": blobs(30, 1), "val": blobs(20, 2), "test": blobs(50, 3)}


# More examples than channels, and fewer.
@pytest.mark.parametrize("count", [30, 1])
@pytest.mark.parametrize("penalty", [2.0**-10, 1.0, 2.0**12])
def test_the_closed_form_is_scikit_learns_ridge(count, penalty):
    features, labels = blobs(count, 1)
    features = features.astype("float64")
    white = (features - features.mean(0)) / (features.std(0) + 1e-5)
    inputs = np.pad(white, ((0, 0), (0, 1)), constant_values=100.0)
    targets = np.where(labels[:, None] == np.arange(CLASSES), 1.0, -1.0)
    ridge = Ridge(alpha=penalty, fit_intercept=False, solver="svd", tol=1e-12)
    expected = ridge.fit(inputs, targets).coef_.T
    found = probe.Regression(features, labels).weights(penalty)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scores_are_those_of_the_weights(examples):
    regression = probe.Regression(*examples["train"])
    features, labels = examples["test"]
    train = examples["train"][0].astype("float64")
    white = (features - train.mean(0)) / (train.std(0) + 1e-5)
    inputs = np.pad(white, ((0, 0), (0, 1)), constant_values=100.0)
    found = regression.scores(features, labels)
    for penalty, score in [(2.0**-10, found[0]), (2.0**19, found[-1])]:
        best = np.argmax(inputs @ regression.weights(penalty), -1)
        assert score == np.mean(best == labels)


def test_more_shots_are_better_and_draws_repeat(examples):
    first = training.few_shot(examples, (1, 5, 25), seeds=4)
    assert [p.shots for p in first] == [1, 5, 25]
    assert first[0].accuracy + 0.1 < first[2].accuracy
    assert first[0].spread > 0
    assert training.few_shot(examples, (1, 5, 25), seeds=4) == first


def test_the_setting_is_chosen_by_validation_alone(examples):
    features, labels = examples["test"]
    swapped = {**examples, "test": (features, (labels + 1) % CLASSES)}
    for method in (
        training.linear,
        training.knn,
        lambda e: training.few_shot(e, [5])[0],
    ):
        mine, other = method(examples), method(swapped)
        assert mine.chosen == other.chosen
        assert mine.val_accuracy == other.val_accuracy
        assert mine.accuracy > 0.7 > other.accuracy


def test_neighbours_are_the_nearest_by_cosine(examples):
    found = training.knn(examples)
    (train, labels), (test, truth) = examples["train"], examples["test"]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    near = np.argsort(-units[1] @ units[0].T, axis=1)[:, : int(found.chosen)]
    votes = [np.bincount(row, minlength=CLASSES) for row in labels[near]]
    assert found.accuracy == np.mean(np.argmax(votes, 1) == truth)


def test_a_probe_refuses_what_it_cannot_tell_apart(examples):
    with pytest.raises(ValueError, match=r"shots=31, and a class of 30.*1,5,10,25"):
        training.few_shot(examples, (31,))
    features = examples["train"][0]
    alone = {**examples, "train": (features, np.zeros(len(features), int))}
    for method in (training.few_shot, training.linear, training.knn):
        with pytest.raises(ValueError, match=r"two at least[.] Received: 1 in train"):
            method(alone)


@pytest.fixture
def nano():
    return models.open_model("MlpMixerNano4", "cifar10")


def test_features_are_computed_once(home, nano, monkeypatch):
    source = data.open_source("digits")
    source = data.Source(
        "few", source.class_names, {"test": source.splits["test"].take(np.arange(9))}
    )
    first = split_features(nano, source)["test"]
    images = source.splits["test"].images
    assert first[0].shape == (9, 128)
    assert first[0].dtype == "float32"
    assert first[1].tolist() == source.splits["test"].labels.tolist()
    monkeypatch.setattr(sys.modules[split_features.__module__], "_compute", None)
    reopened = models.open_model("MlpMixerNano4", "cifar10")
    again = split_features(reopened, source)["test"]
    assert np.array_equal(again[0], first[0])
    # Another model, or other images, are not those.
    with pytest.raises(TypeError):
        images[0, 0, 0, 0] += 1
        split_features(nano, source)
    images[0, 0, 0, 0] -= 1
    nano.weights[0].assign(nano.weights[0] + 1)
    with pytest.raises(TypeError):
        split_features(nano, source)


def test_probe_prints_a_table_json_and_a_picture(home, tmp_path):
    arguments = ["probe", "MlpMixerNano4", "--weights=cifar10", "--dataset=digits"]
    arguments += ["--shots=1,5", "--seeds=2", "--method=few_shot,knn"]
    picture = tmp_path / "shots.png"
    table = keras_mixer_main(*arguments, f"--plot={picture}")
    assert table.returncode == 0, table.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(keras_mixer_main(*arguments, "--json").stdout)
    assert [p["shots"] for p in found["probes"]] == [1, 5, None]
    assert found["examples"] == {"train": 1295, "test": 359, "val": 143}
    lines = table.stdout.splitlines()[1:]
    for line, one in zip(lines, found["probes"], strict=True):
        assert f"{one['accuracy']:.2%}" in line
    # The features of CIFAR-10's classes tell digits apart.
    assert found["probes"][0]["accuracy"] > 0.3
    assert found["probes"][2]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MlpMixerNano4"], "probe takes a model and a data set"),
        (["MlpMixerNano4", "--dataset=digits"], "without weights is random"),
        (["x.keras", "--dataset=digits", "--method=svm"], "method must be some of"),
        (["x.keras", "--dataset=digits", "--shots=a"], "--shots must be whole numbers"),
        (
            ["x.keras", "--dataset=digits", "--method=knn", "--plot=a.png"],
            "few_shot must be among",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, words):
    result = keras_mixer_main("probe", *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
