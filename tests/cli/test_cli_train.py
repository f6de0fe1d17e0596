"""`keras-mixer train` and `keras-mixer evaluate`, as a user types them."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_variant  # noqa: F401
import training_child
from PIL import Image
from program import keras_mixer_main

from keras_mixer import data
from keras_mixer.catalog import ENTRIES
from keras_mixer.training import RECIPES, TrainConfig

SMALL = [
    "--dataset=digits",
    "--model=MlpMixerTiny",
    "--epochs=2",
    "--batch_size=256",
    "--learning_rate=0.01",
    "--warmup_steps=2",
    "--ema_momentum=0",
    "--nodeterministic",
    "--strategy=single",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "digits"
    return folder, keras_mixer_main("train", *SMALL, f"--output_dir={folder}")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_train_writes_model_report_and_pictures(trained):
    folder, done = trained
    assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout
    assert "Epoch 2/2" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert f"{report['test_accuracy']:.2%}" in done.stdout
    for name in ("curves.png", "predictions.png", "confusion_matrix.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 300


def test_train_reads_its_configuration_back(trained, tmp_path):
    folder, _ = trained
    config = f"--config={folder / 'config.json'}"
    # Without the augmentation of keras-cv.
    less = ("--epochs=1", "--shift=0", "--rotation=0")
    again = keras_mixer_main("train", config, *less, f"--output_dir={tmp_path}")
    assert again.returncode == 0, again.stderr
    changed = {"epochs": 1, "shift": 0, "rotation": 0}
    assert config_of(tmp_path) == config_of(folder) | changed
    assert config_of(tmp_path)["model"] == "MlpMixerTiny"


@pytest.mark.parametrize("file", ["", "model.keras"])
def test_evaluate_prints_what_the_report_says(trained, file):
    folder, _ = trained
    report = json.loads((folder / "report.json").read_text())
    done = keras_mixer_main("evaluate", folder / file, "--dataset=digits")
    assert done.returncode == 0, done.stderr
    assert f"top-1   {report['test_accuracy']:7.2%}" in done.stdout
    assert f"loss    {report['test_loss']:7.4f}" in done.stdout
    assert len(done.stdout.splitlines()) == 1 + 4


def test_evaluate_says_the_speed_and_each_class_in_json_too(trained):
    folder, _ = trained
    arguments = ("--dataset=digits", "--per_class", "--batch_size=512")
    text = keras_mixer_main("evaluate", folder, *arguments)
    figures = keras_mixer_main("evaluate", folder, *arguments, "--json")
    figures = json.loads(figures.stdout)
    assert figures["images_per_second"] > 1
    assert list(figures["classes"]) == list("0123456789")
    right = [c["top1"] * c["examples"] for c in figures["classes"].values()]
    assert sum(right) / 359 == pytest.approx(figures["top1"])
    seven = figures["classes"]["7"]
    shown = f"7 {seven['top1']:.2%} of {seven['examples']}"
    assert shown in [" ".join(line.split()) for line in text.stdout.splitlines()]


def test_evaluate_takes_the_splits_of_the_run(trained):
    """The recipe holds out 5 % for validation, a data set by itself 10 %."""
    folder, _ = trained
    done = keras_mixer_main("evaluate", folder, "--dataset=digits", "--split=val")
    held_out = data.open_source("digits", val_fraction=0.05).splits["val"].size
    assert f"on {held_out} images of digits, val" in done.stdout


def test_evaluate_does_not_score_random_weights():
    done = keras_mixer_main("evaluate", "MlpMixerNano4", "--dataset=digits")
    assert done.returncode == 1
    assert "MlpMixerNano4 without weights is random" in done.stderr


def write_class_folders(folder, class_names):
    pixels = np.zeros((8, 8, 3), "uint8")
    for name in class_names:
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels[number] += 1
            Image.fromarray(pixels).save(folder / name / f"{name}{number}.png")


def test_evaluate_shows_what_is_published_about_the_data_set(tmp_path):
    model = ("MlpMixerNano4", "--weights=cifar10")
    published = f"published {ENTRIES['MlpMixerNano4', 'cifar10'].top1:.2f}%"
    for name, words in [("cifar10", published), ("others", "top-1")]:
        write_class_folders(tmp_path / name, "abcdefghij")
        dataset = f"--dataset=folder:{tmp_path / name}"
        done = keras_mixer_main("evaluate", *model, dataset)
        assert words in done.stdout
        assert ("published" in done.stdout) == (name == "cifar10")


def test_evaluate_needs_a_model_of_as_many_classes(tmp_path):
    write_class_folders(tmp_path, ["cat", "dog"])
    model = ("MlpMixerNano4", "--weights=cifar10")
    done = keras_mixer_main("evaluate", *model, f"--dataset=folder:{tmp_path}")
    assert "10 of the model MlpMixerNano4, 2 of folder:" in done.stderr


def test_sigterm_saves_and_exits_with_try_again(tmp_path):
    training_child.stop_at(7)
    done = keras_mixer_main("train", *SMALL, f"--output_dir={tmp_path}")
    assert done.returncode == 75
    assert done.stderr.startswith("keras-mixer: Stopped at step 8 of 10. The same")
    assert (tmp_path / "checkpoint.npz").exists()


def test_preview_writes_a_sheet(tmp_path):
    sheet = tmp_path / "sheet.png"
    done = keras_mixer_main("train", *SMALL, f"--preview={sheet}", "--mixup=0.3")
    assert done.returncode == 0, done.stderr
    with Image.open(sheet) as image:
        assert image.width > 1000
    assert list(tmp_path.iterdir()) == [sheet]


def test_help_says_the_default_of_every_setting():
    shown = " ".join(keras_mixer_main("train", "--help").stdout.split())
    for field in dataclasses.fields(TrainConfig):
        text = f"--{field.name}=", f"--[no-]{field.name} "
        assert any(name in shown for name in text)
        assert f"Default: {field.default}" in shown
    assert f"Default: 0.001; digits: {RECIPES['digits'].learning_rate}; finet" in shown


def write_config(folder, text):
    (folder / "config.json").write_text(text)
    (folder / "checkpoint.npz").write_bytes(b"PK")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--dataset=digits"], "--output_dir=runs/NAME. Received: none"),
        (["train", "--output_dir={}"], "scratch needs a data set, as --dataset=folder"),
        (
            ["train", "--weights=imagenet", "--output_dir={}"],
            "finetune needs a data set",
        ),
        (["train", "--dataset=folder:nowhere", "--output_dir={}"], "must be a folder"),
        (["train", "--config=none.json", "--output_dir={}"], "none.json"),
        (["train", *SMALL, "--output_dir={}"], "must be a JSON object"),
        (["evaluate", "none.keras", "--dataset=digits"], "none.keras"),
        (["evaluate", "--dataset=digits"], "evaluate MODEL --dataset=NAME, where"),
        (
            ["evaluate", "a.keras", "--model=b.keras"],
            "Unknown command line flag 'model",
        ),
    ],
    ids=lambda value: value[0] + value[1][:12] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_status_one(tmp_path, arguments, words):
    write_config(tmp_path, "[]")
    done = keras_mixer_main(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("keras-mixer: ")
    assert words in line


def test_what_cannot_begin_leaves_no_folder(tmp_path):
    run = tmp_path / "run"
    arguments = ["--dataset=digits", "--model=none.keras", f"--output_dir={run}"]
    for folder_was_there in (False, True):
        done = keras_mixer_main("train", *arguments)
        assert "none.keras" in done.stderr
        assert run.exists() == folder_was_there
        run.mkdir(exist_ok=True)
