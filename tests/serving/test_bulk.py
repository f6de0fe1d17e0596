"""Collections to answers: order, batches, reasons, and what a table of them holds."""

import csv
import io
import json
import threading

import numpy as np
import pyarrow.parquet
import pytest
from collections_rack import write_all, write_files
from image_rack import KINDS, encode

import keras_mixer
from keras_mixer.data.collections import Collection
from keras_mixer.serving import Answer, bulk, open_predictor

IMAGES = {
    "a.jpg": KINDS["grey_jpeg"][0],
    "b.jpg": KINDS["progressive_jpeg"][0],
    "sub/c.jpg": KINDS["cmyk_jpeg"][0],
}
LABELS = [*"abcdefghijk"]


class Counting:
    """A predictor whose answers tell the batch, and which waits where it is told."""

    def __init__(self):
        self.batches = []
        self.prepared = 0
        self.lock = threading.Lock()

    def prepare(self, file):
        with self.lock:
            self.prepared += 1
        if file == b"bad":
            raise ValueError("not\n  this one")
        return file

    def predict(self, prepared):
        self.batches.append(len(prepared))
        return [Answer(((item.decode(), "label", 0.5),)) for item in prepared]


def collection(folder, contents):
    names = [f"{n:04d}.jpg" for n in range(len(contents))]
    return Collection([write_files(folder, dict(zip(names, contents, strict=True)))])


def test_every_kind_of_collection_gets_the_answers_of_load_image(tmp_path, tiny):
    expected = [
        np.sort(np.asarray(tiny(keras_mixer.load_image(f, weights=tiny)[None]))[0])[
            ::-1
        ]
        for f in IMAGES.values()
    ]
    for kind, (inputs, listed) in write_all(tmp_path, IMAGES).items():
        source = inputs if listed is None else (line[:-1].decode() for line in listed)
        answers = list(keras_mixer.predict_files(tiny, source, labels=LABELS))
        assert len({name for name, _ in answers}) == 3, kind
        for (_, answer), scores in zip(answers, expected, strict=True):
            assert answer.error is None
            got = [score for *_, score in answer.guesses]
            np.testing.assert_allclose(got, scores[:5], atol=1e-6, err_msg=kind)


def test_answers_come_in_order_in_full_batches_with_reasons(tmp_path):
    contents = [b"bad" if n % 7 == 3 else str(n).encode() for n in range(50)]
    predictor = Counting()
    records = collection(tmp_path, contents)
    answers = list(bulk.label(predictor, records, batch_size=8, workers=4))
    for (name, answer), content in zip(answers, contents, strict=True):
        if content == b"bad":
            assert answer == Answer(error="not this one")
        else:
            assert answer.guesses[0][0] == content.decode() == str(int(name[-8:-4]))
    assert predictor.batches == [8, 8, 8, 8, 8, 3]


def test_reading_stays_a_few_batches_ahead(tmp_path):
    predictor = Counting()
    records = collection(tmp_path, [b"x"] * 200)
    answers = bulk.label(predictor, records, batch_size=4, workers=2)
    next(answers)
    answers.close()
    assert predictor.batches == [4]
    assert predictor.prepared <= 4 + 2 * 4 + 2 + 1


def test_many_unreadable_ones_are_not_held_back(tmp_path):
    predictor = Counting()
    records = collection(tmp_path, [b"bad"] * 100)
    answers = bulk.label(predictor, records, batch_size=2)
    assert next(answers)[1].error == "not this one"
    assert predictor.prepared < 30
    assert len(list(answers)) == 99
    assert predictor.batches == []


def test_predict_files_gives_features_on_request(tmp_path, tiny):
    source = write_files(tmp_path, IMAGES)
    (_, plain), *_ = keras_mixer.predict_files(tiny, source, labels=LABELS)
    assert plain.features is None
    pool = keras_mixer.features(tiny)
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 0.1)):
        answers = keras_mixer.predict_files(
            tiny, str(source), labels=LABELS, features=True, precision=precision
        )
        for (name, answer), file in zip(answers, IMAGES.values(), strict=True):
            image = keras_mixer.load_image(file, weights=tiny)[None]
            expected = np.asarray(pool(image))[0]
            assert answer.features.dtype == np.float32, name
            np.testing.assert_allclose(answer.features, expected, atol=tolerance)


def test_wrong_arguments_are_refused(tmp_path, tiny):
    source = write_files(tmp_path, IMAGES)
    for arguments, words in [
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"workers": -1}, "workers must be a positive integer"),
        ({"precision": "int3"}, "precision must be one of"),
        ({"top_k": 0}, "top_k must be a positive integer"),
    ]:
        with pytest.raises(ValueError, match=words):
            keras_mixer.predict_files(tiny, source, labels=LABELS, **arguments)
    with pytest.raises(ValueError, match="at least one image"):
        keras_mixer.predict_files(tiny, [], labels=LABELS)
    with pytest.raises(ValueError, match="features is for a Keras model"):
        open_predictor("http://127.0.0.1:9/v1/models/mixer", features=True)


