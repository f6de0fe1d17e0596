"""Files that real PaddlePaddle writes, today's and earlier ones, and reads."""

import importlib.util
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from keras_mixer.weights import formats
from keras_mixer.weights.formats import CheckpointError

# Paddle runs in a process of its own: importing it beside TensorFlow crashes Python.
_PADDLE = """
import sys
import numpy as np
import paddle
from paddle.framework import io_utils

folder = sys.argv[1]
net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 2), paddle.nn.Linear(4, 5))
adam = paddle.optimizer.Adam(parameters=net.parameters())
net(paddle.ones([1, 3, 5, 5])).sum().backward()
adam.step()
weights = net.state_dict()
half = {k: v.astype("float16") for k, v in weights.items()}
bfloat = {k: v.astype("bfloat16") for k, v in weights.items()}
for name, tensors in ("expected", weights), ("half", half), ("bfloat", bfloat):
    np.savez(f"{folder}/{name}.npz", **{k: v.numpy() for k, v in tensors.items()})
for protocol in (2, 3, 4):
    for name, value in {
        "bare": weights,
        "nested": {"state_dict": weights, "epoch": 7, "lr": 0.1, "note": "best"},
        "training": {"model": weights, "optimizer": adam.state_dict(), "best": None},
        "twice": {"epoch": 1, "model": {"state_dict": weights}},
        "parts": {"backbone": weights, "heads": [weights, {"deep": weights}]},
        "arrays": {k: v.numpy() for k, v in weights.items()},
        "half": half,
        "bfloat": bfloat,
        "ints": {"step": paddle.to_tensor(3), "on": paddle.to_tensor([True, False])},
        "empty": {"none": paddle.zeros([0, 3])},
        "tensor": weights["0.weight"],
    }.items():
        paddle.save(value, f"{folder}/{name}{protocol}", protocol=protocol)

# Paddle slices tensors of more than 2**30 - 1 bytes. Here 63 bytes have to do.
code = io_utils._unpack_saved_dict.__code__
assert 2**30 - 1 in code.co_consts
consts = tuple(63 if const == 2**30 - 1 else const for const in code.co_consts)
io_utils._unpack_saved_dict.__code__ = code.replace(co_consts=consts)
for protocol in (2, 3):
    paddle.save(weights, f"{folder}/sliced{protocol}", protocol=protocol)

loaded = paddle.load(f"{folder}/ours.pdparams")
np.savez(f"{folder}/loaded.npz", **{k: v.numpy() for k, v in loaded.items()})
"""


def _tensors():
    rng = np.random.default_rng(0)
    return {
        "stem.weight": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "stem.bias": rng.normal(size=7).astype(np.float32),
        "half": rng.normal(size=(2, 3)).astype(np.float16),
        "double": rng.normal(size=(3, 2)),
        "bits": rng.integers(0, 2**16, 6, np.uint16),
        "step": np.int64(12),
        "mask": np.array([[True], [False]]),
        "none": np.zeros((0, 4), np.float32),
    }


