"""The keras-mixer program: what each verb prints, and where it stops."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest
import skimage.data
from program import PROGRAM, keras_mixer_main, keras_mixer_program
from tiny import IMAGE_SIZE, build_tiny, randomize

import keras_mixer
from keras_mixer import cli, weights
from keras_mixer.models import port
from keras_mixer.weights import download


def fails_with_one_line(result):
    assert result.returncode == 1
    assert not result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its weights, its labels and three images, one of them broken."""
    folder = tmp_path_factory.mktemp("cli")
    model = randomize(build_tiny())
    model.save(folder / "model.keras")
    model.save_weights(folder / "tiny.weights.h5")
    (folder / "labels.txt").write_text("\n".join("abcdefghijk") + "\n")
    for name in ("astronaut", "chelsea"):
        PIL.Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.jpg")
    whole = (folder / "chelsea.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_predict_prints_a_table_of_labels_and_scores(folder):
    result = keras_mixer_main(
        "predict",
        folder / "astronaut.jpg",
        folder / "chelsea.jpg",
        f"--model={folder}/model.keras",
        "--top-k=2",
    )
    assert result.returncode == 0
    assert not result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder}/astronaut.jpg"
    assert lines[3] == f"{folder}/chelsea.jpg"
    score, label = lines[1].split()
    assert label in "abcdefghijk"
    assert 0 < float(score.rstrip("%")) <= 100
    assert len(lines) == 6


