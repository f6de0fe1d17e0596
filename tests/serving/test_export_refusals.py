"""`export_saved_model`: what it refuses, in which words."""

import keras
import pytest
from serving_support import LABELS, random_model

import keras_mixer
from keras_mixer.serving import export, publishing


@pytest.fixture(scope="module")
def model():
    return random_model()


REFUSED = {
    "labels too few": (
        {"labels": ["a", "b"]},
        r"name each class.*labels with 2 names, and a model of 7 classes",
    ),
    "imagenet labels": ({"labels": "imagenet"}, r"ImageNet comes with 1000.*: 7"),
    "labels file missing": ({"labels": "none.txt"}, r"labels must be a list, the path"),
    "label empty": ({"labels": [*LABELS[:-1], ""]}, r"not empty.*'' for class 6"),
    "top_k zero": ({"top_k": 0}, r"top_k must be from 1 .*top_k=0.*7 classes"),
    "top_k large": ({"top_k": 8}, r"top_k must be from 1 .*top_k=8.*7 classes"),
    "top_k real": ({"top_k": 2.5}, r"top_k must be an integer. Received: top_k=2.5"),
    "version": (
        {"version": 0},
        r"version must be a positive integer of at most 63 bits",
    ),
    "precision": ({"precision": "float16"}, r"one of float32, bfloat16.*'float16'"),
    "keep": ({"keep": 0}, r"keep must be a positive integer or None.*keep=0"),
    "batch sizes": ({"batch_sizes": (4, 2)}, r"ascend.*batch_sizes=\(4, 2\)"),
    "no batch sizes": ({"batch_sizes": ()}, r"ascend.*batch_sizes=\(\)"),
    "weights": (
        {"weights": "imagenet"},
        r"normalises its own input. Leave weights out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_export_saved_model_refuses(tmp_path, model, case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        export.export_saved_model(model, tmp_path / "m", **{"top_k": 3} | options)
    assert publishing.versions(tmp_path / "m") == {}


@pytest.mark.parametrize("name", ["mixer.onnx", "mixer.tflite", "mixer.xml"])
def test_export_saved_model_refuses_the_names_of_other_formats(tmp_path, model, name):
    with pytest.raises(ValueError, match=r"folder of a SavedModel's versions.*" + name):
        export.export_saved_model(model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_export_saved_model_refuses_a_quantized_model(tmp_path):
    quantized = random_model()
    quantized.quantize("int8")
    with pytest.raises(ValueError, match=r"as after model.quantize\(\). Export"):
        export.export_saved_model(quantized, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_export_saved_model_refuses_other_backends(tmp_path, model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"Received: the backend jax. Save the model"):
        export.export_saved_model(model, tmp_path / "m")


def test_export_saved_model_refuses_a_version_that_exists(tmp_path, model):
    (tmp_path / "7").mkdir()
    with pytest.raises(ValueError, match=r"never overwritten.*version=7"):
        export.export_saved_model(model, tmp_path, version=7)
    assert list(tmp_path.rglob("*")) == [tmp_path / "7"]


REFUSED_MODELS = {
    "no head": (
        {"include_top": False, "pooling": "avg"},
        r"last layer of model must be a classifier.*'pool'.*include_top=True",
    ),
    "tokens": ({"include_top": False}, r"outputs of shape \(batch, classes\)"),
    "sigmoid": (
        {"classifier_activation": "sigmoid"},
        r"'head' with activation sigmoid",
    ),
    "no preprocessing": (
        {"include_preprocessing": False},
        r"without a layer named `preprocessing`.*weights=\"imagenet\"",
    ),
}


@pytest.mark.parametrize("case", REFUSED_MODELS)
def test_export_saved_model_refuses_a_model(tmp_path, case):
    options, message = REFUSED_MODELS[case]
    with pytest.raises(ValueError, match=message):
        export.export_saved_model(random_model(**options), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_saved_model_refuses_oblong_images(tmp_path):
    model = keras_mixer.MlpMixer(4, 1, 4, 4, 8, input_shape=(16, 24, 3), classes=2)
    with pytest.raises(ValueError, match=r"squares.*16 x 24 pixels"):
        export.export_saved_model(model, tmp_path, top_k=1)


def test_export_saved_model_refuses_what_is_no_image_model(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"\(batch, height, width, 3\).*\(None, 5\)"):
        export.export_saved_model(model, tmp_path)


def test_export_saved_model_refuses_features_without_a_pool(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="without a layer named `preprocessing`"):
        export.export_saved_model(model, tmp_path, top_k=1)
    with pytest.raises(ValueError, match="outputs of the layer `pool`"):
        export.export_saved_model(
            model, tmp_path, top_k=1, features=True, weights="imagenet"
        )
