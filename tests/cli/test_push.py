"""`keras-mixer push`, to a hub on the loopback interface, and the way back."""

import dataclasses
import json
import os
import pathlib
import subprocess

import hub_server
import numpy as np
import pytest
import skimage
from program import PROGRAM, keras_mixer_main
from tiny import CLASSES, TINY, build_tiny, randomize

import keras_mixer
from keras_mixer import training
from keras_mixer.catalog import ENTRIES
from keras_mixer.training.start import open_start

PHOTO = pathlib.Path(skimage.__file__).parent / "data" / "astronaut.png"
REPORT = {
    "dataset": "folder:/home/me/secret/flowers",
    "train_examples": 1368,
    "test_accuracy": 0.9721,
    "test_top5_accuracy": 1.0,
    "test_examples": 359,
    "config": {"model": None, "epochs": 16, "data_dir": "/home/me/secret"},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with (
        hub_server.serving() as server,
        hub_server.library_asks(
            monkeypatch, server.url, tmp_path / "home", hub_server.TOKEN
        ),
    ):
        yield server


@pytest.fixture
def run_folder(tmp_path):
    """What a training run leaves behind, as far as it is pushed."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = randomize(build_tiny(approximate_gelu=True))
    model.save(folder / "model.keras")
    names = [f"class {number}" for number in range(CLASSES)]
    (folder / "labels.txt").write_text("\n".join(names))
    (folder / "report.json").write_text(json.dumps(REPORT))
    return folder


def test_pushed_and_loaded_it_is_the_same_bit_by_bit(hub, run_folder, images):
    result = keras_mixer_main("push", run_folder, "hf://me/tiny")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{hub.url}/me/tiny/commit/" + (
        hub.repositories["me/tiny"]["branches"]["main"] + "\n"
    )
    model = keras_mixer.models.open_model(run_folder)
    again = keras_mixer.MlpMixer(
        *TINY.values(), input_shape=(12, 12, 3), weights="hf://me/tiny"
    )
    found = keras_mixer.models.open_model("hf://me/tiny")
    for same in (again, found):
        for one, other in zip(model.weights, same.weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        np.testing.assert_array_equal(model(images), same(images))
    start = open_start(training.TrainConfig(model="hf://me/tiny"))
    assert start.weights == "hf://me/tiny"
    assert dataclasses.asdict(start.sizes) == TINY | {"image_size": 12}
    files = hub.files("me/tiny")
    assert sorted(files) == [
        *("README.md", "config.json", "labels.txt"),
        *("model.keras", "model.safetensors", "token_mixing.png"),
    ]
    (run_folder / "again.keras").write_bytes(files["model.keras"])
    np.testing.assert_array_equal(
        keras_mixer.models.open_model(run_folder / "again.keras")(images), model(images)
    )
    assert files["token_mixing.png"].startswith(b"\x89PNG")


def test_the_card_has_the_runs_figures_and_no_path_of_the_machine(hub, run_folder):
    keras_mixer_main("push", run_folder, "hf://me/tiny", "--license=cc0-1.0")
    card = hub.files("me/tiny")["README.md"].decode()
    assert "license: cc0-1.0" in card and "value: 0.9721" in card
    assert "| top-1 | 97.21% |" in card and "| test images | 359 |" in card
    assert '"epochs": 16' in card and "`folder:flowers`" in card
    assert "](token_mixing.png)" in card
    assert "secret" not in card
    code = card.split("```python\n")[1].split("```")[0]
    load = code.split("\nimage = ")[0]
    found = {}
    exec(load, found)
    assert found["model"].output_shape == (None, CLASSES)


def test_config_is_what_timm_reads(hub, tmp_path):
    model = randomize(keras_mixer.MlpMixerS32(classes=2, input_shape=(64, 64, 3)))
    model.save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("cat\ndog")
    result = keras_mixer_main("push", tmp_path, "hf://me/s32")
    assert result.returncode == 0, result.stderr
    config = json.loads(hub.files("me/s32")["config.json"])
    # timm 1.0.31, models/_hub.py: save_config_for_hf and load_model_config_from_hf.
    assert config["architecture"] == "mixer_s32_224"
    assert config["num_classes"] == 2 and config["label_names"] == ["cat", "dog"]
    assert config["model_args"] == {"img_size": 64}
    given = config["pretrained_cfg"]
    assert given["input_size"] == [3, 64, 64] and given["mean"] == [0.5, 0.5, 0.5]
    assert given["crop_pct"] == 0.875 and given["num_classes"] == 2


def test_what_was_pushed_predicts_the_same(hub):
    pushed = keras_mixer_main(
        *("push", "MlpMixerNano4", "--weights=cifar10", "hf://me/nano", "--private")
    )
    assert pushed.returncode == 0, pushed.stderr
    assert hub.repositories["me/nano"]["private"]
    card = hub.files("me/nano")["README.md"].decode()
    top1 = ENTRIES["MlpMixerNano4", "cifar10"].top1
    assert "license: apache-2.0" in card and f"{top1:.2f} % top-1 on cifar10" in card
    answers = [
        json.loads(keras_mixer_main("predict", PHOTO, "--json", *model).stdout)
        for model in (
            ("--model=MlpMixerNano4", "--weights=cifar10"),
            ("--model=MlpMixerNano4", "--weights=hf://me/nano"),
            ("--model=hf://me/nano",),
        )
    ]
    assert answers[0] == answers[1] == answers[2]


def test_a_token_that_may_not_write_is_told_so(hub, run_folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    refused = keras_mixer_main("push", run_folder, "hf://me/other")
    assert refused.returncode == 1 and hub.repositories == {}
    assert refused.stderr.splitlines()[-1].startswith("keras-mixer: The hub must let")
    assert "HF_TOKEN" in refused.stderr


@pytest.mark.slow
def test_the_program_asks_the_hub_of_the_librarys_variables(hub, run_folder, tmp_path):
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "other")}
    pushed = subprocess.run(
        [PROGRAM, "push", run_folder, "hf://me/tiny"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "HF_HUB_DISABLE_XET": "1"},
    )
    assert pushed.returncode == 0, pushed.stderr
    assert "me/tiny" in hub.repositories


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["only.keras"], "push takes a model and a repository"),
        (["MlpMixerNano4", "hf://me/nano"], "without weights is random"),
        (["MlpMixerNano4", "me/nano"], "is named as hf://org/repo"),
        (["gone.keras", "hf://me/nano"], "The model must be one of"),
    ],
)
def test_what_cannot_be_pushed_is_refused_in_a_line(hub, arguments, words):
    result = keras_mixer_main("push", *arguments)
    assert result.returncode == 1 and words in result.stderr
    assert result.stderr.count("\n") == 1
    assert hub.requests == []


def test_a_damaged_report_and_a_model_without_a_head_are_refused(hub, run_folder):
    (run_folder / "report.json").write_text("[]")
    result = keras_mixer_main("push", run_folder, "hf://me/tiny")
    assert "A report must be as a training run left it" in result.stderr
    build_tiny(include_top=False, classes=None).save(run_folder / "model.keras")
    result = keras_mixer_main("push", run_folder, "hf://me/tiny")
    assert "an MLP-Mixer from square images to classes" in result.stderr
    assert hub.repositories == {}
