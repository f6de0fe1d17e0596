"""Files for other runtimes: each alone gives the model's numbers, in fused ops."""

import collections
import json
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from ai_edge_litert.interpreter import Interpreter
from serving_support import IMAGE_SIZE, LABELS, random_model

import keras_mixer
from keras_mixer.serving import portable, runtimes

SUFFIXES = (".onnx", ".xml", ".tflite")
each_runtime = pytest.mark.parametrize("suffix", SUFFIXES)

# As a user would, without this package: what the README says.
ALONE = """
import sys
import numpy as np
for name in ("keras", "keras_mixer", "tensorflow"):
    sys.modules[name] = None
_, path, folder = sys.argv
images = np.load(f"{folder}/images.npy")
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    answer = session.run(["probabilities"], {"images": images})[0]
elif path.endswith(".xml"):
    import openvino
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    answer = compiled({"images": images})["probabilities"]
else:
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(path)
    (images_,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(images_["index"], images.shape)
    run = interpreter.get_signature_runner()
    answer = run(images=images)["probabilities"]
np.save(f"{folder}/answer.npy", answer)
"""


def pixels(batch=3, size=IMAGE_SIZE):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (batch, size, size, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture
def folder(exported_files):
    return exported_files


def test_each_export_has_files_of_its_own(folder):
    names = ["m.bin"]
    for suffix in SUFFIXES:
        names += [f"m{suffix}", f"m{suffix}.keras_mixer.json", f"m{suffix}.labels.txt"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@each_runtime
def test_a_file_runs_by_its_runtime_alone(folder, model, suffix, tmp_path):
    np.save(tmp_path / "images.npy", pixels())
    subprocess.run(
        [sys.executable, "-c", ALONE, folder / f"m{suffix}", tmp_path], check=True
    )
    answer = np.load(tmp_path / "answer.npy")
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, model.predict(pixels()), atol=1e-5)


@each_runtime
def test_the_batch_is_of_any_size(folder, model, suffix):
    run = runtimes.load(folder / f"m{suffix}", threads=1)
    expected = model.predict(pixels(5))
    for batch in (2, 5, 1, 5):
        np.testing.assert_allclose(run(pixels(5)[:batch]), expected[:batch], atol=1e-5)


@each_runtime
def test_the_card_and_the_labels_say_what_it_is(folder, model, suffix):
    lines = (folder / f"m{suffix}.labels.txt").read_text(encoding="utf-8")
    assert lines.splitlines() == LABELS
    card = json.loads((folder / f"m{suffix}.keras_mixer.json").read_text())
    runtime = runtimes.RUNTIMES[runtimes.SUFFIXES[suffix]]
    versions = {"keras-mixer", "keras", "python", *runtime.PACKAGES}
    assert card["versions"].keys() == versions
    assert None not in {card["versions"][name] for name in runtime.PACKAGES}
    assert (card["precision"], card["image_size"]) == ("float32", IMAGE_SIZE)
    assert (card["classes"], card["parameters"]) == (7, model.count_params())
    assert card["preprocessing"]["crop_ratio"] == 0.875


@pytest.fixture(scope="module", params=["exact", "tanh"])
def flavour(request, exported_files, tmp_path_factory):
    """Whether GELU takes its tanh form, and a folder with exports of such a model."""
    if request.param == "exact":
        return False, exported_files
    folder = tmp_path_factory.mktemp("tanh")
    model = random_model(approximate_gelu=True)
    for suffix in SUFFIXES:
        keras_mixer.export_model(model, folder / f"m{suffix}", verify=False)
    return True, folder


def test_onnx_runtime_fuses_norms_and_gelus(flavour, tmp_path):
    approximate, folder = flavour
    written = onnx.load(folder / "m.onnx")
    assert {node.domain for node in written.graph.node} == {""}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(folder / "m.onnx"), options)
    optimized = onnx.load(tmp_path / "optimized.onnx")
    ops = collections.Counter(node.op_type for node in optimized.graph.node)
    assert ops["LayerNormalization"] == 5
    assert ops["FastGelu" if approximate else "Gelu"] == 4
    assert not {"Erf", "Tanh", "Pow", "Sqrt"} & ops.keys()


def test_openvino_has_norms_and_gelus(flavour):
    approximate, folder = flavour
    read = openvino.Core().read_model(folder / "m.xml")
    ops = collections.Counter(op.get_type_name() for op in read.get_ops())
    assert (ops["MVN"], ops["Gelu"]) == (5, 4)
    gelu = next(op for op in read.get_ops() if op.get_type_name() == "Gelu")
    form = gelu.get_attributes()["approximation_mode"]
    assert form == ("TANH" if approximate else "ERF")
    types = {op.get_output_element_type(0) for op in read.get_ops()}
    assert openvino.Type.f32 in types
    assert openvino.Type.f16 not in types


def test_litert_has_gelus(flavour):
    _, folder = flavour
    interpreter = Interpreter(str(folder / "m.tflite"))
    ops = collections.Counter(op["op_name"] for op in interpreter._get_ops_details())
    assert (ops["GELU"], ops["FULLY_CONNECTED"]) == (4, 10)
    assert not {"ERF", "TANH", "CUSTOM"} & ops.keys()


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_is_the_form_that_was_asked_for(approximate):
    x = np.linspace(-6, 6, 1001, dtype="float32")
    expected = keras.ops.gelu(x, approximate=approximate)
    np.testing.assert_allclose(portable.gelu(x, approximate), expected, atol=1e-6)
    other = keras.ops.gelu(x, approximate=not approximate)
    assert np.abs(portable.gelu(x, approximate) - other).max() > 1e-4
