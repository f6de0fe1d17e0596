"""Checkpoint files written by their own frameworks, by us, and by mistake."""

import builtins
import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_mixer.weights import formats
from keras_mixer.weights.formats import CheckpointError


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


# Memory.


def _sparse_pdparams(path, size_bytes):
    """Write a checkpoint of one tensor of zeros, as a hole in the file."""
    small = path.with_suffix(".pdparams")
    formats.write_checkpoint(small, {"w": np.ones(1, np.float32)})
    data = small.read_bytes()
    data = data.replace(struct.pack("<q", 1), struct.pack("<q", size_bytes // 4))
    start = data.index(b"\x8e" + struct.pack("<Q", 4)) + 9
    with open(path, "wb") as file:
        file.write(data[: start - 8] + struct.pack("<Q", size_bytes))
        file.seek(size_bytes, os.SEEK_CUR)
        file.write(data[start + 4 :])


def test_read_pdparams_does_not_copy_the_file(tmp_path):
    size_bytes = 400 * 2**20
    _sparse_pdparams(tmp_path / "big", size_bytes)
    tracemalloc.start()
    try:
        array = formats.pdparams.read(tmp_path / "big")["w"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert array.nbytes == size_bytes and not array[:: 2**20].any()
    assert peak < size_bytes / 1000


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux")
def test_read_pdparams_leaves_pages_to_the_file(tmp_path):
    def anonymous_kib():
        with open("/proc/self/status") as status:
            return next(int(x.split()[1]) for x in status if x.startswith("RssAnon"))

    size_bytes = 400 * 2**20
    _sparse_pdparams(tmp_path / "big", size_bytes)
    before = anonymous_kib()
    array = formats.pdparams.read(tmp_path / "big")["w"]
    assert not array[::1024].any()  # Touches every page.
    assert (anonymous_kib() - before) * 1024 < size_bytes / 10


@pytest.mark.parametrize("suffix", ["pdparams", "npz", "safetensors"])
def test_writers_do_not_copy_the_model(tmp_path, suffix):
    tensors = {f"w{i}": np.zeros(2**20, np.float32) for i in range(16)}
    tracemalloc.start()
    try:
        formats.write_checkpoint(tmp_path / f"x.{suffix}", tensors)
        formats.read_checkpoint(tmp_path / f"x.{suffix}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20  # numpy's own npz writer takes 16 MiB at a time.


# Round trips, and other programs' files.


@pytest.mark.parametrize("suffix", ["pdparams", "npz", "safetensors"])
def test_write_checkpoint_round_trips_bit_exactly(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    formats.write_checkpoint(path, _tensors())
    assert formats.detect_format(path) == suffix
    _assert_same(formats.read_checkpoint(path), _tensors())
    assert os.listdir(tmp_path) == [path.name]


def test_standard_readers_take_what_we_write(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    tensors = {k: v for k, v in _tensors().items() if k != "bits"}
    for suffix in ("pdparams", "npz", "safetensors"):
        formats.write_checkpoint(tmp_path / f"x.{suffix}", tensors)
    with open(tmp_path / "x.pdparams", "rb") as file:
        _assert_same(pickle.load(file), tensors)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        _assert_same(dict(archive), tensors)
    loaded = safetensors_numpy.load_file(tmp_path / "x.safetensors")
    _assert_same({name: loaded[name] for name in tensors}, tensors)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_read_npz_reads_numpy_archives(tmp_path, save):
    name = "MixerBlock_0/token_mixing/Dense_0/kernel"
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    tensors = {name: np.ones((3, 5), np.float32), "f": fortran, **_tensors()}
    save(tmp_path / "x.npz", big=np.arange(3, dtype=">i4"), **tensors)
    loaded = formats.read_checkpoint(tmp_path / "x.npz")
    np.testing.assert_array_equal(loaded.pop("big"), np.arange(3, dtype="i4"))
    _assert_same(loaded, tensors)


def test_read_npz_reads_bfloat16_as_numpy_stores_it(tmp_path):
    bits = np.array([[0x3F80], [0xC000]], np.uint16)
    np.savez(tmp_path / "x.npz", w=bits.view("V2"))
    array = formats.npz.read(tmp_path / "x.npz")["w"]
    assert array.dtype == np.uint16
    assert formats.to_float32(array).tolist() == [[1.0], [-2.0]]


def test_read_safetensors_reads_the_packages_files(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensors = {k: np.asarray(v) for k, v in _tensors().items()}
    safetensors_numpy.save_file(tensors, tmp_path / "x", {"format": "pt"})
    loaded = formats.read_checkpoint(tmp_path / "x")
    _assert_same({name: loaded[name] for name in tensors}, tensors)
    brain = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    safetensors_numpy.save_file({"w": brain}, tmp_path / "y")
    formats.write_checkpoint(tmp_path / "z.safetensors", {"w": brain})
    assert b"BF16" in (tmp_path / "z.safetensors").read_bytes()
    for path in (tmp_path / "y", tmp_path / "z.safetensors"):
        array = formats.safetensors_file.read(path)["w"]
        assert formats.to_float32(array).tolist() == [1.5, -2.0]


def test_read_safetensors_names_the_package_it_needs(tmp_path, monkeypatch):
    formats.write_checkpoint(tmp_path / "x.safetensors", _tensors())
    real_import = builtins.__import__

    def without_safetensors(name, *args, **kwargs):
        if name == "safetensors":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_safetensors)
    with pytest.raises(ImportError, match="pip install safetensors"):
        formats.read_checkpoint(tmp_path / "x.safetensors")


def test_to_float32_converts_every_float(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([[1.5, -0.0], [np.inf, 2.0**-10]], np.float32)
    for array in (
        values,
        values.astype(np.float16),
        values.astype(np.float64),
        values.astype(">f4"),
        values.astype(ml_dtypes.bfloat16),
        values.astype(ml_dtypes.bfloat16).view(np.uint16),
        values.astype(ml_dtypes.bfloat16).view("V2"),
    ):
        np.testing.assert_array_equal(formats.to_float32(array), values, strict=True)
    assert formats.to_float32(values) is values
    assert formats.to_float32(np.array(0x3F80, np.uint16)).shape == ()
    with pytest.raises(CheckpointError, match="int64"):
        formats.to_float32(np.arange(3))


# Writing, and what may go wrong with it.


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = _write(tmp_path / "x.npz", b"precious")
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        formats.write_checkpoint(path, _tensors())
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("x.h5", {"w": np.ones(2)}, r"\.pdparams, \.npz, \.safetensors"),
        ("x.npz", {}, "holds tensors"),
        ("x.npz", {"w": np.array(["text"])}, "dtype <U4"),
        ("x.pdparams", {"w": np.array([None])}, "dtype object"),
        ("x.safetensors", {"w": np.ones(2), 3: np.ones(2)}, "Received: '3'"),
    ],
)
def test_write_checkpoint_refuses(tmp_path, name, tensors, message):
    with pytest.raises(CheckpointError, match=message):
        formats.write_checkpoint(tmp_path / name, tensors)
    assert os.listdir(tmp_path) == []


def test_write_checkpoint_names_the_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        formats.write_checkpoint(tmp_path / "nowhere" / "x.npz", _tensors())


# Telling formats apart.


def _zip(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            name = name.replace("__", "/").replace("_dot_", ".")
            # Without the time of day: pytest 8 names tests by these bytes.
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


_TORCH_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02M\xe9\x03."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (_TORCH_LEGACY, "model.safetensors"),
        (_zip(archive__data_dot_pkl=b"\x80\x02}."), "model.safetensors"),
        (_zip(readme_dot_txt=b"hello"), "readme.txt"),
        (_zip(), r"members \[\]"),
        (b"<!DOCTYPE html><html>Sign in to the wifi</html>", "a web page"),
        (b"\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("Zugriff verweigert: §".encode(), "text that starts with 'Zugriff"),
        (bytes(64), "bytes 00 00 00"),
        (b"\x89PNG\r\n\x1a\n", "bytes 89 50"),
        (b"\x1f\x8b\x08", "bytes 1f 8b 08"),
        (b"PK\3\4" + bytes(40), "cut off or corrupted"),
        (b"\x80\x00.", "protocol 0"),
        (b"\x89HDF\r\n\x1a\n" + bytes(32), "weights.h5.*`weights=`"),
        (_zip(config_dot_json=b"", model_dot_weights_dot_h5=b""), "keras.*`weights=`"),
    ],
)
def test_read_checkpoint_names_other_files(tmp_path, data, message):
    path = _write(tmp_path / "model.pdparams", data)
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_detect_format_knows_keras_files(tmp_path):
    h5 = _write(tmp_path / "a", b"\x89HDF\r\n\x1a\n" + bytes(32))
    keras = _zip(config_dot_json=b"", model_dot_weights_dot_h5=b"")
    assert formats.detect_format(h5) == "h5"
    assert formats.detect_format(_write(tmp_path / "b", keras)) == "keras"


@pytest.mark.parametrize("read", [formats.read_checkpoint, formats.detect_format])
def test_a_missing_file_or_a_directory_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*nothing"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no checkpoint file"):
        read(str(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match="single file"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["pdparams", "npz", "safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    formats.write_checkpoint(whole, {"w": np.ones((2, 3), np.float32)})
    data = whole.read_bytes()
    for size in range(len(data)):
        path = _write(tmp_path / "cut", data[:size])
        with pytest.raises(CheckpointError):
            formats.read_checkpoint(path)
