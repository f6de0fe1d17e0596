"""Files that are in order as files and hostile as models: refused soon and small."""

import json
import pickle
import resource
import struct
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from tiny import build_tiny

import keras_mixer
from keras_mixer import weights
from keras_mixer.models import port
from keras_mixer.weights import formats


def _header(entries):
    """A safetensors file without data: every tensor has an axis of length 0."""
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
            for name, shape in entries.items()
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header


def _shared_pairs():
    """A list of 20,000 pairs, made a dict of 400 times."""
    pairs = b"".join(b"X\5\0\0\0%05dK\1\x86" % n for n in range(20_000))
    again = b"".join(
        b"X\4\0\0\0d%03dh\0h\1\x85R" % n for n in range(400)
    )  # each with its own key
    return (
        b"\x80\x02ccollections\nOrderedDict\nq\x000]("
        + pairs
        + b"eq\x010}("
        + (again + b"u.")
    )


def _shared_names():
    """One name of a kilobyte, in 100,000 dicts."""
    name = b"X" + struct.pack("<I", 1000) + b"n" * 1000
    return b"\x80\x02" + name + b"q\x000](" + b"}h\x00Ns" * 100_000 + b"e."


def _deep():
    blocks = {f"blocks.{i}.norm1.weight": [0] for i in range(1000)}
    return _header({"stem.proj.weight": [10, 0, 4, 4], **blocks})


def _npz_of_names(path):
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(60_000):
            archive.writestr(f"a name that is not short at all, number {n}.npy", b"")
    return path.read_bytes()


HOSTILE = {
    "a huge stem": lambda _: _header({"stem.proj.weight": [4_000_000, 0, 4, 4]}),
    "a huge head": lambda _: _header(
        {"head.weight": [2**40, 0], "head.bias": [2**40, 0]}
    ),
    "1,000 blocks": lambda _: _deep(),
    "300,000 names": lambda _: _header({f"n{n}": [0] for n in range(300_000)}),
    "60,000 members": _npz_of_names,
    "shared pairs": lambda _: _shared_pairs(),
    "shared names": lambda _: _shared_names(),
}


def refuses_soon_and_small(path, refuse):
    """The error's words; neither Python nor C code took much to say them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    start = time.process_time()  # what another program takes is not counted
    try:
        with pytest.raises(ValueError) as error:
            refuse(path)
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 10  # tracing slows it down threefold
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert max(peak, grown) < 200e6 + path.stat().st_size
    # The words, and the list of problems, stay short.
    assert len(str(error.value)) < 30_000
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("refuse", ["constructor", "port"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_are_refused_before_anything_is_built(tmp_path, name, refuse):
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[name](path))
    call = {
        "constructor": lambda path: keras_mixer.MlpMixerB16(weights=path),
        "port": port.port,
    }[refuse]
    refuses_soon_and_small(path, call)


def test_a_deflated_archive_may_not_grow_without_end(tmp_path):
    path = tmp_path / "hostile.npz"
    np.savez_compressed(path, **{"stem/kernel": np.zeros((4, 4, 3, 2_000_000), "f4")})
    said = refuses_soon_and_small(path, weights.open_file)
    assert "plausible size" in said


@pytest.fixture
def h5(tmp_path, tiny):
    path = tmp_path / "m.weights.h5"
    tiny.save_weights(path)
    return path


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 4, 3, 2**26), {"chunks": (4, 4, 3, 64)}),
        ((4, 4, 3, 10), {"chunks": (4, 4, 3, 10), "compression": "gzip"}),
    ],
    ids=["a hole", "compressed"],
)
def test_an_h5_tensor_that_the_file_does_not_hold_is_refused(h5, shape, options):
    with h5py.File(h5, "r+") as file:
        group = file["layers/patch_embedding/vars"]
        del group["0"]
        group.create_dataset("0", shape, "f4", **options)
    said = refuses_soon_and_small(h5, lambda path: build_tiny(weights=path))
    assert "holds its tensors itself, in full" in said


def test_a_second_layer_of_one_name_is_refused(h5):
    with h5py.File(h5, "r+") as file:
        file.copy("layers/dense", "layers/zz")
        assert file["layers/zz/vars"].attrs["name"] == "head"
    with pytest.raises(ValueError, match=r"layer's name appears once.*'head'"):
        build_tiny(weights=h5)


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.array([0.5, NAN, 0.5])),
        ("mean", np.array(0.5)),
        ("mean", h5py.Empty("f4")),
        ("std", np.array([0.5, 0.0, 0.5])),
        ("std", np.array([[0.5, 0.5, 0.5]])),
        ("std", np.array([1e300] * 3)),
        ("std", np.array([b"a", b"b", b"c"])),
        ("crop_ratio", np.array(0.0)),
        ("crop_ratio", np.array(NAN)),
        ("bicubic", np.array(2)),
        ("approximate_gelu", np.array(2.0)),
    ],
    ids=lambda value: str(value).replace("\n", " "),
)
def test_impossible_constants_of_an_h5_file_are_refused(h5, name, value):
    with h5py.File(h5, "r+") as file:
        for group in file["layers"].values():
            if name in group["vars"]:
                del group["vars"][name]
                group["vars"][name] = value
    with pytest.raises(ValueError, match=r"must be|constant of a layer|of weights"):
        build_tiny(weights=h5)


@pytest.mark.parametrize("number", range(0x80, 0x2000, 0x100))
def test_a_header_of_any_length_is_safetensors(tmp_path, number):
    # Its first byte is then a pickle's.
    bare = _header({"w": [0]})
    path = tmp_path / f"{number}.safetensors"
    header = bare[8:] + b" " * (number - len(bare[8:]))
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    assert path.read_bytes()[0] == 0x80
    assert formats.detect_format(path) == "safetensors"


def test_pickles_stay_pickles(tmp_path):
    path = tmp_path / "x"
    for protocol in (2, 3, 4, 5):
        # With a { where the header of a safetensors file begins.
        for padding in range(20):
            path.write_bytes(pickle.dumps("{" * padding, protocol))
            assert formats.detect_format(path) == "pdparams"
