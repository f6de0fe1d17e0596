"""A published file at a mirror: named, fetched once, predicted and evaluated with."""

import json
import pathlib
import subprocess
import sys
import urllib.parse

import file_server
import journey
import keras
import numpy as np
import pytest
import serving_support
from PIL import Image

import keras_mixer
from keras_mixer import catalog

SUPPORT = pathlib.Path(__file__).parents[1] / "support"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A mirror with B/16 in PaddlePaddle's own file, and what Paddle computes."""
    sizes = {"hidden_dim": 768, "num_blocks": 12, "patch_size": 16, "image_size": 224}
    sizes |= {"tokens_mlp_dim": 384, "channels_mlp_dim": 3072, "classes": 1000}
    program = SUPPORT / "paddle_mixer.py"
    subprocess.run(
        [sys.executable, program, tmp_path, json.dumps(sizes), "prefixed_4"],
        check=True,
        capture_output=True,
    )
    content = (tmp_path / "prefixed_4.pdparams").read_bytes()
    entry = catalog.ENTRIES["MlpMixerB16", "imagenet"]
    path = "/mirror" + urllib.parse.urlsplit(entry.url).path
    # The first connection is cut half-way, as it happens to 240 MB.
    files = {path: file_server.Served(content, faults=["cut"])}
    with file_server.serving(files) as server:
        monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", f"{server.url}/mirror")
        yield server, np.load(tmp_path / "expected.npz")


@pytest.mark.slow
def test_from_a_published_file_to_an_evaluation(home, published, photos):
    server, expected = published
    paths = []
    for name, photo in photos.items():
        paths.append(home / f"{name}.jpg")
        paths[-1].write_bytes(serving_support.encoded(photo))

    answers = json.loads(journey.do("predict", *paths, "--json"))
    assert [answer["image"] for answer in answers] == [str(path) for path in paths]

    model = keras_mixer.MlpMixerB16(weights="imagenet", classifier_activation=None)
    logits = model.predict(expected["images"], verbose=0)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    # Cut once and resumed: two requests, whoever asked afterwards.
    assert len(server.requests) == 2
    crops = [keras_mixer.load_image(path, weights=model) for path in paths]
    logits = model.predict(np.stack(crops), verbose=0)
    decoded = keras_mixer.decode_predictions(keras.ops.softmax(logits))
    for answer, rows in zip(answers, decoded, strict=True):
        for found, (name, label, score) in zip(
            answer["predictions"], rows, strict=True
        ):
            assert (found["class"], found["label"]) == (name, label)
            assert found["score"] == pytest.approx(score, abs=1e-5)

    # ImageNet's folders, with each photograph where the model believes it belongs.
    pixel = serving_support.encoded(Image.new("RGB", (1, 1)), "PNG")
    for ((name, _, _),) in keras_mixer.decode_predictions(np.eye(1000), top=1):
        for split in ("train", "val", "test"):
            folder = home / "imagenet" / split / name
            folder.mkdir(parents=True)
            if split != "test":
                (folder / "0.png").write_bytes(pixel)
    for path, answer in zip(paths, answers, strict=True):
        folder = home / "imagenet" / "test" / answer["predictions"][0]["class"]
        path.rename(folder / path.name)
    figures = json.loads(
        journey.do(
            *("evaluate", "MlpMixerB16", "--weights=imagenet", "--json"),
            f"--dataset=folder:{home / 'imagenet'}",
        )
    )
    assert (figures["examples"], figures["top1"]) == (len(paths), 1.0)
    assert len(server.requests) == 2
