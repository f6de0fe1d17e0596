"""The settings of TensorFlow: chosen by the processor, never against the user."""

import os
import subprocess
import sys

import pytest
from program import PROGRAM

from keras_mixer.catalog import processor

VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS")
LAPTOP = "processor\t: 0\nflags\t\t: fpu sse4_1 avx avx2 fma\nbugs\t\t: spectre_v1\n"
SERVER = LAPTOP.replace("avx2", "avx2 avx512f avx512_bf16")
OLD = LAPTOP.replace(" avx2", "")
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Stand on another processor, with none of the variables set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def stand_on(cpuinfo):
        path = tmp_path / "cpuinfo"
        if cpuinfo is not None:
            path.write_text(cpuinfo)
        monkeypatch.setattr(processor, "_CPUINFO", path)

    return stand_on


@pytest.mark.parametrize(
    "cpuinfo, features",
    [
        (LAPTOP, ("AVX2",)),
        (SERVER, ("AVX2", "AVX512", "AVX512-BF16")),
        (OLD, ()),
        (ARM, ()),
        (None, ()),
    ],
)
def test_settings_are_chosen_by_what_the_processor_has(cpu, cpuinfo, features):
    cpu(cpuinfo)
    assert processor.cpu_features() == features
    onednn, frozen = VARIABLES
    able = "AVX2" in features
    assert processor.fastest_settings() == ({onednn: "1"} if able else {})
    packed = {frozen: "1"} if "AVX512" in features else {}
    serving = processor.fastest_settings() | packed
    assert processor.fastest_settings(serves=True) == serving


def test_settings_of_the_user_stay(cpu, monkeypatch):
    cpu(LAPTOP)
    monkeypatch.setenv(VARIABLES[0], "0")
    monkeypatch.setenv(VARIABLES[1], "")
    processor.use_fastest_settings(serves=True)
    assert [os.environ[name] for name in VARIABLES] == ["0", ""]
    assert "CPU with AVX2. TF_ENABLE_ONEDNN_OPTS=0 " in processor.settings_in_use()


WHEN_IMPORTED = """
import os, sys
def look(event, about):
    if event == "import" and about[0] == "tensorflow":
        print(*(os.environ.get(name) for name in {names}), flush=True)
        os._exit(0)
sys.addaudithook(look)
sys.argv, sys.orig_argv = {argv}, ["python", "-m", "keras_mixer"]
import keras_mixer
"""


@pytest.mark.skipif(
    "AVX2" not in processor.cpu_features(), reason="nothing is chosen on this CPU"
)
@pytest.mark.parametrize(
    "program, seen",
    [("keras-mixer", "1 None"), ("-m", "1 None"), ("notebook.py", "None None")],
)
def test_programs_have_settings_before_tensorflow_starts(program, seen):
    code = WHEN_IMPORTED.format(names=VARIABLES, argv=[program, "predict"])
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment["KERAS_BACKEND"] = "tensorflow"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == seen, found.stderr


def test_verbs_log_the_settings_and_print_none():
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
    command = [PROGRAM, "weights", "--verbosity=0"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0
    (line,) = [line for line in found.stderr.splitlines() if "CPU with" in line]
    assert "TF_ENABLE_ONEDNN_OPTS=0." in line
    assert "CPU with" not in found.stdout
