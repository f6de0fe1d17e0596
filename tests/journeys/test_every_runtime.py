"""From scanned digits to every format: each labels the test digits as Keras does."""

import json

import keras
import numpy as np
import PIL.Image
import pytest
from program import keras_mixer_main

import keras_mixer
from keras_mixer.data import open_source

FORMATS = ("digits.onnx", "digits.xml", "digits.tflite", "models/digits")


def do(*arguments):
    done = keras_mixer_main(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_digits_to_every_runtime(home):
    sizes = ("--model=MlpMixerNano4", "--steps=40", "--warmup_steps=5")
    do("train", "--dataset=digits", *sizes, "--output_dir=run")
    test = open_source("digits").splits["test"]
    (home / "test").mkdir()
    for number, image in enumerate(test.images):
        PIL.Image.fromarray(image).save(home / "test" / f"{number:04}.png")

    model = keras.models.load_model("run/model.keras")
    paths = sorted((home / "test").iterdir())
    crops = np.stack([keras_mixer.load_image(path, weights=model) for path in paths])
    expected = model.predict(crops, verbose=0)

    for out in FORMATS:
        assert do("export", "run", out).splitlines()[-1].startswith(out)
        answers = json.loads(do("predict", "test", f"--model={out}", "--json"))
        assert [answer["image"] for answer in answers] == [
            f"test/{path.name}" for path in paths
        ]
        # A SavedModel resizes 8 x 8 pixels itself, a grey level off in one of 2,000.
        tolerance = 0.02 if out == "models/digits" else 1e-4
        for answer, row in zip(answers, expected, strict=True):
            guesses = answer["predictions"]
            if np.ptp(np.sort(row)[-2:]) > tolerance:
                assert guesses[0]["label"] == str(row.argmax()), out
            for guess in guesses:
                score = row[int(guess["label"])]
                assert guess["score"] == pytest.approx(score, abs=tolerance), out
