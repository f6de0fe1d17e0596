"""What cannot be exported for a runtime is refused before a file appears."""

import keras
import numpy as np
import pytest
from program import keras_mixer_main
from serving_support import IMAGE_SIZE, LABELS, random_model

import keras_mixer
from keras_mixer.serving import runtimes, verification
from keras_mixer.serving.runtimes import litert_runtime, onnx_runtime

SUFFIXES = (".onnx", ".xml", ".tflite")


@pytest.fixture(scope="module")
def model():
    return random_model()


def pixels():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (2, IMAGE_SIZE, IMAGE_SIZE, 3)).astype("float32")


def under(policy, **options):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return random_model(**options)
    finally:
        keras.config.set_dtype_policy(before)


def of_ones_own():
    """A Mixer in a model with layers, a GELU and a norm of Keras around it."""
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = random_model(include_top=False, pooling="avg")(x)
    x = keras.layers.Dense(8, "gelu")(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    return keras.Model(inputs, keras.layers.Dense(7, "softmax")(x))


def nested():
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    return keras.Model(inputs, random_model()(inputs))


def normalised_outside():
    """A model without `preprocessing`, and the pixels that it takes."""
    return random_model(include_preprocessing=False)


EXPORTED = {
    "mixed precision": (lambda: under("mixed_bfloat16"), random_model, {}),
    "a model of one's own": (of_ones_own, None, {}),
    "nested": (nested, None, {}),
    "logits": (
        lambda: random_model(classifier_activation=None),
        random_model,
        {},
    ),
    "no preprocessing": (normalised_outside, random_model, {"weights": "imagenet"}),
    "many classes": (
        lambda: random_model(classes=21843),
        None,
        {"labels": "imagenet"},
    ),
}


# What comes before a runtime's own part is the same: each kind by one of them.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "suffix"), [*zip(EXPORTED, 2 * SUFFIXES, strict=True)]
)
def test_models_of_every_kind_are_exported_right(tmp_path, case, suffix):
    build, stands_for, options = EXPORTED[case]
    model = build()
    path = keras_mixer.export_model(model, tmp_path / f"m{suffix}", **options)
    expected = (stands_for() if stands_for else model).predict(pixels(), verbose=0)
    answer = runtimes.load(path)(pixels())
    assert answer.shape == expected.shape
    np.testing.assert_allclose(answer, expected, atol=1e-5)


