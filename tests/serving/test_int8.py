"""Files in int8: by their runtimes alone, as good as float32, or refused in words."""

import collections
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from program import keras_mixer_main
from serving_support import random_model

import keras_mixer
from keras_mixer.models import open_model
from keras_mixer.serving import runtimes, verification
from keras_mixer.serving.classifier import classifier_of
from keras_mixer.serving.runtimes import calibration

SUFFIXES = (".onnx", ".xml", ".tflite")
each_runtime = pytest.mark.parametrize("suffix", SUFFIXES)

ALONE = """
import runpy, sys
import numpy as np
for name in ("keras", "keras_mixer", "tensorflow"):
    sys.modules[name] = None
_, runtime, model, images = sys.argv
np.save(f"{model}.npy", runpy.run_path(runtime)["load"](model)(np.load(images)))
"""


@pytest.fixture(scope="module")
def nano():
    return keras_mixer.MlpMixerNano4(weights="cifar10")


@pytest.fixture(scope="module")
def folder(nano, tmp_path_factory):
    """Nano4 in int8 in every format, and photographs that nothing was measured on."""
    from skimage import data

    folder = tmp_path_factory.mktemp("int8")
    for suffix in SUFFIXES:
        keras_mixer.export_model(nano, folder / f"m{suffix}", precision="int8")
    tiles = [
        photograph[top : top + 64 : 2, left : left + 64 : 2]
        for photograph in (data.astronaut(), data.chelsea(), data.coffee())
        for top in range(0, 236, 48)
        for left in range(0, 386, 48)
    ]
    np.save(folder / "images.npy", np.stack(tiles).astype("float32"))
    return folder


@pytest.mark.slow
@each_runtime
def test_int8_answers_as_float32_by_its_runtime_alone(folder, nano, suffix):
    path = folder / f"m{suffix}"
    module = runtimes.RUNTIMES[runtimes.SUFFIXES[suffix]].__file__
    command = [sys.executable, "-c", ALONE, module, path, folder / "images.npy"]
    subprocess.run(command, check=True)
    answer = np.load(f"{path}.npy")
    expected = nano.predict(np.load(folder / "images.npy"), verbose=0)
    assert len(expected) == 3 * 5 * 9
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    # On all of CIFAR-10 98 to 99 in a hundred keep their class; near ties do not.
    assert np.mean(answer.argmax(axis=1) == expected.argmax(axis=1)) >= 0.94
    moved = np.abs(answer - expected).sum(axis=1) / 2
    assert 1e-4 < moved.mean() < 0.05


@pytest.mark.slow
@each_runtime
def test_int8_is_a_quarter_in_size(folder, nano, suffix):
    files = [folder / f"m{suffix}", folder / "m.bin"][: 1 + (suffix == ".xml")]
    size = sum(file.stat().st_size for file in files)
    # And the graph, which for a model so small is a fifth of the file.
    assert size < nano.count_params() * 4 / 4 * 1.45


@pytest.mark.slow
def test_onnx_weights_cannot_overflow_without_vnni(folder):
    graph = onnx.load(folder / "m.onnx").graph
    ops = collections.Counter(node.op_type for node in graph.node)
    assert (ops["MatMulInteger"], ops["MatMul"]) == (33, 1)  # the stem stays
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            weight = numpy_helper.to_array(weights[node.input[1]])
            assert weight.dtype == np.int8
            assert np.abs(weight.astype(int)).max() <= 64  # 2 * 64 * 255 < 2 ** 15


@pytest.mark.slow
def test_litert_has_a_scale_for_each_output(folder):
    interpreter = Interpreter(str(folder / "m.tflite"))
    kernels = [
        detail["quantization_parameters"]["scales"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8
    ]
    assert len(kernels) == 34
    assert min(len(scales) for scales in kernels) == 10  # the classes'


def test_the_images_are_crops_of_the_data_set_or_of_photographs():
    classifier = classifier_of(random_model(), None, None)
    digits = calibration.sample_images("digits", classifier)
    photographs = calibration.sample_images(None, classifier)
    assert digits.shape == photographs.shape == (128, 24, 24, 3)
    for images in (digits, photographs):
        assert images.dtype == np.float32
        assert 0 <= images.min() < 20 < 235 < images.max() <= 255
    # Digits are grey; the photographs are not, and none is another's.
    assert np.ptp(digits, axis=-1).max() < 1e-3
    assert np.ptp(photographs, axis=-1).mean() > 20
    assert len(np.unique(photographs.mean(axis=(1, 2, 3)))) == 128
    again = calibration.sample_images("digits", classifier)
    np.testing.assert_array_equal(again, digits)


def test_an_int8_file_that_answers_otherwise_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "INT8_TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"% of the probability moves.*No file was"):
        keras_mixer.export_model(
            random_model(), tmp_path / "m.onnx", precision="int8", verify=True
        )
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "float32": ({"calibrate": "digits"}, r"measure int8 on.*'float32'. Leave it out"),
    "no data": (
        {"precision": "int8", "calibrate": "folder:nowhere"},
        r"Received: .*nowhere",
    ),
    "bfloat16": ({"precision": "bfloat16"}, r"one of float32, int8.*'bfloat16'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_export_model_refuses(case, tmp_path):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        keras_mixer.export_model(random_model(), tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_model_that_keras_quantized_is_refused_everywhere(tmp_path):
    model = random_model()
    model.quantize("int8")
    for suffix in SUFFIXES:
        with pytest.raises(ValueError, match=r"as after model.quantize\(\). Export"):
            keras_mixer.export_model(model, tmp_path / f"m{suffix}")
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "m.keras"
    model.save(path)
    with pytest.raises(ValueError, match=r"before model.quantize\(\).*'int8'"):
        open_model(path)
    for verb in (["predict", "a.jpg", f"--model={path}"], ["export", path, "out"]):
        result = keras_mixer_main(*verb)
        assert result.returncode == 1
        assert "before model.quantize()" in result.stderr
        assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [pathlib.Path(path)]


def test_the_program_refuses_to_calibrate_a_saved_model(tmp_path):
    model = "MlpMixerNano4", tmp_path / "m", "--weights=cifar10"
    result = keras_mixer_main("export", *model, "--calibrate=digits")
    assert result.returncode == 1
    assert "--calibrate is for a file" in result.stderr
    assert list(tmp_path.iterdir()) == []