def test_predict_names_a_broken_image_and_labels_the_others(folder):
    result = keras_mixer_main(
        "predict",
        folder / "cut.jpg",
        folder / "chelsea.jpg",
        f"--model={folder}/model.keras",
        "--json",
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "cut.jpg" in result.stderr
    broken, answer = json.loads(result.stdout)
    assert broken["image"] == f"{folder}/cut.jpg"
    assert result.stderr == f"keras-mixer: {folder}/cut.jpg: {broken['error']}\n"
    assert answer["image"] == f"{folder}/chelsea.jpg"
    model = keras.models.load_model(folder / "model.keras")
    image = keras_mixer.load_image(folder / "chelsea.jpg", weights=model)
    assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    expected = np.sort(np.asarray(model(image[None]))[0])[::-1][:5]
    scores = [guess["score"] for guess in answer["predictions"]]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_predict_labels_the_images_of_a_folder(folder, tmp_path):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("b.JPG", "more/a.jpeg"):
        shutil.copy(folder / "chelsea.jpg", tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    model = f"--model={folder}/model.keras"
    result = keras_mixer_main("predict", tmp_path / "photos", model, "--top-k=1")
    assert result.stdout.splitlines()[::2] == [
        f"{tmp_path}/photos/b.JPG",
        f"{tmp_path}/photos/more/a.jpeg",
    ]
    (tmp_path / "empty").mkdir()
    result = keras_mixer_main("predict", tmp_path / "empty", model)
    assert "A folder must hold images" in fails_with_one_line(result)


def test_predict_takes_the_folder_of_a_run(folder):
    result = keras_mixer_main("predict", folder / "chelsea.jpg", f"--model={folder}")
    assert result.returncode == 0, result.stderr
    labels = {line.split()[1] for line in result.stdout.splitlines()[1:]}
    assert labels < set("abcdefghijk")


def test_port_prints_where_each_tensor_went_and_verifies(folder):
    out = folder / "new" / "out.pdparams"
    result = keras_mixer_main("port", folder / "tiny.weights.h5", out, "--verify")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["source", "target", "shape", "how,", "CRC-32"]
    assert lines[1].split()[:2] == ["stem/kernel", "stem/kernel"]
    assert "(4, 4, 3, 10)" in lines[1]
    assert f"Wrote {out}" in lines
    digest = [line for line in lines if line.startswith("Logits on the fixed image")]
    again = keras_mixer_main("port", out, folder / "back.keras", "--verify")
    assert digest[0] in again.stdout.splitlines()
    assert "backbone" not in again.stdout
    back, _ = port.port(folder / "back.keras")
    first, _ = port.port(folder / "tiny.weights.h5")
    for a, b in zip(first.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert weights.model_sizes(back) == (10, 2, 7, 4)


def test_port_to_another_model_lists_what_is_wrong_and_writes_nothing(folder):
    out = folder / "nano.weights.h5"
    result = keras_mixer_main(
        "port", folder / "tiny.weights.h5", out, "--model=MlpMixerNano4"
    )
    assert result.returncode == 1 and not result.stdout
    first, *listed = result.stderr.splitlines()
    assert "nothing was assigned" in first
    problems = int(re.search(r"(\d+) problems:$", first)[1])
    assert problems > 50
    assert listed[0].startswith("  misshapen: ")
    assert len(listed) == 11 and listed[-1] == f"  and {problems - 10} more"
    assert not out.exists()


def test_port_replaces_a_file_only_when_told(folder):
    out = folder / "there.npz"
    out.write_bytes(b"mine")
    arguments = ["port", folder / "tiny.weights.h5", out]
    line = fails_with_one_line(keras_mixer_main(*arguments))
    assert "which is there" in line and "--overwrite" in line
    assert out.read_bytes() == b"mine"
    assert keras_mixer_main(*arguments, "--overwrite").returncode == 0
    assert out.read_bytes() != b"mine"


def test_weights_lists_the_catalogue():
    result = keras_mixer_main("weights", "--model=MlpMixerL16")
    assert result.returncode == 0
    assert "imagenet_google" in result.stdout
    assert "72.06" in result.stdout
    assert "MlpMixerB16" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pedict"], "must be one of completion, evaluate, export, port, predict, "),
        (["predict"], "at least one image"),
        (["predict", "a.jpg", "--model=MlpMixer"], "must be one of MlpMixerS32"),
        (["predict", "a.jpg", "--weights=imagnet"], "tags of MlpMixerB16: imagenet,"),
        (["predict", "--topk=1"], "Unknown command line flag 'topk'"),
        (["port", "a.pdparams"], "takes two files"),
        (["port", "a.pdparams", "b.h6"], "OUT must end in one of .pdparams"),
        (["port", "nowhere.npz", "b.npz"], "nowhere.npz"),
        (["weights", "--fetch=imagnet"], "one of imagenet,"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_end_in_one_line(arguments, words):
    assert words in fails_with_one_line(keras_mixer_main(*arguments))


def test_without_the_network_predict_says_where_the_file_can_go(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0,))
    result = keras_mixer_main("predict", "a.jpg")
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert "Cannot fetch http://127.0.0.1:9/vision_transformers/mlp_mixer/" in line
    assert f"{tmp_path}/models/keras_mixer/MlpMixerB16-imagenet.pdparams" in line
    assert "KERAS_MIXER_WEIGHTS_URL" in line


def test_the_program_as_a_process_says_its_version():
    setup = pathlib.Path(__file__).parents[2] / "setup.py"
    version = re.search(r'version="(.*?)"', setup.read_text(encoding="utf-8"))[1]
    assert keras_mixer.__version__ == version
    console_script = keras_mixer_program("--version")
    module = subprocess.run(
        [sys.executable, "-m", "keras_mixer", "--version"],
        capture_output=True,
        text=True,
    )
    for result in (console_script, module):
        assert (result.returncode, result.stdout) == (0, f"keras-mixer {version}\n")


@pytest.mark.parametrize(
    "arguments",
    ["--version", "--help", "weights", "completion bash", "serve -h"]
    + [f"{verb} --help" for verb in cli.VERBS],
)
def test_what_needs_no_model_does_not_wait_for_keras(arguments):
    argv = ["keras-mixer", *arguments.split()]
    code = f"import sys; sys.argv = {argv}; sys.modules['keras'] = None; "
    code += "from keras_mixer import cli; cli.main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert result.returncode == 0, result.stderr


def test_a_process_ends_in_one_line_and_status_1():
    fails_with_one_line(keras_mixer_program("port", "nowhere.npz", "b.npz"))


@pytest.mark.parametrize("arguments", ["weights", "--help", "predict --help"])
def test_a_reader_that_stops_early_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        result = subprocess.run(
            [PROGRAM, *arguments.split()],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("arguments", ["weights", "predict --help"])
def test_output_that_finds_no_room_is_told_in_a_line(arguments):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [PROGRAM, *arguments.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 1
    assert result.stderr == "keras-mixer: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("flag", ["--top-k=1", "--top_k=1", "--top-k 1"])
@pytest.mark.parametrize("no", ["--no-json", "--nojson"])
def test_flags_are_taken_with_dashes_as_with_underscores(folder, flag, no):
    model, image = f"--model={folder}/model.keras", folder / "chelsea.jpg"
    result = keras_mixer_main("predict", image, model, *flag.split(), no)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_help_explains_the_program_and_each_verb():
    result = keras_mixer_main("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: keras-mixer VERB [ARGUMENT...]")
    for verb, purpose in cli.VERBS.items():
        assert f"  {verb:12}{purpose}\n" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_is_a_page_in_order(verb):
    page = keras_mixer_main(verb, "--help").stdout
    assert page.startswith(f"Usage: keras-mixer {verb} ")
    parts = [cli.VERBS[verb], "\nExamples:\n  ", f"keras-mixer {verb}", "--helpfull"]
    if verb != "completion":
        parts.insert(3, "\nFlags:\n  --")
    place = page.index("\n")  # behind the usage line
    for part in parts:
        place = page.index(part, place)
    assert max(map(len, page.splitlines())) <= 88
    for noise in ("absl.", "(default:", "(a ", "keras_mixer.cli"):
        assert noise not in page


def test_help_says_what_a_flag_takes_and_has():
    page = keras_mixer_main("export", "--help").stdout
    assert "--format=saved_model|onnx|openvino|litert\n        For a name" in page
    assert "  --[no-]overwrite\n        Replace files that exist.\n" in page
    assert "Default: float32.\n" in page
    assert page.index("--labels") < page.index("--keep")
    page = keras_mixer_main("evaluate", "--help").stdout
    assert "  --batch_size=INT\n        Images in a batch. Default: 64.\n" in page
    assert page.startswith("Usage: keras-mixer evaluate MODEL [--FLAG=VALUE...]\n")
