"""Pictures are written, whole, and show what they are given."""

import numpy as np
import pytest
from PIL import Image

from keras_mixer import visualize
from keras_mixer.evaluation import Example

pytest.importorskip("matplotlib")

HISTORY = [
    {
        "epoch": epoch,
        "loss": 2.0 / epoch,
        "val_loss": 1.5 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "val_accuracy": 1 - 0.4 / epoch,
        "learning_rate": 0.1 / epoch,
    }
    for epoch in range(1, 6)
]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(picture, color):
    """Return the share of the pixels that have a colour, given as `#rrggbb`."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(picture - rgb).max(-1) < 8).mean()


def example(prediction):
    image = np.full((8, 8, 3), 128, "uint8")
    return Example(image, label=1, prediction=prediction, score=0.75)


def test_training_curves_draw_train_and_validation(tmp_path):
    path = tmp_path / "curves.png"
    visualize.training_curves(HISTORY, path)
    picture = pixels(path)
    assert share_of(picture, visualize._VAL) > 1e-3
    assert share_of(picture, visualize._TRAIN) > 1e-3
    assert list(tmp_path.iterdir()) == [path]


def test_training_curves_do_without_validation(tmp_path):
    rows = [
        {k: v for k, v in row.items() if not k.startswith("val_")} for row in HISTORY
    ]
    visualize.training_curves(rows, tmp_path / "curves.png")
    assert share_of(pixels(tmp_path / "curves.png"), visualize._VAL) == 0


def test_prediction_sheet_marks_wrong_ones_in_red(tmp_path):
    names = ["cat", "dog"]
    red = {}
    for name, predictions in [("right", [1, 1]), ("wrong", [1, 0])]:
        path = tmp_path / f"{name}.png"
        visualize.prediction_sheet([example(p) for p in predictions], names, path)
        red[name] = share_of(pixels(path), visualize._WRONG)
    assert red["right"] == 0
    assert red["wrong"] > 1e-3


def test_image_sheet_shows_each_image(tmp_path):
    images = [np.full((4, 4, 3), value, "float32") for value in range(0, 250, 20)]
    visualize.image_sheet(images, ["a"] * len(images), tmp_path / "s.png", title="t")
    picture = pixels(tmp_path / "s.png")
    for value in range(0, 250, 20):
        assert share_of(picture, f"#{value:02x}{value:02x}{value:02x}") > 1e-3


@pytest.mark.parametrize("classes", [2, 10, 60])
def test_confusion_matrix_shows_mistakes(tmp_path, classes):
    labels = np.arange(classes).repeat(3)
    predictions = labels.copy()
    predictions[0] = 1
    names = [f"class {n}" for n in range(classes)]
    path = tmp_path / "matrix.png"
    visualize.confusion_matrix(labels, predictions, names, path)
    picture = pixels(path)
    if classes <= 40:
        assert share_of(picture, visualize._WRONG) > 0
    assert picture.std() > 5


def test_pictures_name_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"matplotlib.*keras-mixer\[train\]"):
        visualize.training_curves(HISTORY, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []
