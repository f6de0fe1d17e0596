"""`keras-mixer train` and `keras-mixer evaluate`, as a user types them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
PROGRAM = (
    "import sys, tiny_variant; from keras_mixer import cli; "
    "sys.argv[0] = 'keras-mixer'; cli.main()"
)
SMALL = [
    "--dataset=digits",
    "--model=MlpMixerTiny",
    "--epochs=2",
    "--batch_size=256",
    "--learning_rate=0.01",
    "--warmup_steps=2",
    "--ema_momentum=0",
    "--strategy=single",
]


def start(*arguments, cwd):
    path = os.pathsep.join([str(SUPPORT.parent), str(SUPPORT)])
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keras_mixer(*arguments, cwd):
    child = start(*arguments, cwd=cwd)
    stdout, stderr = child.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, child.returncode, stdout, stderr)


def own_lines(stderr):
    """Leave out what TensorFlow says when it is imported."""
    return [
        line
        for line in stderr.splitlines()
        if line.startswith(("keras-mixer", "Trace"))
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return folder, keras_mixer("train", *SMALL, "--output_dir=runs/digits", cwd=folder)


def test_train_writes_model_report_and_pictures(trained):
    folder, done = trained
    assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout
    assert "Epoch 2/2" in done.stdout
    run = folder / "runs/digits"
    report = json.loads((run / "report.json").read_text())
    assert f"{report['test_accuracy']:.2%}" in done.stdout
    for name in ("curves.png", "predictions.png", "confusion_matrix.png"):
        with Image.open(run / name) as image:
            assert min(image.size) > 300


def test_train_reads_its_configuration_back(trained):
    folder, _ = trained
    config = folder / "runs/digits/config.json"
    again = keras_mixer(
        "train",
        f"--config={config}",
        "--epochs=1",
        "--output_dir=runs/again",
        cwd=folder,
    )
    assert again.returncode == 0, again.stderr
    before = json.loads(config.read_text())
    after = json.loads((folder / "runs/again/config.json").read_text())
    assert after == {**before, "epochs": 1}
    assert after["model"] == "MlpMixerTiny"


def test_evaluate_prints_what_the_report_says(trained):
    folder, _ = trained
    report = json.loads((folder / "runs/digits/report.json").read_text())
    done = keras_mixer(
        "evaluate",
        "runs/digits/model.keras",
        "--dataset=digits",
        "--per_class",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert f"top-1   {report['test_accuracy']:7.2%}" in done.stdout
    assert f"loss    {report['test_loss']:7.4f}" in done.stdout
    assert "images/s" in done.stdout
    assert len(done.stdout.splitlines()) == 1 + 4 + 10


def test_sigterm_saves_and_says_resume_me(tmp_path):
    child = start("train", *SMALL, "--epochs=2000", "--output_dir=r", cwd=tmp_path)
    for line in child.stdout:
        if line.startswith("Epoch 3/"):
            child.terminate()
            break
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 75
    (line,) = own_lines(stderr)
    assert "of 10000. The same command resumes there." in line
    assert (tmp_path / "r/checkpoint.npz").exists()


def test_preview_writes_a_sheet(tmp_path):
    done = keras_mixer(
        "train", *SMALL, "--preview=sheet.png", "--mixup=0.3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--dataset=digits"], "--output_dir=runs/NAME. Received: none"),
        (["train", "--dataset=folder:nowhere", "--output_dir=r"], "must be a folder"),
        (["train", "--config=none.json", "--output_dir=r"], "none.json"),
        (["evaluate", "none.keras", "--dataset=digits"], "none.keras"),
    ],
    ids=lambda value: value[0] + value[1][:12] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_status_one(tmp_path, arguments, words):
    done = keras_mixer(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = own_lines(done.stderr)
    assert words in line
    assert "Traceback" not in done.stderr
