"""Damaged files of a model: each gives what it says, or is refused in a sentence."""

import time

import numpy as np
import pytest
from mutants import MANY, for_each_mutant
from PIL import Image
from program import keras_mixer_main
from tiny import build_tiny, randomize

from keras_mixer import weights
from keras_mixer.models import open_model, port


def _write(model, path):
    layouts = {".pdparams": "passl", ".npz": "google", ".safetensors": "timm"}
    if path.suffix in layouts:
        arrays = weights.export_arrays(model, layouts[path.suffix])
        weights.write_checkpoint(path, arrays)
    elif path.suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)


@pytest.mark.parametrize("count", [60, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "suffix", [".pdparams", ".npz", ".safetensors", ".weights.h5", ".keras"]
)
def test_mutants_of_a_model_port_or_are_refused(tmp_path, suffix, count, capfd):
    original = randomize(build_tiny())
    path = tmp_path / f"whole{suffix}"
    _write(original, path)
    mutated = tmp_path / f"mutant{suffix}"
    counts = {"refused": 0, "opened": 0}

    def opens_or_refuses(mutant):
        mutated.write_bytes(mutant)
        start = time.process_time()
        try:
            if suffix == ".keras":
                model = open_model(mutated)
            else:
                model, _ = port.port(mutated)
        except ValueError as error:
            assert str(mutated) in str(error)
            assert len(str(error)) < 30_000
            counts["refused"] += 1
            return
        finally:
            assert time.process_time() - start < 5
        counts["opened"] += 1
        for old, new in zip(original.get_weights(), model.get_weights(), strict=True):
            assert old.shape == new.shape and np.isfinite(new).all()
            if suffix in (".npz", ".keras"):  # which have checksums
                np.testing.assert_array_equal(old, new)

    for_each_mutant(path.read_bytes(), count, opens_or_refuses)
    assert counts["refused"] > count / 4


@pytest.mark.parametrize("count", [15, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "suffix", [".pdparams", ".npz", ".safetensors", ".weights.h5", ".keras"]
)
def test_mutants_end_the_program_in_an_answer_or_a_line(tmp_path, suffix, count, capfd):
    path = tmp_path / f"whole{suffix}"
    _write(randomize(build_tiny()), path)
    mutated = tmp_path / f"mutant{suffix}"
    image = tmp_path / "image.png"
    Image.new("RGB", (20, 20)).save(image)
    if suffix == ".keras":
        command = ["predict", image, f"--model={mutated}"]
    else:
        command = ["port", mutated, tmp_path / "out.npz", "--overwrite"]

    def answers_or_says_why(mutant):
        mutated.write_bytes(mutant)
        start = time.process_time()
        result = keras_mixer_main(*command)
        assert time.process_time() - start < 5
        assert result.returncode in (0, 1)
        lines = [x for x in result.stderr.splitlines() if x.startswith("keras-mixer: ")]
        assert len(lines) == result.returncode
        assert "Traceback" not in result.stderr

    for_each_mutant(path.read_bytes(), count, answers_or_says_why)
