"""Completion in a real bash, as it is typed: the script's answers, and one by Tab."""

import os
import pty
import shutil
import subprocess

import pytest
from program import keras_mixer_main

from keras_mixer import cli

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    done = keras_mixer_main("completion", "bash")
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(done.stdout)
    return path


def completed(script, *words):
    """What bash offers where the cursor stands at the end of the last of `words`."""
    program = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_keras_mixer; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program, "bash", script, "keras-mixer", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "words, expected",
    [
        ([""], [*cli.VERBS, "--help", "--version"]),
        (["pr"], ["predict", "probe"]),
        (["export", "--pre"], ["--precision="]),
        (["export", "model.keras", "--o"], ["--overwrite"]),
        (["predict", "--format", "="], ["parquet", "jsonl", "csv"]),
        (["predict", "--format", "=", "j"], ["jsonl"]),
        (["predict", "--format=j"], ["--format=jsonl"]),  # where = is in a word
        (["train", "--optimizer", "=", "m"], ["muon"]),
        (["train", "--config", "=", "runs/"], []),  # files, by bash itself
        (["evaluate", "ru"], []),
        (["evaluate", "--weig"], ["--weights="]),
        (["nonsense", "--f"], []),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_completion_offers(script, words, expected):
    assert completed(script, *words) == expected


def test_completion_by_tab_in_an_interactive_bash(script, tmp_path):
    (tmp_path / "photograph.jpg").touch()
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb", "INPUTRC": os.devnull},
        start_new_session=True,
    )
    os.close(slave)
    typed = f"source '{script}'\nkeras-mixer() {{ echo \"got <$*>\"; }}\n"
    typed += "keras-mixer predi\tphoto\t--js\t--form\tcs\t\nexit\n"
    os.write(master, typed.encode())
    said = b""
    try:
        while chunk := os.read(master, 1024):
            said += chunk
    except OSError:
        pass  # the shell has ended
    assert shell.wait() == 0
    os.close(master)
    assert b"got <predict photograph.jpg --json --format=csv>" in said


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not here")
def test_completion_for_zsh_is_a_script_of_zsh(tmp_path):
    path = tmp_path / "script"
    path.write_text(keras_mixer_main("completion", "zsh").stdout)
    words = f"autoload -U compinit; compinit -u -D; source {path}; whence _keras_mixer"
    done = subprocess.run(["zsh", "-f", "-c", words], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("_keras_mixer\n", "")


def test_completion_names_its_shells():
    done = keras_mixer_main("completion", "fish")
    assert done.returncode == 1
    assert "bash or zsh. Received: fish." in done.stderr