REFUSED = {
    "no head": (
        lambda: random_model(include_top=False, pooling="avg"),
        {},
        r"'pool' with activation None. Build it with include_top=True",
    ),
    "sigmoid": (
        lambda: random_model(classifier_activation="sigmoid"),
        {},
        r"'head' with activation sigmoid",
    ),
    "no preprocessing": (
        normalised_outside,
        {},
        r"without a layer named `preprocessing`.*weights=\"imagenet\"",
    ),
    "too few labels": (
        random_model,
        {"labels": ["cat"]},
        r"with 1 names, and a model of 7",
    ),
    "precision": (random_model, {"precision": "float16"}, r"precision must be one of"),
    "format": (random_model, {"format": "pmml"}, r"one of onnx, openvino, litert"),
    "another suffix": (random_model, {"format": "litert"}, r"litert ends in .tflite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused(tmp_path, case):
    build, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        keras_mixer.export_model(build(), tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_quantized_model_is_refused(tmp_path):
    quantized = random_model()
    quantized.quantize("int8")
    with pytest.raises(ValueError, match=r"after model.quantize\(\)"):
        keras_mixer.export_model(quantized, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quick(monkeypatch):
    """Write a word in the place of each file: converting is not the point."""

    def write(model, path, precision, images):
        path.write_text("new")

    for runtime in runtimes.RUNTIMES.values():
        monkeypatch.setattr(runtime, "write", write)


def test_a_path_has_to_say_its_format(tmp_path, model, quick):
    with pytest.raises(ValueError, match=r"end in one of .onnx, .xml, .tflite, or for"):
        keras_mixer.export_model(model, tmp_path / "mixer")
    with pytest.raises(ValueError, match=r"folder that exists.*none/m.onnx"):
        keras_mixer.export_model(model, tmp_path / "none" / "m.onnx")
    path = keras_mixer.export_model(
        model, tmp_path / "mixer-1.0", format="onnx", verify=False
    )
    assert path == tmp_path / "mixer-1.0.onnx"
    assert path.is_file()


def test_files_are_replaced_only_when_told(tmp_path, model, quick):
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"only when told so.*m.onnx'.*overwrite=True"):
        keras_mixer.export_model(model, path, verify=False)
    assert path.read_text() == "mine"
    keras_mixer.export_model(model, path, verify=False, overwrite=True)
    assert path.read_text() == "new"
    # Nor is one beside it.
    (tmp_path / "n.onnx.labels.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"n.onnx.labels.txt', which exists"):
        keras_mixer.export_model(model, tmp_path / "n.onnx", verify=False)
    assert not (tmp_path / "n.onnx").exists()
    assert (tmp_path / "n.onnx.labels.txt").read_text() == "mine"


def test_another_backend_is_refused(tmp_path, model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"backend jax. Save the model as a .keras"):
        keras_mixer.export_model(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_what_is_not_installed_is_named_with_its_extra(tmp_path, model, monkeypatch):
    writers = {"float32": ("onnx", "no_such_module")}
    monkeypatch.setattr(onnx_runtime, "WRITERS", writers)
    with pytest.raises(ImportError, match=r"pip install keras-mixer\[runtimes\]"):
        keras_mixer.export_model(model, tmp_path / "m.onnx")
    monkeypatch.setattr(litert_runtime, "RUNTIME", "no_such_module")
    with pytest.raises(ImportError, match=r"`runtimes`.*no_such_module"):
        keras_mixer.export_model(model, tmp_path / "m.tflite", verify=True)
    assert list(tmp_path.iterdir()) == []
    # Written all the same, by TensorFlow, and not verified.
    path = keras_mixer.export_model(model, tmp_path / "m.tflite")
    with pytest.raises(ImportError, match=r".tflite files need the extra `runtimes`"):
        runtimes.load(path)


def test_a_file_that_answers_otherwise_does_not_appear(tmp_path, model, monkeypatch):
    write = onnx_runtime.write

    def write_another(model, *others):
        (mixer,) = [x for x in model.layers if isinstance(x, keras.Model)]
        mixer.get_layer("head").bias.assign_add([0.001] + [0] * 6)
        write(model, *others)

    monkeypatch.setattr(onnx_runtime, "write", write_another)
    with pytest.raises(ValueError, match=r"by its runtime alone. Received: a probabil"):
        keras_mixer.export_model(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_a_runtime_lacks_is_said(tmp_path):
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    x = keras.ops.fft2((inputs, keras.ops.zeros_like(inputs)))[0]
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    with pytest.raises(ValueError, match=r"operations that LiteRT has. Received"):
        keras_mixer.export_model(model, tmp_path / "m.tflite", weights="imagenet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_loaded_fails_verification(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"junk")
    with pytest.raises(
        ValueError, match=r"loaded by its runtime alone. Received: .*m."
    ):
        verification.verify_file(
            onnx_runtime.__file__,
            tmp_path / "m.onnx",
            pixels(),
            np.ones((2, 7)) / 7,
            "float32",
        )


def test_the_program_exports_files(tmp_path, model):
    model.save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    export = ("export", tmp_path / "model.keras", tmp_path / "m.onnx")
    finished = keras_mixer_main(*export)
    assert finished.returncode == 0, finished.stderr
    *progress, load, path = finished.stdout.splitlines()
    assert path == str(tmp_path / "m.onnx")
    assert load == f"Load it by onnxruntime.InferenceSession('{path}')"
    words = [line.split()[0] for line in progress]
    assert words == ["Converting", "Verifying", "Verified:"]
    lines = (tmp_path / "m.onnx.labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == LABELS
    for arguments, words in [
        ([*export], "replaced only when told so"),
        ([*export, "--top_k=2"], "--top_k is for a SavedModel"),
        ([*export[:2], tmp_path / "m", "--overwrite"], "--overwrite is for a file"),
        ([*export[:2], tmp_path / "m.pb"], "the name of a file"),
        ([*export, "--format=litert"], "litert ends in .tflite"),
    ]:
        refused = keras_mixer_main(*arguments)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert words in refused.stderr
