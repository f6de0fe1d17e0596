"""`export_saved_model`: what lies beside the graph, versions, and precision."""

import hashlib
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving_support import (
    IMAGE_SIZE,
    LABELS,
    crops,
    random_model,
    run_signature,
    signatures_of,
)
from tensorflow_serving.apis import prediction_log_pb2

from keras_mixer.serving import classifier, export, verification, warm_up


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def version(exported):
    return exported / "1"


def test_export_saved_model_writes_labels(version):
    assert (version / "assets" / "labels.txt").read_text().splitlines() == LABELS


def test_labels_are_of_a_file_or_a_tag(tmp_path, model):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    from_file = classifier.classifier_of(model, path, None)
    assert from_file.labels == tuple(LABELS)
    ten = random_model(classes=10)
    from_tag = classifier.classifier_of(ten, "cifar10", None)
    assert from_tag.labels[:3] == ("airplane", "automobile", "bird")
    large = random_model(classes=1000)
    imagenet = classifier.classifier_of(large, "imagenet", None)
    assert imagenet.labels[285] == "Egyptian_cat"


def test_export_saved_model_says_what_it_was(version, model):
    card = json.loads((version / "keras_mixer.json").read_text())
    # Of the weights that were given, whatever the export does to them.
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.asarray(variable).tobytes())
    assert card["weights"].pop("sha256") == digest.hexdigest()
    assert card["weights"] == {"tag": None}
    assert card["versions"].keys() == {"keras-mixer", "keras", "tensorflow", "python"}
    assert card["versions"]["tensorflow"] == tf.__version__
    del card["versions"], card["created"]
    assert card == {
        "model": "mlp_mixer",
        "parameters": model.count_params(),
        "precision": "float32",
        "image_size": IMAGE_SIZE,
        "preprocessing": {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "crop_ratio": 0.875,
        },
        "classes": 7,
        "weights": {"tag": None},
        "top_k": 3,
        "signatures": ["classify", "features", "images", "serving_default"],
    }


def test_export_saved_model_writes_warm_up_requests(version):
    loaded = signatures_of(version)
    path = str(version / warm_up.RECORDS)
    seen = set()
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        ((name, tensor),) = request.inputs.items()
        value = tf.make_ndarray(tensor)
        signature = loaded[request.model_spec.signature_name]
        answer = run_signature(signature, **{name: value})
        assert answer.get("valid", np.True_).all()
        assert answer.get("scores", np.ones(1)).any()
        seen.add((request.model_spec.signature_name, len(value)))
    assert seen == {
        (name, size)
        for name in ("serving_default", "images", "classify", "features")
        for size in (1, 2, 4, 8, 16, 32)
    }
    # Also for large images: a record is a file, not the pixels.
    assert os.path.getsize(path) < 1_000_000


def test_export_saved_model_keeps_versions(tmp_path, model):
    for name in ("1", "8"):
        (tmp_path / name).mkdir()
    assert export.export_saved_model(model, tmp_path, keep=2) == tmp_path / "9"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["8", "9"]


def test_export_saved_model_publishes_nothing_that_fails(tmp_path, monkeypatch):
    model = random_model()
    save = tf.saved_model.save

    def save_and_change(module, *args, **kwargs):
        # As if the file of a variable were not the variable's.
        save(module, *args, **kwargs)
        (kernel,) = (v for v in module.model_variables if v.shape == (16, 7))
        kernel.assign_add(np.full((16, 7), np.arange(7.0)))

    monkeypatch.setattr(tf.saved_model, "save", save_and_change)
    with pytest.raises(ValueError, match=r"answer as the model in memory.*differs"):
        export.export_saved_model(model, tmp_path, verify=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"scores": np.float32([[0.5, 0.500009]])}, None),
        ({"scores": np.float32([[0.5, 0.6]])}, "a/scores differs by 0.1"),
        ({"scores": np.float32([[0.5, np.nan]])}, "a/scores differs by nan"),
        ({"scores": np.float32([0.5])}, "a/scores has the shape (1,), not (1, 2)"),
        ({"labels": np.array([b"cat", b"ox"], object)}, "a/labels differs"),
        ({"classes": np.int64([1, 2])}, "it answers ['a/classes', 'a/labels', 'a/sc"),
    ],
)
def test_what_differs_is_named(changed, words):
    labels = np.array([b"cat", b"dog"], object)
    expected = {"a/scores": np.float32([[0.5, 0.5]]), "a/labels": labels}
    answers = expected | {f"a/{name}": value for name, value in changed.items()}
    found = verification.difference(answers, expected)
    assert found is None if words is None else found.startswith(words)


def test_export_saved_model_stores_bfloat16(tmp_path, model, files, exported):
    path = export.export_saved_model(model, tmp_path, top_k=3, precision="bfloat16")
    paths = {"float32": exported / "1", "bfloat16": path}
    reader = tf.train.load_checkpoint(str(paths["bfloat16"] / "variables/variables"))
    dtypes = [
        dtype
        for name, dtype in reader.get_variable_to_dtype_map().items()
        if name.startswith("model_variables")
    ]
    # The stem, and the 4 Dense and 2 normalisation layers of each of 2 blocks, with 2
    # variables each; not the last normalisation and the head.
    assert dtypes.count(tf.bfloat16) == 26
    assert dtypes.count(tf.float32) == len(dtypes) - 26 == 4
    answers = {}
    for precision, path in paths.items():
        signature = signatures_of(path)["serving_default"]
        answers[precision] = run_signature(signature, image_bytes=list(files.values()))
        assert answers[precision]["top_k_scores"].dtype == np.float32
    difference = (
        answers["bfloat16"]["top_k_scores"] - answers["float32"]["top_k_scores"]
    )
    assert 0 < np.abs(difference).max() < 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_export_saved_model_of_a_mixed_precision_model(
    tmp_path, policy, files, precision
):
    policy("mixed_bfloat16")
    mixed = random_model()
    policy("float32")
    path = export.export_saved_model(mixed, tmp_path, precision=precision)
    images = crops(files.values())
    answer = run_signature(signatures_of(path)["images"], images=images)
    reference = mixed if precision == "bfloat16" else random_model()
    expected = reference.predict(images, verbose=0)
    # Normalisation in bfloat16 rounds elsewhere than Keras' mixed precision does.
    tolerance = {"bfloat16": 0.03, "float32": 1e-5}[precision]
    np.testing.assert_allclose(answer["probabilities"], expected, atol=tolerance)


def test_export_saved_model_of_a_model_around_a_mixer(tmp_path, files):
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    backbone = random_model(include_top=False, pooling="avg")
    outputs = keras.layers.Dense(5, activation="softmax")(backbone(inputs))
    model = keras.Model(inputs, outputs)
    path = export.export_saved_model(model, tmp_path, precision="bfloat16")
    answer = run_signature(
        signatures_of(path)["images"],
        images=crops(files.values()),
    )
    expected = model.predict(crops(files.values()), verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=0.05)