ANSWERS = [
    ("a.jpg", Answer((("n1", "cat", 0.75), ("n2", "dog", 0.1)))),
    ('b, "c"\n.jpg', Answer(error="no image")),
    ("caf\\xe9.jpg", Answer((("n2", "dog", 0.30000001192092896),))),
]
FEATURES = [np.array([1.5, -0.1], "float32"), None, np.array([2, 3], "float32")]


def written(layout, answers=ANSWERS):
    return bulk.LabelledShard.of(answers, layout).content


def test_parquet_has_a_row_an_image():
    layout = bulk.Layout("parquet", top_k=2, features=True)
    answers = [
        (name, Answer(answer.guesses, answer.error, features))
        for (name, answer), features in zip(ANSWERS, FEATURES, strict=True)
    ]
    content = written(layout, answers)
    assert content == written(layout, answers)
    rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    assert rows == [
        {
            "path": "a.jpg",
            "valid": True,
            "reason": None,
            "classes": ["n1", "n2"],
            "labels": ["cat", "dog"],
            "scores": [0.75, pytest.approx(0.1)],
            "features": [1.5, pytest.approx(-0.1)],
        },
        {
            "path": 'b, "c"\n.jpg',
            "valid": False,
            "reason": "no image",
            "classes": [],
            "labels": [],
            "scores": [],
            "features": None,
        },
        {
            "path": "caf\\xe9.jpg",
            "valid": True,
            "reason": None,
            "classes": ["n2"],
            "labels": ["dog"],
            "scores": [pytest.approx(0.3)],
            "features": [2, 3],
        },
    ]
    empty = bulk.Layout("parquet", features=True)
    failed = written(empty, [("x", Answer(error="no"))])
    schemas = [pyarrow.parquet.read_schema(io.BytesIO(c)) for c in (content, failed)]
    assert schemas[0] == schemas[1]


def test_json_lines_say_the_same_in_short_numbers():
    lines = written(bulk.Layout("jsonl")).decode().splitlines()
    assert lines[0] == (
        '{"path": "a.jpg", "valid": true, "reason": null, "classes": ["n1", "n2"], '
        '"labels": ["cat", "dog"], "scores": [0.75, 0.1]}'
    )
    assert [json.loads(line)["path"] for line in lines] == [n for n, _ in ANSWERS]
    assert json.loads(lines[2])["scores"] == [0.3]


def test_csv_has_columns_for_each_guess():
    text = written(bulk.Layout("csv", top_k=2)).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0] == {
        **{"path": "a.jpg", "valid": "true", "reason": ""},
        **{"class_1": "n1", "label_1": "cat", "score_1": "0.75"},
        **{"class_2": "n2", "label_2": "dog", "score_2": "0.1"},
    }
    assert rows[1]["path"] == 'b, "c"\n.jpg'
    assert (rows[1]["valid"], rows[1]["reason"]) == ("false", "no image")
    assert (rows[2]["score_1"], rows[2]["label_2"]) == ("0.3", "")
    with pytest.raises(ValueError, match="Features are lists, which CSV has not"):
        bulk.Layout("csv", features=True)


@pytest.mark.parametrize("form", bulk.FORMATS)
def test_a_file_appears_whole_or_not_at_all(form, tmp_path):
    path = tmp_path / f"answers.{form}"
    bulk.write_table(path, ANSWERS, bulk.Layout(form))
    before = path.read_bytes()

    def failing():
        yield ANSWERS[0]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        bulk.write_table(path, failing(), bulk.Layout(form))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ValueError, match="There must be a folder for"):
        bulk.write_table(tmp_path / "no" / path.name, ANSWERS, bulk.Layout(form))


def test_models_are_told_apart_by_their_weights_and_labels(tmp_path, tiny):
    tiny.save(tmp_path / "model.keras")
    identity = bulk.model_identity(tmp_path / "model.keras")
    assert bulk.model_identity(str(tmp_path)).split()[1] == identity.split()[1]
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with_labels = bulk.model_identity(tmp_path / "model.keras")
    assert with_labels != identity
    named = bulk.model_identity("MlpMixerNano4", "cifar10")
    assert named == bulk.model_identity("MlpMixerNano4", "cifar10")
    assert named.startswith("MlpMixerNano4 ")
    assert named != bulk.model_identity("MlpMixerNano4", "cifar10", ["a"])
    first = bulk.model_identity(tiny)
    assert first == bulk.model_identity(tiny)
    tiny.weights[0].assign(tiny.weights[0] + 1)
    assert first != bulk.model_identity(tiny)


def test_an_image_of_100_megapixels_is_a_row_with_its_reason(tmp_path, tiny):
    large = encode(np.zeros((10_000, 10_000), "uint8"), "PNG", compress_level=1)
    source = write_files(tmp_path, {"a.png": large, "b.jpg": IMAGES["b.jpg"]})
    (_, first), (_, second) = keras_mixer.predict_files(tiny, source, labels=LABELS)
    assert "at most 50,000,000 pixels" in first.error
    assert second.error is None
