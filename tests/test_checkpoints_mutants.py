"""Thousands of damaged checkpoints: each loads as what it says, or is refused.

The mutants come from a seeded generator rather than from hypothesis: the mutations
worth trying (lengths, offsets, pieces moved) are known, and a thousand take a second.

A pickle and a safetensors header carry no checksum, so damage to a name, a shape or a
dtype can make another valid file; then only the file's own bytes may come out. Damage
to the tensors' bytes must change just those. A `.npz` has checksums and must notice.
"""

import pickle
import random
import time
import tracemalloc

import numpy as np
import pytest

from keras_mixer import checkpoints
from keras_mixer.checkpoints import CheckpointError

_MUTANTS_PER_FILE = 1000


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


WRITERS = {
    "pdparams": checkpoints.write_pdparams,
    "pdparams protocol 2": lambda path, tensors: _pickled(path, tensors, 2),
    "pdparams protocol 3": lambda path, tensors: _pickled(path, tensors, 3),
    "pdparams protocol 4": lambda path, tensors: _pickled(path, tensors, 4),
    "npz": checkpoints.write_npz,
    "npz deflated": lambda path, tensors: np.savez_compressed(path, **tensors),
    "safetensors": checkpoints.write_safetensors,
}


def _mutate(data, chance):
    """Return a damaged copy of a file's bytes."""
    data = bytearray(data)
    at = chance.randrange(len(data))
    length = min(chance.choice([1, 2, 4, 8, 16, 100]), len(data) - at)
    match chance.choice(
        ["bit", "byte", "bytes", "cut", "number", "insert", "delete", "copy", "many"]
    ):
        case "bit":
            data[at] ^= 1 << chance.randrange(8)
        case "byte":
            data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        case "bytes":
            data[at : at + length] = chance.randbytes(length)
        case "cut":
            del data[at:]
        case "number":  # A length, an offset or a count, of any width.
            width = chance.choice([1, 2, 4, 8])
            value = chance.choice([0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1])
            value = (value + chance.choice([0, 1, -1])) % 2 ** (8 * width)
            data[at : at + width] = value.to_bytes(width, "little")
        case "insert":
            data[at:at] = chance.randbytes(length)
        case "delete":
            del data[at : at + length]
        case "copy":
            to = chance.randrange(len(data))
            data[to:to] = data[at : at + length]
        case "many":
            for _ in range(20):
                data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _spans(data, tensors):
    """Tell where in the file each tensor's bytes lie, if they lie there as they are."""
    spans = {}
    for name, array in tensors.items():
        raw = array.tobytes("A")
        if data.count(raw) == 1:
            spans[name] = (data.index(raw), data.index(raw) + len(raw))
    return spans


@pytest.mark.parametrize("writer", WRITERS)
def test_mutants_load_what_they_say_or_are_refused(tmp_path, writer):
    tensors = _tensors()
    path = tmp_path / "whole.npz"  # np.savez would append the suffix.
    WRITERS[writer](path, tensors)
    data = path.read_bytes()
    loaded = checkpoints.read_checkpoint(path)
    spans = _spans(data, loaded)
    assert len(spans) == (0 if writer in ("pdparams protocol 2", "npz deflated") else 4)

    chance = random.Random(writer)
    refused = survived = data_only = 0
    tracemalloc.start()
    try:
        for number in range(_MUTANTS_PER_FILE):
            mutant = _mutate(data, chance)
            mutated = tmp_path / "mutant"
            mutated.write_bytes(mutant)
            start_seconds = time.monotonic()
            try:
                result = checkpoints.read_checkpoint(mutated)
            except CheckpointError as error:
                assert str(mutated) in str(error), number
                refused += 1
                result = None
            assert time.monotonic() - start_seconds < 5, number
            if result is not None:
                survived += 1
                data_only += _check(mutant, result, data, loaded, spans, writer)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**25
    # The mutations must neither miss the file nor break it every time.
    assert refused > _MUTANTS_PER_FILE / 4
    assert survived > 2
    assert data_only > 10 or not spans or "npz" in writer


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
    checkpoints.write_npz(tmp_path / "whole", _tensors())
    data = (tmp_path / "whole").read_bytes()
    loaded = checkpoints.read_npz(tmp_path / "whole")
    for start, stop in _spans(data, loaded).values():
        for at in range(start, stop, 7):
            mutant = bytearray(data)
            mutant[at] ^= 0x10
            (tmp_path / "mutant").write_bytes(mutant)
            with pytest.raises(CheckpointError, match="checksum"):
                checkpoints.read_npz(tmp_path / "mutant")