@pytest.fixture(scope="module")
def paddle_files(tmp_path_factory):
    if importlib.util.find_spec("paddle") is None:
        pytest.skip("PaddlePaddle is not installed")
    folder = tmp_path_factory.mktemp("paddle")
    ours = {k: v for k, v in _tensors().items() if k not in ("bits", "none")}
    formats.write_checkpoint(folder / "ours.pdparams", ours)
    run = subprocess.run(
        [sys.executable, "-c", _PADDLE, str(folder)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def expected(paddle_files):
    return _arrays(paddle_files / "expected.npz")


def _arrays(path):
    with np.load(path) as archive:
        return dict(archive)


def _assert_same(tensors, expected):
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        array = np.asarray(array)
        assert tensors[name].dtype == array.dtype, name
        assert tensors[name].shape == array.shape, name
        assert tensors[name].tobytes() == array.tobytes(), name


def _write(path, data):
    path.write_bytes(data)
    return path


# Files that Paddle wrote.


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["bare", "nested", "training", "twice", "arrays"])
def test_read_pdparams_reads_what_paddle_saves(paddle_files, expected, kind, protocol):
    tensors = formats.pdparams.read(paddle_files / f"{kind}{protocol}")
    _assert_same(tensors, expected)
    assert not any(array.flags.writeable for array in tensors.values())


@pytest.mark.parametrize("protocol", [2, 3])
def test_read_pdparams_joins_slices(paddle_files, expected, protocol):
    path = paddle_files / f"sliced{protocol}"
    assert b"UnpackBigParamInfor@@" in path.read_bytes()
    assert b"0.weight@@.2" in path.read_bytes()
    tensors = formats.pdparams.read(path)
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array, strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_read_pdparams_flattens_containers(paddle_files, expected, protocol):
    tensors = formats.pdparams.read(paddle_files / f"parts{protocol}")
    prefixes = ("backbone.", "heads.0.", "heads.1.deep.")
    assert list(tensors) == [prefix + name for prefix in prefixes for name in expected]
    np.testing.assert_array_equal(tensors["heads.1.deep.1.bias"], expected["1.bias"])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_read_pdparams_keeps_half_precision(paddle_files, expected, protocol):
    half = formats.pdparams.read(paddle_files / f"half{protocol}")
    bfloat = formats.pdparams.read(paddle_files / f"bfloat{protocol}")
    # Paddle 3.0 cuts the bits off, later ones round: what it held is what counts.
    _assert_same(half, _arrays(paddle_files / "half.npz"))
    _assert_same(bfloat, _arrays(paddle_files / "bfloat.npz"))
    for name, array in expected.items():
        assert half[name].dtype == np.float16
        np.testing.assert_allclose(half[name], array, rtol=2**-10, atol=2**-24)
        assert bfloat[name].dtype == np.uint16
        decoded = formats.to_float32(bfloat[name])
        assert decoded.dtype == np.float32
        np.testing.assert_allclose(decoded, array, rtol=2**-8)
        assert not np.array_equal(decoded, array) or not array.any()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_read_pdparams_reads_scalars_and_empty_tensors(paddle_files, protocol):
    ints = formats.pdparams.read(paddle_files / f"ints{protocol}")
    assert ints["step"].shape == () and ints["step"] == 3
    assert ints["on"].tolist() == [True, False]
    empty = formats.pdparams.read(paddle_files / f"empty{protocol}")
    assert empty["none"].shape == (0, 3)
    (array,) = formats.pdparams.read(paddle_files / f"tensor{protocol}").values()
    assert array.shape == (4, 3, 2, 2)


def test_paddle_loads_what_we_write(paddle_files):
    ours = {k: v for k, v in _tensors().items() if k not in ("bits", "none")}
    _assert_same(_arrays(paddle_files / "loaded.npz"), ours)


# Pickles of numpy arrays that Paddle might have written elsewhere or long ago.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_read_pdparams_reads_numpy_pickles(tmp_path, protocol):
    fortran = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    big = np.arange(5, dtype=">f4")
    table = {"f": fortran, "b": big, "b2": big, "loss": np.float64(0.5), **_tensors()}
    path = _write(tmp_path / "x", pickle.dumps(table, protocol))
    tensors = formats.pdparams.read(path)
    assert "loss" not in tensors and "step" not in tensors  # numpy scalars, no arrays.
    np.testing.assert_array_equal(tensors["f"], fortran)
    np.testing.assert_array_equal(tensors["b"], np.arange(5, dtype="f4"), strict=True)
    np.testing.assert_array_equal(tensors["b2"], tensors["b"])
    for name in tensors.keys() & _tensors().keys():
        np.testing.assert_array_equal(tensors[name], _tensors()[name], strict=True)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_read_pdparams_reads_the_module_names_of_numpy_1_and_2(tmp_path, core):
    data = pickle.dumps({"w": np.arange(3.0)}, 2)
    data, count = re.subn(rb"numpy\._?core(?=\.multiarray)", core, data)
    assert count == 1
    tensors = formats.pdparams.read(_write(tmp_path / "x", data))
    assert tensors["w"].tolist() == [0, 1, 2]


def test_read_pdparams_reads_python_2_strings(tmp_path):
    # As Paddle 1 under Python 2: byte strings everywhere.
    data = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x80?\x00\x00\x00\xc0tbs."
    )
    tensors = formats.pdparams.read(_write(tmp_path / "x", data))
    assert tensors["w"].tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a.b": np.ones(2), "a": {"b": np.ones(2)}}, "name appears once"),
        ({"model": {"w": np.ones(1)}, "state_dict": {"w": np.ones(1)}}, "one set of"),
        ({"epoch": 3}, "holds tensors"),
        (np.ones(3), "is a dict of tensors"),
        ({3: np.ones(2)}, "key must be a string"),
        ({"UnpackBigParamInfor@@": {"w": {"slices": []}}}, "slices are listed"),
        (
            {
                "w@@.0": np.ones(3),
                "UnpackBigParamInfor@@": {
                    "w": {"OriginShape": (2, 2), "slices": ["w@@.0"]}
                },
            },
            "fit its shape",
        ),
    ],
)
def test_read_pdparams_refuses_ambiguous_contents(tmp_path, table, message):
    path = _write(tmp_path / "x", pickle.dumps(table, 4))
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.pdparams.read(path)
    assert str(path) in str(caught.value)
