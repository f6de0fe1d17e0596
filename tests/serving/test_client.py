"""The client, `keras-mixer query`, and the programs around it: export, load test."""

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from program import keras_mixer_main
from serving_support import EXPORT, LABELS, random_model

import keras_mixer
from keras_mixer.serving import client as serving_client
from keras_mixer.serving import publishing


def run_load_test(*arguments):
    return subprocess.run(
        [sys.executable, EXPORT / "load_test.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def refused(finished):
    """Return the one line on standard error of a program that refused."""
    assert finished.returncode == 1, finished.stdout
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr


UNUSABLE = {"broken.jpeg", "notes.txt"}


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """Images in a folder and one within it, an image that is none, and a text."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for i, (name, file) in enumerate(files.items()):
        place = folder / "more" if i % 2 else folder
        suffix = ".png" if file[:4] == b"\x89PNG" else ".JPG"
        (place / f"{name}{suffix}").write_bytes(file)
    (folder / "broken.jpeg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture(params=["http", "grpc"])
def url(request, local_server):
    if request.param == "http":
        return local_server.model_url
    return f"grpc://{local_server.grpc}/v1/models/mixer"


def test_client_prints_a_table(folder, url):
    finished = keras_mixer_main("query", folder, f"--url={url}", "--batch_size=2")
    assert finished.returncode == 1
    complaint = f"{folder}/broken.jpeg: not an image that the server can read\n"
    assert finished.stderr == f"keras-mixer: {complaint}"
    lines = finished.stdout.splitlines()
    images = [p for p in folder.rglob("*.*") if p.name not in UNUSABLE]
    assert [line.split()[0] for line in lines] == sorted(map(str, images))
    for line in lines:
        assert line.split()[1] in LABELS
        assert line.count("%") == 3


def test_client_prints_json_of_files_and_standard_input(
    folder, files, url, monkeypatch
):
    stdin = io.TextIOWrapper(io.BytesIO(files["cat"]))
    monkeypatch.setattr(sys, "stdin", stdin)
    flags = (f"--url={url}", "--json", "--concurrency=3", "--batch_size=1")
    path = folder / "astronaut.JPG"
    finished = keras_mixer_main("query", "-", path, *flags)
    assert finished.returncode == 0, finished.stderr
    from_stdin, from_file = json.loads(finished.stdout)
    assert (from_stdin["image"], from_file["image"]) == ("-", str(path))
    local = serving_client.connect(url, 60).predict([files["cat"], files["astronaut"]])
    for found, expected in zip((from_stdin, from_file), local, strict=True):
        guesses = found["predictions"]
        labels = [guess["label"] for guess in guesses]
        assert labels == [guess["class"] for guess in guesses]
        assert labels == expected["top_k_labels"]
        np.testing.assert_allclose(
            [guess["score"] for guess in guesses], expected["top_k_scores"], atol=1e-6
        )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "query takes at least one image"),
        (["none.jpg"], "No such file or directory: 'none.jpg'"),
        ([EXPORT / "tf_serving"], "must hold images, which end in .jpg"),
        (["--url=mixer", EXPORT / "README.md"], "The URL of a model is http"),
        (["--url=http://127.0.0.1:9/v1/models/m", "--retries=1"], "cannot be reached"),
        (["--url=grpc://127.0.0.1:9/v1/models/m", "--retries=0"], "UNAVAILABLE"),
        (["--url={url}/versions/99"], "404: Servable not found for request: "),
        (["--url={url}/labels/nope"], "400: Unrecognized servable version label"),
        (["--url={server}/nowhere/v1/models/m"], "The URL of a model is http"),
    ],
)
def test_client_says_in_a_line_what_is_wrong(folder, local_server, arguments, sentence):
    arguments = [
        str(a).format(url=local_server.model_url, server=local_server.url)
        for a in arguments
    ]
    if arguments and arguments[-1].startswith("-"):
        arguments.append(folder / "astronaut.JPG")
    assert sentence in refused(keras_mixer_main("query", *arguments))


class Flaky:
    """Fails a number of times, then answers."""

    def __init__(self, failures, try_again):
        self.failures = failures
        self.try_again = try_again
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise serving_client.ServerError("busy", self.try_again)
        return "answer"


def test_with_retries_tries_again_longer_each_time(monkeypatch):
    waits = []
    monkeypatch.setattr(serving_client.time, "sleep", waits.append)
    assert serving_client.with_retries(Flaky(3, True), 3) == "answer"
    assert waits == [0.2, 0.4, 0.8]
    call = Flaky(4, True)
    with pytest.raises(serving_client.ServerError, match="busy"):
        serving_client.with_retries(call, 3)
    assert call.calls == 4


def test_with_retries_does_not_repeat_what_is_wrong():
    call = Flaky(1, False)
    with pytest.raises(serving_client.ServerError, match="busy"):
        serving_client.with_retries(call, 3)
    assert call.calls == 1


def test_client_of_rest_needs_no_tensorflow(folder, local_server):
    program = """
import sys
sys.modules["tensorflow"] = sys.modules["grpc"] = sys.modules["keras"] = None
sys.argv = ["keras-mixer", "query", *sys.argv[1:]]
from keras_mixer.cli import main
main()
"""
    arguments = [folder / "astronaut.JPG", f"--url={local_server.model_url}"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert "astronaut" in finished.stdout


def test_verbs_name_the_extra_that_is_not_installed(exported, folder, monkeypatch):
    from keras_mixer.serving import server

    monkeypatch.delattr(server, "run", raising=False)
    monkeypatch.setitem(sys.modules, "keras_mixer.serving.server.run", None)
    monkeypatch.setitem(sys.modules, "requests", None)
    for verb in (("serve", exported), ("query", folder)):
        line = refused(keras_mixer_main(*verb))
        assert "need the extra `serve`: `pip install keras-mixer[serve]`" in line


def test_load_test_prints_a_table(folder, local_server):
    images = [folder / "astronaut.JPG", folder / "china.JPG"]
    flags = (f"--url={local_server.model_url}", "--seconds=1.5", "--broken=0.3")
    finished = run_load_test(*images, *flags, "--connections=4")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    text = finished.stdout
    assert "images, " in text and "p99" in text
    assert "wrong: 0" in text and "failed: 0" in text


def test_load_test_finds_wrong_answers(folder, local_server):
    """With a tolerance below that of the arithmetic, answers do differ."""
    flags = (f"--url={local_server.model_url}", "--seconds=2", "--tolerance=-1")
    finished = run_load_test(folder / "astronaut.JPG", *flags, "--json")
    assert finished.returncode == 1
    report = json.loads(finished.stdout)
    ((sentence, count),) = report["wrong"].items()
    assert sentence == f"another answer for {folder / 'astronaut.JPG'}"
    assert count == report["images"] > 0


def test_load_test_says_in_a_line_what_is_wrong(folder, local_server):
    assert "Usage: load_test.py" in refused(run_load_test())
    finished = run_load_test(folder / "broken.jpeg", f"--url={local_server.model_url}")
    assert "not an image that the server can read" in refused(finished)


@pytest.mark.slow
def test_export_program_exports(tmp_path, files):
    random_model().save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    arguments = [tmp_path / "model.keras", tmp_path / "mixer", "--top_k=2"]
    arguments += [f"--labels={tmp_path / 'labels.txt'}", "--batch_sizes=1,4"]
    arguments += ["--precision=bfloat16", "--features", "--verify", "--keep=3"]
    finished = keras_mixer_main("export", *arguments)
    assert finished.returncode == 0, finished.stderr
    *progress, path = finished.stdout.splitlines()
    assert path == str(tmp_path / "mixer" / "1")
    assert [line.split()[0] for line in progress] == ["Tracing", "Writing", "Verifying"]
    card = json.loads((tmp_path / "mixer" / "1" / "keras_mixer.json").read_text())
    assert (card["precision"], card["top_k"]) == ("bfloat16", 2)
    assert "features" in card["signatures"]
    parameters = (tmp_path / "mixer" / "1" / "batching_params.pbtxt").read_text()
    assert "max_batch_size { value: 4 }" in parameters


def test_export_program_names_the_classes_as_predict_does(tmp_path):
    keras_mixer.MlpMixer(4, 1, 4, 4, 8, input_shape=(16, 16, 3)).save(
        tmp_path / "model.keras"
    )
    arguments = [tmp_path / "model.keras", tmp_path / "mixer", "--batch_sizes=1"]
    assert keras_mixer_main("export", *arguments).returncode == 0
    labels = (tmp_path / "mixer/1/assets/labels.txt").read_text().splitlines()
    assert (len(labels), labels[285]) == (1000, "Egyptian_cat")


def test_export_program_says_in_a_line_what_is_wrong(tmp_path):
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]).save(
        tmp_path / "dense.keras"
    )
    (tmp_path / "junk.keras").write_bytes(b"junk")
    quantized = random_model()
    quantized.quantize("int8")
    quantized.save(tmp_path / "quantized.keras")
    for arguments, sentence in [
        ([], "export takes a model and where to write it"),
        (["none.keras", tmp_path / "m"], "none.keras"),
        ([tmp_path / "junk.keras", tmp_path / "m"], "junk.keras"),
        ([tmp_path / "dense.keras", tmp_path / "m"], "(batch, height, width, 3)"),
        (
            [tmp_path / "dense.keras", tmp_path / "m", "--batch_sizes=1,a"],
            "whole numbers with commas between them, such as 1,2,4,8,16,32. "
            "Received: 1,a",
        ),
        (
            [tmp_path / "quantized.keras", tmp_path / "m"],
            "as it was before model.quantize()",
        ),
        (["MlpMixerS32", tmp_path / "m"], "MlpMixerS32 without weights is random"),
    ]:
        assert sentence in refused(keras_mixer_main("export", *arguments))
    assert publishing.versions(tmp_path / "m") == {}
