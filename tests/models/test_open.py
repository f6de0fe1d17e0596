"""Models by name, file and folder; files of strangers among them."""

import io
import json
import shutil
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
from tiny import CLASSES, IMAGE_SIZE, build_tiny, randomize

from keras_mixer.models import default_labels, open_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    randomize(build_tiny(dropout_rate=0.1, stochastic_depth_rate=0.1)).save(path)
    return path


@pytest.fixture
def path(saved, tmp_path):
    return shutil.copy(saved, tmp_path / "model.keras")


def rewritten(path, *, config=None, compression=zipfile.ZIP_STORED, **members):
    """Write the `.keras` file anew with another configuration or other members."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    if config:
        before = json.loads(contents["config.json"])
        after = config(before)
        after = before if after is None else after
        contents["config.json"] = json.dumps(after).encode()
    contents |= {name.replace("__", "."): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def layer(config, name):
    return next(
        item for item in config["config"]["layers"] if item["config"]["name"] == name
    )


def test_a_file_a_folder_and_a_name_give_the_model(path, images):
    expected = keras.models.load_model(path)(images)
    for model in (path, str(path), path.parent, str(path.parent)):
        np.testing.assert_array_equal(open_model(model)(images), expected)
    nano = open_model("MlpMixerNano4", "cifar10")
    assert (nano.name, nano.count_params()) == ("MlpMixerNano4", 1_132_170)


def test_labels_are_the_tags_the_runs_or_imagenets(path):
    assert default_labels(path.parent, None, 3) is default_labels(path, None, 3) is None
    assert default_labels(path, None, 21843) == "imagenet"
    path.with_name("labels.txt").write_text("cat")
    for model in (path, path.parent):
        assert default_labels(model, "cifar10", 1000) == path.with_name("labels.txt")
    assert default_labels("MlpMixerNano4", "cifar10", 10) == "cifar10"
    assert default_labels("MlpMixerB16", "b16.npz", 1000) == "imagenet"
    assert default_labels("MlpMixerB16", "b16.npz", 10) is None


@pytest.mark.parametrize("name", ["MlpMixer", "nowhere.keras", "", "."])
def test_what_is_no_model_is_answered_with_what_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"MlpMixerS32, .*folder of a training run"):
        open_model(name)


def test_a_users_own_model_around_a_mixer_opens(tmp_path, images):
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = build_tiny(include_top=False, pooling="avg")(x)
    x = keras.layers.Dense(8, "gelu", kernel_regularizer="l2")(x)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, np.array([0, 1, 2]), verbose=0)
    model.save(tmp_path / "own.keras")
    again = open_model(tmp_path / "own.keras").predict(images, verbose=0)
    np.testing.assert_array_equal(again, model.predict(images, verbose=0))


@pytest.mark.parametrize(
    "described",
    [
        {"module": "keras.layers", "class_name": "TFSMLayer"},
        {"module": "keras.layers", "class_name": "Lambda"},
        {"module": "keras.layers", "class_name": "StringLookup"},
        {"module": "keras.layers", "class_name": "UpSampling2D"},
        {"module": "os", "class_name": "function", "config": "system"},
        {"module": "keras.initializers", "class_name": "function", "config": "get"},
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "registered_name": "other>Dense",
        },
        {"module": "x", "class_name": "L", "registered_name": "keras_mixer>L"},
        {"module": "x", "class_name": "L", "registered_name": "other>L"},
        {"class_name": "__lambda__", "config": {"value": ["a", None, None]}},
        {"class_name": "__numpy__", "config": {"value": [1], "dtype": "f4"}},
    ],
    ids=lambda d: d["class_name"],
)
@pytest.mark.parametrize("where", ["layer", "inside"])
def test_layers_that_are_not_known_are_refused(path, described, where):
    def config(model):
        described.setdefault("config", {"name": "x"})
        if where == "layer":
            model["config"]["layers"][2].update({"registered_name": None, **described})
        else:
            layer(model, "head")["config"]["kernel_initializer"] = described

    rewritten(path, config=config)
    with pytest.raises(ValueError, match=r"may have the layers of keras_mixer.*Receiv"):
        open_model(path)


def huge(name, key, value):
    def config(model):
        layer(model, name)["config"][key] = value

    return config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (huge("head", "units", 2**40), "hold the weights of its model"),
        (huge("stem", "hidden_dim", 10**8), "hold the weights|cannot be loaded"),
        (huge("block0_token_mixing", "mlp_dim", 10**9), "hold the weights"),
        (huge("images", "batch_shape", [None, 10**6, 10**6, 3]), "cannot|at most"),
        (huge("preprocessing", "std", [0, 0, 0]), "std of weights must be"),
        (huge("preprocessing", "mean", [float("nan")] * 3), "mean of weights must"),
        (huge("preprocessing", "mean", None), "mean of weights must be"),
        (huge("preprocessing", "crop_ratio", 0), "crop_ratio of weights must"),
        (huge("preprocessing", "crop_ratio", 10**400), "crop_ratio of weights must"),
        (lambda model: [], "cannot be loaded"),
        (lambda model: "text", "cannot be loaded"),
        (lambda model: {}, "cannot be loaded"),
        (lambda model: {**model, "config": None}, "cannot be loaded"),
    ],
)
def test_models_that_cannot_be_are_refused(path, config, words):
    rewritten(path, config=config)
    with pytest.raises(ValueError, match=words) as error:
        open_model(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def deep(path):
    return rewritten(path, config__json=b"[" * 100_000)


def holes(path):
    """A weights file that declares a gigabyte and holds none of it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("layers/dense/vars/0", (2**14, 2**14), "f4", chunks=True)
    return rewritten(path, **{"model.weights__h5": buffer.getvalue()})


def deflated_hole(path):
    return rewritten(
        path,
        compression=zipfile.ZIP_DEFLATED,
        **{"model.weights__h5": b"\x89HDF\r\n\x1a\n" + bytes(64 << 20)},
    )


def other_numbers(path):
    """One bit of one weight, which no HDF5 checksum covers."""
    data = bytearray(path.read_bytes())
    value = keras.models.load_model(path).get_layer("head").kernel.numpy().tobytes()
    data[data.index(value) + 2] ^= 0x40
    path.write_bytes(data)


def not_finite(path):
    model = keras.models.load_model(path)
    model.get_layer("head").bias.assign(np.full(CLASSES, np.nan))
    model.save(path)


DAMAGE = {
    "deep": (deep, "cannot be loaded"),
    "holes": (holes, "holds its tensors itself, in full"),
    "deflated hole": (deflated_hole, "weights are not compressed"),
    "more members": (
        lambda path: rewritten(path, **{"assets/x": b""}),
        "as model.save writes it",
    ),
    "long config": (
        lambda path: rewritten(path, config__json=b" " * (2 << 20)),
        "as model.save writes it",
    ),
    "other numbers": (other_numbers, "length and checksum"),
    "not finite": (not_finite, "Weights must be finite"),
    "no zip": (lambda path: path.write_bytes(b"text"), "cut off or corrupted"),
    "empty": (lambda path: path.write_bytes(b""), "cut off or corrupted"),
    "no numbers": (
        lambda path: rewritten(path, **{"model.weights__h5": struct.pack("8x")}),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_one_line(path, damage):
    make, words = DAMAGE[damage]
    make(path)
    with pytest.raises(ValueError, match=words) as error:
        open_model(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("cut", [0.01, 0.5, 0.99])
def test_files_cut_short_are_refused(path, cut):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ValueError, match="cut off or corrupted"):
        open_model(path)
