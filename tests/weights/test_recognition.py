"""What a .safetensors file given by its path was trained with."""

import json

import numpy as np
import pytest
from program import keras_mixer_main
from tiny import build_tiny, randomize

from keras_mixer import catalog, weights
from keras_mixer.catalog import HALF, MIIL
from keras_mixer.weights import formats

# As timm writes them beside model.safetensors: 1.0.31, models/_hub.py.
MIIL_CONFIG = {
    "architecture": "mixer_b16_224",
    "num_classes": 1000,
    "num_features": 768,
    "pretrained_cfg": {
        "tag": "miil_in21k_ft_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "num_classes": 1000,
        "classifier": "head",
    },
}
FLAT_CONFIG = {"architecture": "mixer_b16_224", **MIIL_CONFIG["pretrained_cfg"]}


@pytest.fixture
def timm_file(tmp_path):
    """A file as timm writes it, of tensors alone."""
    model = randomize(build_tiny())
    path = tmp_path / "model.safetensors"
    formats.write_checkpoint(path, weights.export_arrays(model, "timm"))
    return path


@pytest.mark.parametrize("config", [MIIL_CONFIG, FLAT_CONFIG], ids=["nested", "flat"])
def test_config_beside_the_file_decides(timm_file, config, capsys):
    timm_file.with_name("config.json").write_text(json.dumps(config))
    model = build_tiny(weights=timm_file)
    layer = model.get_layer("preprocessing")
    assert (layer.mean, layer.std) == (MIIL.mean, MIIL.std)
    assert layer.interpolation == "bilinear"
    assert capsys.readouterr().err == ""


def test_a_file_that_does_not_say_is_taken_as_usual_aloud(timm_file, capsys):
    # Such as a training run leaves beside what was ported from it.
    timm_file.with_name("config.json").write_text('{"model": "MlpMixerNano4"}')
    model = build_tiny(weights=timm_file)
    assert model.get_layer("preprocessing").mean == HALF.mean
    said = capsys.readouterr().err
    assert f"{timm_file} does not say how its pixels are normalised" in said
    assert "MIIL" in said and "config.json" in said


@pytest.mark.parametrize("classes", [11221, 21843])
def test_a_number_of_classes_that_one_publisher_has_decides(timm_file, classes, capsys):
    arrays = dict(formats.safetensors_file.read(timm_file))
    arrays["head.weight"] = np.zeros((classes, arrays["norm.bias"].size), "float32")
    arrays["head.bias"] = np.zeros(classes, "float32")
    formats.write_checkpoint(timm_file, arrays)
    source = weights.open_file(timm_file)
    assert source.transform == (MIIL if classes == 11221 else HALF)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("approximate_gelu", [False, True])
def test_what_was_written_here_comes_back_with_its_constants(
    tmp_path, images, approximate_gelu
):
    model = randomize(build_tiny(approximate_gelu=approximate_gelu))
    model.save_weights(tmp_path / "m.weights.h5")
    result = keras_mixer_main(
        "port", tmp_path / "m.weights.h5", tmp_path / "m.safetensors"
    )
    differ = "have it in its exact form: their logits differ a little"
    assert (differ in result.stdout) == approximate_gelu
    again = build_tiny(weights=tmp_path / "m.safetensors")
    assert again.get_layer("block0_token_mixing").approximate_gelu == approximate_gelu
    np.testing.assert_array_equal(again(images), model(images))


@pytest.mark.parametrize(
    "found, words",
    [
        ({"std": [1, 0, 1]}, r"std of weights must be three numbers in.*1, 0, 1"),
        ({"mean": [0.5]}, r"mean of weights must be three numbers"),
        ({"mean": [0, 0, float("nan")]}, r"mean of weights must be three numbers"),
        ({"interpolation": "nearest"}, r"must be bicubic or bilinear.*nearest"),
        ({"std": None}, r"std of weights must be three numbers in.*None"),
        ({"std": 1}, r"std of weights must be three numbers in.*Received: 1,"),
        ({"std": [[1, 1, 1]]}, r"std of weights must be three numbers"),
        ({"mean": [0, 0, 10**400]}, r"mean of weights must be three numbers"),
        ({"crop_pct": float("nan")}, r"crop_ratio of weights must be a number"),
        ({"crop_pct": 10**400}, r"crop_ratio of weights must be a number"),
        ({"crop_pct": 0}, r"crop_ratio of weights must be a number in \[0.01, 1\]"),
    ],
)
def test_an_impossible_config_is_refused(timm_file, found, words):
    config = {**MIIL_CONFIG, "pretrained_cfg": found}
    timm_file.with_name("config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        build_tiny(weights=timm_file)


@pytest.mark.parametrize(
    "text", ["<html>", "[]", '{"architecture": "mixer_b16", "pretrained_cfg": 1}']
)
def test_a_config_that_is_no_json_object_is_refused(timm_file, text):
    timm_file.with_name("config.json").write_text(text)
    with pytest.raises(ValueError, match=r"JSON object.*config\.json"):
        build_tiny(weights=timm_file)


def test_a_header_that_says_the_impossible_is_refused(timm_file):
    arrays = formats.safetensors_file.read(timm_file)
    for text, words in [
        ("[]", "JSON object"),
        ('{"approximate_gelu": 1}', "true or false"),
        ('{"std": null}', "three numbers"),
        ('{"crop_ratio": ' + "9" * 5000 + "}", "JSON object"),
        ('{"__class__": 1}', "left out"),
    ]:
        other = timm_file.with_name("other.safetensors")
        formats.write_checkpoint(other, arrays, {"keras_mixer": text})
        with pytest.raises(ValueError, match=words):
            weights.open_file(other)


def test_published_safetensors_of_1000_classes_differ():
    # Why a file of 1000 classes cannot be told by its shapes.
    transforms = {
        e.transform
        for e in catalog.list_weights()
        if (e.format, e.classes) == ("safetensors", 1000)
    }
    assert transforms == {HALF, MIIL}
