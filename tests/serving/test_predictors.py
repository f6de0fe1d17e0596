"""Whatever labels images gives the same answers to the same files."""

import json
import shutil

import numpy as np
import pytest
from program import keras_mixer_main
from serving_support import LABELS, crops, encoded, random_model

from keras_mixer.serving import Answer, open_predictor

SUFFIXES = (".onnx", ".xml", ".tflite")


@pytest.fixture(scope="module")
def folder(exported_files, tmp_path_factory):
    """A model as it was trained, and as a file for each runtime."""
    folder = tmp_path_factory.mktemp("predictors")
    shutil.copytree(exported_files, folder, dirs_exist_ok=True)
    random_model().save(folder / "model.keras")
    (folder / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    return folder


@pytest.fixture
def models(folder, exported, local_server):
    """Every kind of model of the same weights, as `--model` takes it."""
    return {
        "the model": random_model(),
        "its file": folder / "model.keras",
        "its run": folder,
        **{suffix: folder / f"m{suffix}" for suffix in SUFFIXES},
        "SavedModel": exported / "1",
        "its versions": exported,
        "REST": local_server.model_url,
        "gRPC": f"grpc://{local_server.grpc}/v1/models/{local_server.model}",
    }


@pytest.mark.slow
def test_every_kind_gives_the_same_answers(models, photos, files):
    # Of 27 x 27 pixels the crop is cut out as it is. What is resized differs by a grey
    # level here and there between Pillow and the exported graph.
    whole = {
        name: encoded(photo.resize((27, 27)), "PNG") for name, photo in photos.items()
    }
    check_answers(models, whole.values(), tolerance=1e-4)
    check_answers(models, files.values(), tolerance=2e-3)


def check_answers(models, files, tolerance):
    expected = random_model().predict(crops(files))
    for kind, model in models.items():
        labels = LABELS if kind == "the model" else None
        predictor = open_predictor(model, labels=labels, top_k=3)
        answers = predictor.predict([predictor.prepare(file) for file in files])
        for answer, row in zip(answers, expected, strict=True):
            best = np.argsort(-row)[:3]
            assert answer.error is None, kind
            assert [label for _, label, _ in answer.guesses] == [
                LABELS[index] for index in best
            ], kind
            scores = [score for *_, score in answer.guesses]
            np.testing.assert_allclose(scores, row[best], atol=tolerance, err_msg=kind)


def test_a_broken_image_fails_alone(models, files):
    for kind, model in models.items():
        predictor = open_predictor(model, top_k=2)
        prepared = []
        for file in (files["cat"], b"no image", files["coffee"]):
            try:
                prepared.append(predictor.prepare(file))
            except ValueError as error:
                assert "JPEG, PNG" in str(error)
        answers = predictor.predict(prepared)
        errors = [answer.error for answer in answers if answer.error is not None]
        assert len(answers) - len(errors) == 2, kind
        assert errors == [] or errors[0].startswith("not an image that the "), kind
        assert [len(answer.guesses) for answer in answers if not answer.error] == [2, 2]


def test_logits_are_answered_with_probabilities(files):
    model = random_model(classifier_activation=None)
    softmax = open_predictor(random_model(), top_k=7)
    logits = open_predictor(model, top_k=7)
    prepared = [softmax.prepare(file) for file in files.values()]
    for answer, expected in zip(
        logits.predict(prepared), softmax.predict(prepared), strict=True
    ):
        for guess, wanted in zip(answer.guesses, expected.guesses, strict=True):
            assert guess[:2] == wanted[:2]
            assert guess[2] == pytest.approx(wanted[2], abs=1e-6)


def test_a_model_without_preprocessing_is_told_its_tag(files):
    model = random_model(include_preprocessing=False)
    with pytest.raises(ValueError, match=r"without a layer named `preprocessing`"):
        open_predictor(model)
    told, own = (
        open_predictor(model, weights="imagenet"),
        open_predictor(random_model()),
    )
    cat = [own.prepare(files["cat"])]
    (answer,), (expected,) = told.predict(cat), own.predict(cat)
    scores, wanted = ([g[2] for g in a.guesses] for a in (answer, expected))
    np.testing.assert_allclose(scores, wanted, atol=1e-6)


def test_labels_may_be_others_than_the_exported(folder, files):
    predictor = open_predictor(folder / "m.onnx", labels=list("abcdefg"), top_k=1)
    (answer,) = predictor.predict([predictor.prepare(files["cat"])])
    assert answer.guesses[0][1] in "abcdefg"
    with pytest.raises(ValueError, match=r"with 2 names, and a model of 7 classes"):
        open_predictor(folder / "m.onnx", labels=["a", "b"])


@pytest.mark.parametrize("kind", [".onnx", "its versions", "REST"])
def test_what_is_not_for_an_exported_model_is_refused(models, kind):
    arguments = {"weights": "imagenet", "precision": "bfloat16", "features": True}
    if kind != ".onnx":
        arguments["labels"] = LABELS
    for name, value in arguments.items():
        with pytest.raises(ValueError, match=f"{name} is for a Keras model"):
            open_predictor(models[kind], **{name: value})


def test_files_that_cannot_be_opened_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"file that exists. Received: none.onnx"):
        open_predictor("none.onnx")
    for suffix in SUFFIXES:
        lonely = tmp_path / f"lonely{suffix}"
        shutil.copy(folder / f"m{suffix}", lonely)
        with pytest.raises(ValueError, match=rf"it, {lonely.name}.keras_mixer.json"):
            open_predictor(lonely)
        for beside in (".keras_mixer.json", ".labels.txt"):
            shutil.copy(folder / f"m{suffix}{beside}", f"{lonely}{beside}")
        if suffix != ".xml":  # whose .bin is its own
            assert isinstance(open_predictor(lonely).predict, object)
        lonely.write_bytes(b"junk")
        with pytest.raises(ValueError, match=r"must be able to read the file"):
            open_predictor(lonely)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 0),
        ("classes", "7"),
        ("preprocessing", {"mean": [0, 0, 0], "std": [0, 0, 0]}),
        ("preprocessing", {"crop_ratio": 2}),
        ("preprocessing", None),
    ],
)
def test_a_card_that_says_the_impossible_is_refused(folder, tmp_path, key, value):
    for beside in ("", ".keras_mixer.json", ".labels.txt"):
        shutil.copy(folder / f"m.onnx{beside}", tmp_path / f"m.onnx{beside}")
    path = tmp_path / "m.onnx.keras_mixer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=rf"{path.name}, which says how images"):
        open_predictor(tmp_path / "m.onnx")


def test_a_folder_that_is_no_saved_model_of_ours_is_named(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match=r"folder of a training run"):
        open_predictor(tmp_path)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"exported by this package. Received: .*1 \("):
        open_predictor(tmp_path)


def test_the_program_labels_with_what_was_exported(folder, exported, photos, tmp_path):
    (tmp_path / "cat.png").write_bytes(encoded(photos["cat"].resize((27, 27)), "PNG"))
    answers = []
    for model in (folder, folder / "m.onnx", folder / "m.xml", exported):
        result = keras_mixer_main(
            "predict", tmp_path / "cat.png", f"--model={model}", "--json", "--top-k=2"
        )
        assert result.returncode == 0, result.stderr
        answers.append(json.loads(result.stdout)[0]["predictions"])
    for answer in answers[1:]:
        for guess, expected in zip(answer, answers[0], strict=True):
            assert guess["label"] == expected["label"]
            assert guess["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_an_answer_holds_a_guess_or_a_reason():
    assert Answer().guesses == ()
    assert Answer(error="no").error == "no"
