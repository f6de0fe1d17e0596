"""Thousands of damaged checkpoints: each loads as what it says, or is refused.

A pickle and a safetensors header carry no checksum, so damage to a name, a shape or a
dtype can make another valid file; then only the file's own bytes may come out. Damage
to the tensors' bytes must change just those. A `.npz` has checksums and must notice.
"""

import pickle
import tracemalloc

import numpy as np
import pytest
from mutants import MANY, for_each_mutant

from keras_mixer.weights import formats
from keras_mixer.weights.formats import CheckpointError


def _tensors():
    rng = np.random.default_rng(7)
    return {
        "stem.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "blocks.0.norm1.bias": rng.normal(size=13).astype(np.float32),
        "blocks.0.mlp_tokens.fc1.weight": rng.normal(size=(5, 6)).astype(np.float16),
        "head": np.asfortranarray(rng.normal(size=(3, 5))),
    }


def _pickled(path, tensors, protocol):
    """Write the tensors as Paddle does, through numpy's own pickles."""
    names = {name: f"linear_{i}.w_0" for i, name in enumerate(tensors)}
    table = {
        "state_dict": {**tensors, "StructuredToParameterName@@": names},
        "epoch": 3,
    }
    path.write_bytes(pickle.dumps(table, protocol))


def _written(path, tensors):
    """Write by the package itself; the name's ending decides on the format."""
    formats.write_checkpoint(path, tensors)


WRITERS = {
    "pdparams": _written,
    "pdparams protocol 2": lambda path, tensors: _pickled(path, tensors, 2),
    "pdparams protocol 3": lambda path, tensors: _pickled(path, tensors, 3),
    "pdparams protocol 4": lambda path, tensors: _pickled(path, tensors, 4),
    "npz": _written,
    "npz deflated": lambda path, tensors: np.savez_compressed(path, **tensors),
    "safetensors": _written,
}


def _spans(data, tensors):
    """Tell where in the file each tensor's bytes lie, if they lie there as they are."""
    spans = {}
    for name, array in tensors.items():
        raw = array.tobytes("A")
        if data.count(raw) == 1:
            spans[name] = (data.index(raw), data.index(raw) + len(raw))
    return spans


@pytest.mark.parametrize("count", [100, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("writer", WRITERS)
def test_mutants_load_what_they_say_or_are_refused(tmp_path, writer, count):
    tensors = _tensors()
    path = tmp_path / f"whole.{writer.split()[0]}"
    WRITERS[writer](path, tensors)
    data = path.read_bytes()
    loaded = formats.read_checkpoint(path)
    spans = _spans(data, loaded)
    assert len(spans) == (0 if writer in ("pdparams protocol 2", "npz deflated") else 4)

    counts = {"refused": 0, "loaded": 0, "data only": 0}

    def reads_or_refuses(mutant):
        mutated = tmp_path / "mutant"
        mutated.write_bytes(mutant)
        try:
            result = formats.read_checkpoint(mutated)
        except CheckpointError as error:
            assert str(mutated) in str(error)
            counts["refused"] += 1
            return
        counts["loaded"] += 1
        counts["data only"] += _check(mutant, result, data, loaded, spans, writer)

    tracemalloc.start()
    try:
        for_each_mutant(data, count, reads_or_refuses)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**26  # of hypothesis, for the most part
    # The mutations must neither miss the file nor break it every time.
    assert counts["refused"] > count / 4
    assert counts["loaded"] > 2
    assert counts["data only"] > count / 40 or not spans or "npz" in writer


def _check(mutant, result, data, loaded, spans, writer):
    """Hold what loaded to the mutant's bytes; tell if only tensors' bytes changed."""
    for name, array in result.items():
        assert isinstance(name, str)
        assert array.dtype.kind in "fiub" and array.dtype.isnative
    changed = [
        i for i, (old, new) in enumerate(zip(data, mutant, strict=False)) if old != new
    ]
    inside = len(data) == len(mutant) and all(
        any(start <= i < stop for start, stop in spans.values()) for i in changed
    )
    if "npz" in writer or (inside and not changed):
        # Checksums: what loads is what was saved, but for a name in the directory.
        kept = [a.tobytes() for a in result.values()]
        assert all(raw in [a.tobytes() for a in loaded.values()] for raw in kept)
        return False
    if inside:
        assert list(result) == list(loaded)
        for name, array in result.items():
            start, stop = spans[name]
            assert array.shape == loaded[name].shape
            assert array.dtype == loaded[name].dtype
            assert array.tobytes("A") == mutant[start:stop]
    elif writer != "pdparams protocol 2":
        for array in result.values():
            native, swapped = array.tobytes("A"), array.byteswap().tobytes("A")
            assert native in mutant or swapped in mutant
    return inside


def test_changed_data_of_an_archive_is_always_noticed(tmp_path):
    formats.write_checkpoint(tmp_path / "whole.npz", _tensors())
    data = (tmp_path / "whole.npz").read_bytes()
    loaded = formats.npz.read(tmp_path / "whole.npz")
    for start, stop in _spans(data, loaded).values():
        for at in range(start, stop, 7):
            mutant = bytearray(data)
            mutant[at] ^= 0x10
            (tmp_path / "mutant").write_bytes(mutant)
            with pytest.raises(CheckpointError, match="checksum"):
                formats.npz.read(tmp_path / "mutant")
