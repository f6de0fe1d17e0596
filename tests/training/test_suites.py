"""ImageNet's suite on data sets of the real ones' names and features, made here."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from program import keras_mixer_main
from tiny import TINY, randomize

import keras_mixer
from keras_mixer import training
from keras_mixer.training import suites

tfds = pytest.importorskip("tensorflow_datasets")

SIZE, COUNT = 8, 10
# Of 15 corruptions in 5 severities, each of which takes seconds.
KINDS, SEVERITIES = {"fog": 0.5, "snow": 0.25}, (1, 5)


@pytest.fixture(scope="module")
def model():
    return randomize(
        keras_mixer.MlpMixer(**TINY, input_shape=(SIZE, SIZE, 3), classes=1000)
    )


def colours(seed):
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 3))


def scores(model, seed):
    """What the model says of squares, which look the same however they are cropped."""
    pixels = np.broadcast_to(colours(seed)[:, None, None], (COUNT, SIZE, SIZE, 3))
    return model.predict_on_batch(pixels.astype("float32"))


def prepare(folder, name, split, seed, features):
    """Prepare a data set of squares, in the features of the real one of its name."""
    builder = tfds.builder(name, data_dir=folder)

    def examples():
        for number, colour in enumerate(colours(seed)):
            # A file is stored as it is: JPEG would change the colours.
            file = io.BytesIO()
            Image.new("RGB", (16, 16), tuple(map(int, colour))).save(file, "PNG")
            file.seek(0)
            example = {key: value[number] for key, value in features.items()}
            yield number, {"image": file, "file_name": f"{number}", **example}

    builder._split_generators = lambda dl_manager: {split: examples()}
    builder.download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, model):
    """Everything but V2, with the scores that follow from the labels."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    best = np.argmax(scores(model, 0), -1)
    wrong = (best + 1) % 1000
    # Seven are right as ImageNet has it.
    original = np.where(np.arange(COUNT) < 7, best, wrong)
    # Two have no label, four are right, one of these as ImageNet has it wrong.
    real = [[], [], *([w, b] for w, b in zip(wrong[2:5], best[2:5], strict=True))]
    real += [[w] for w in wrong[5:9]] + [[best[9]]]
    prepare(
        folder,
        "imagenet2012_real",
        "validation",
        0,
        {"original_label": original, "real_label": real},
    )
    # Of classes none of which is the best of all for any image.
    first = scores(model, 1)
    others = sorted(set(range(1000)) - set(np.argmax(first, -1)))
    among = np.array(others[:COUNT])
    answered = among[np.argmax(first[:, among], -1)]
    # Every class is there; the first image has the label that it is answered by.
    labels = np.roll(among, -int(np.flatnonzero(among == answered[0])[0]))
    expected = float(np.mean(answered == labels))
    prepare(folder, "imagenet_a", "test", 1, {"label": labels})
    prepare(folder, "imagenet_r", "test", 1, {"label": answered})
    for kind, right in [("fog", 5), ("snow", 8)]:
        for severity in SEVERITIES:
            seed = 10 * severity + right
            best = np.argmax(scores(model, seed), -1)
            # One more is right at the first severity.
            count = right + (severity == 1)
            prepare(
                folder,
                f"imagenet2012_corrupted/{kind}_{severity}",
                "validation",
                seed,
                {"label": np.where(np.arange(COUNT) < count, best, best - 1) % 1000},
            )
    return folder, expected


@pytest.fixture
def corruptions(monkeypatch):
    monkeypatch.setattr(suites, "ALEXNET_ERRORS", KINDS)
    monkeypatch.setattr(suites, "SEVERITIES", SEVERITIES)


def test_each_test_set_is_scored_by_its_own_rule(model, prepared, corruptions):
    folder, expected_a = prepared
    found = {s.name: s for s in training.imagenet_suite(model, data_dir=folder)}
    assert list(found) == ["ImageNet", "ReaL", "V2", "A", "R", "C"]
    assert found["ImageNet"].value == pytest.approx(0.7)
    assert found["ImageNet"].examples == COUNT
    assert (found["ReaL"].value, found["ReaL"].examples) == (pytest.approx(4 / 8), 8)
    assert 0 < expected_a < 1
    assert found["A"].value == pytest.approx(expected_a)
    assert found["R"].value == pytest.approx(1.0)
    # Errors of 0.4 and 0.5, and of 0.1 and 0.2: (0.45 / 0.5 + 0.15 / 0.25) / 2
    assert found["C"].value == pytest.approx(0.75)
    assert found["C"].examples == 4 * COUNT
    assert found["V2"].value is None
    assert "tfds build imagenet_v2/matched-frequency --data_dir=" in found["V2"].missing


@pytest.mark.slow
def test_evaluate_prints_the_suite_and_its_markdown(
    model, prepared, corruptions, tmp_path
):
    path = tmp_path / "m.keras"
    model.save(path)
    arguments = ["evaluate", path, "--suite=imagenet", f"--data_dir={prepared[0]}"]
    table = keras_mixer_main(*arguments)
    assert table.returncode == 0, table.stderr
    row = table.stdout.splitlines()[-1]
    assert row.startswith(f"| `{path}` | `None` | 70.00 | 50.00 | - | ")
    assert row.endswith(" | 100.00 | 75.00 |")


def test_a_suite_without_its_data_says_how_to_have_it(model, tmp_path):
    path = tmp_path / "m.keras"
    model.save(path)
    arguments = ["evaluate", path, "--suite=imagenet", f"--data_dir={tmp_path}"]
    result = keras_mixer_main(*arguments)
    assert result.returncode == 1
    assert "none in" in result.stderr
    found = json.loads(keras_mixer_main(*arguments, "--json").stdout)["scores"]
    assert "tfds build imagenet_r" in found["R"]["missing"]
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    # What has to be fetched by hand, in the words of the data set.
    assert "ILSVRC2012_img_val.tar" in lines[0]
    assert all("tfds build imagenet" in line for line in lines)


def test_the_suite_is_for_models_of_imagenet():
    result = keras_mixer_main(
        "evaluate", "MlpMixerNano4", "--weights=cifar10", "--suite=imagenet"
    )
    assert result.returncode == 1
    assert "1,000 classes. Received: MlpMixerNano4 of 10." in result.stderr
    both = keras_mixer_main("evaluate", "x.keras", "--suite=imagenet", "--dataset=d")
    assert "--dataset=d, --suite=imagenet" in both.stderr
