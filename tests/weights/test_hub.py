"""`weights="hf://org/repo"`, from a hub on the loopback interface."""

import json

import hub_server
import numpy as np
import pytest
from test_recognition import MIIL_CONFIG
from tiny import CLASSES, build_tiny, randomize

from keras_mixer import models, weights
from keras_mixer.catalog import MIIL

NAMES = [f"n{number:08}" for number in range(CLASSES)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with timm/mixer, laid out as timm's repositories, in two revisions."""
    path = tmp_path / "model.safetensors"
    with (
        hub_server.serving() as server,
        hub_server.library_asks(monkeypatch, server.url, tmp_path),
    ):
        for seed, branch in [(0, "first"), (1, "main")]:
            arrays = weights.export_arrays(randomize(build_tiny(), seed), "timm")
            weights.write_checkpoint(path, arrays)
            files = {"config.json": _json(MIIL_CONFIG), path.name: path.read_bytes()}
            files["README.md"] = files["pytorch_model.bin"] = b"not asked for"
            server.put("timm/mixer", files, branch)
        yield server


def _json(config):
    return json.dumps(config).encode()


def values(model):
    return [variable.numpy() for variable in model.weights]


def test_timms_layout_gives_its_weights_and_miils_normalisation(hub, capsys):
    model = build_tiny(weights="hf://timm/mixer")
    for mine, theirs in zip(
        values(model), values(randomize(build_tiny(), 1)), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    layer = model.get_layer("preprocessing")
    assert (layer.mean, layer.std) == (MIIL.mean, MIIL.std)
    assert layer.interpolation == "bilinear"
    assert "normalised" not in capsys.readouterr().err
    assert not [path for _, path in hub.requests if path.endswith((".md", ".bin"))]


def test_a_revision_is_a_branch_or_a_commit(hub):
    first = values(randomize(build_tiny(), 0))
    commit = hub.repositories["timm/mixer"]["branches"]["first"]
    for revision in ("first", commit):
        model = build_tiny(weights=f"hf://timm/mixer@{revision}")
        np.testing.assert_array_equal(values(model)[0], first[0])


def test_labels_come_from_config_and_else_from_imagenet(hub):
    labels_of = models.default_labels
    assert labels_of("MlpMixerB16", "hf://timm/mixer", 1000) == "imagenet"
    described = {**MIIL_CONFIG, "label_names": NAMES}
    described["label_descriptions"] = {NAMES[3]: "tench, Tinca tinca"}
    files = {**hub.files("timm/mixer"), "config.json": _json(described)}
    hub.put("timm/mixer", files)
    found = labels_of("MlpMixerB16", "hf://timm/mixer", CLASSES)
    assert found[2:4] == [(NAMES[2], NAMES[2]), (NAMES[3], "tench, Tinca tinca")]


def test_what_was_fetched_is_read_without_a_network(hub, tmp_path, monkeypatch):
    build_tiny(weights="hf://timm/mixer")
    nowhere = "http://127.0.0.1:1"
    with hub_server.library_asks(monkeypatch, nowhere, tmp_path):
        build_tiny(weights="hf://timm/mixer")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        build_tiny(weights="hf://timm/mixer")
        with pytest.raises(ValueError, match=r"Cannot reach hf://timm/other: .*cache"):
            build_tiny(weights="hf://timm/other")


def test_a_private_repository_wants_the_librarys_token(hub, monkeypatch):
    hub.put("me/mine", hub.files("timm/mixer"), private=True)
    with pytest.raises(weights.DownloadError, match=r"not there, or private.*HF_TOKEN"):
        build_tiny(weights="hf://me/mine")
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    build_tiny(weights="hf://me/mine")


def test_an_unknown_revision_is_named(hub):
    with pytest.raises(ValueError, match=r"A revision is.*hf://timm/mixer@v9"):
        build_tiny(weights="hf://timm/mixer@v9")


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": _json({**MIIL_CONFIG, "architecture": "resnet50"})},
        {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"1"},
        {"config.json": _json(MIIL_CONFIG)},
        {"model.safetensors": b"1"},
        {},
    ],
)
def test_a_repository_without_a_mixer_is_refused_before_its_weights(hub, files):
    hub.put("me/other", files)
    with pytest.raises(ValueError, match=r"holds an MLP-Mixer's.*hf://me/other, which"):
        build_tiny(weights="hf://me/other")
    fetched = [path for verb, path in hub.requests if verb == "GET" and "other" in path]
    assert not [path for path in fetched if path.endswith(".safetensors")]


@pytest.mark.parametrize(
    "config, words",
    [
        (b"[" * 100_000, "must be a JSON object"),
        (b'{"architecture": "mixer_x", "a": "' + b"a" * (8 << 20), "has at most"),
        (_json({**MIIL_CONFIG, "pretrained_cfg": {"mean": "0"}}), "mean of weights"),
        (_json({**MIIL_CONFIG, "pretrained_cfg": {"mean": [9] * 3}}), "mean of weig"),
        (_json({**MIIL_CONFIG, "pretrained_cfg": []}), "must be a JSON object"),
    ],
    ids=["deep", "huge", "a text", "out of range", "a list"],
)
def test_a_malicious_config_is_refused_in_words(hub, config, words):
    hub.put("me/evil", {**hub.files("timm/mixer"), "config.json": config})
    with pytest.raises(ValueError, match=words):
        build_tiny(weights="hf://me/evil")


@pytest.mark.parametrize(
    "told",
    [
        {"label_names": 7},
        {"label_names": "names"},
        {"label_names": [1, 2]},
        {"label_names": {"0": "a", "2": "b"}},
        {"label_names": ["a\x1b[2J"]},
        {"label_names": ["a\nb"]},
        {"label_names": ["a"], "label_descriptions": {"a": ["b"]}},
        {"label_names": ["a"], "label_descriptions": ["b"]},
    ],
)
def test_malicious_labels_are_refused_in_words(hub, told):
    config = _json({**MIIL_CONFIG, **told})
    hub.put("me/evil", {**hub.files("timm/mixer"), "config.json": config})
    with pytest.raises(ValueError, match="label_names must be a list of names"):
        models.default_labels("MlpMixerB16", "hf://me/evil", 1)


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://mixer",
        "hf://a/b/c",
        "hf://../b",
        "hf://a/..",
        "hf://a/b@../../x",
        "hf://a/b@/etc",
        "hf://a/b@",
        "hf://a/b?x=1",
        "hf://a/b\n",
    ],
)
def test_an_address_that_escapes_or_is_none_asks_nobody(hub, address):
    with pytest.raises(ValueError, match="is named as hf://org/repo"):
        build_tiny(weights=address)
    assert hub.requests == []


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install keras-mixer\[hub\]"):
        build_tiny(weights="hf://timm/mixer")
