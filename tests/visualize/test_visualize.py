"""Figures show what they are given; units find their opposites, and their order."""

import sys

import keras
import numpy as np
import pytest
from PIL import Image
from tiny import build_tiny

from keras_mixer import visualize
from keras_mixer.training import Evaluation, Example

matplotlib = pytest.importorskip("matplotlib")

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


def pixels(figure, path):
    visualize.save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(picture, color):
    """Return the share of the pixels that have a colour, given as `#rrggbb`."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(picture - rgb).max(-1) < 8).mean()


def texts(figure):
    """Return every text of a figure that is not empty."""
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_text()]


def bar_names(figure):
    """Return the names beside the bars of each panel that has bars."""
    panels = [axes for axes in figure.axes if axes.patches]
    return [[tick.get_text() for tick in axes.get_yticklabels()] for axes in panels]


def waves(size=8):
    """Return four images: a wave and its opposite, slow and fast, out of order."""
    x = np.arange(size)
    slow = np.sin(2 * np.pi * x / size) + np.zeros((size, 1))
    fast = np.sin(2 * np.pi * 2 * x / size)[:, None] + np.zeros(size)
    return np.stack([fast, slow, -fast, -slow])


# Weights as images.


def test_spatial_frequency_is_in_cycles_a_pixel():
    even, stripes = np.ones((8, 8)), np.tile([1.0, -1.0], (8, 4))
    chessboard = stripes * np.array([1, -1] * 4)[:, None]
    found = visualize.spatial_frequency([even, stripes, chessboard, *waves()[:2]])
    np.testing.assert_allclose(found, [0, 0.5, np.sqrt(0.5), 2 / 8, 1 / 8], atol=1e-9)
    assert visualize.spatial_frequency(np.zeros((1, 4, 4))) == 0


def test_spatial_frequency_sums_the_power_of_the_channels():
    colored = np.zeros((1, 8, 8, 3))
    colored[0, ..., 0], colored[0, ..., 2] = waves()[0], waves()[1]
    np.testing.assert_allclose(visualize.spatial_frequency(colored), [1.5 / 8])


def test_pairs_are_opposites_by_frequency():
    pairs, frequencies, correlations = visualize.sorted_pairs(waves())
    assert [set(pair) for pair in pairs.tolist()] == [{1, 3}, {0, 2}]
    np.testing.assert_allclose(frequencies, [1 / 8, 2 / 8])
    np.testing.assert_allclose(correlations, [-1, -1])


def test_the_brighter_of_a_pair_comes_first():
    pairs, _, _ = visualize.sorted_pairs(waves() + np.array([[[0]], [[-1]]] * 2))
    assert pairs[0].tolist() in ([1, 3], [3, 1])
    brighter = waves() + np.array([0, 0, 0.5, 0.5])[:, None, None]
    pairs, _, _ = visualize.sorted_pairs(brighter)
    assert pairs.tolist() == [[3, 1], [2, 0]]


def test_of_an_odd_number_one_is_left_out():
    pairs, correlations = visualize.pair_opposites(waves()[:3])
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {(0, 2)}
    assert correlations.shape == (1,)


def test_units_are_columns_of_fc1_on_the_patch_grid():
    model = build_tiny(input_shape=(8, 12, 3))
    kernel = model.get_layer("block1_token_mixing").fc1.kernel.numpy()
    units = visualize.token_mixing_units(model, 1)
    assert units.shape == (5, 2, 3)
    np.testing.assert_array_equal(units[4, 1, 2], kernel[5, 4])
    np.testing.assert_array_equal(units[2].ravel(), kernel[:, 2])


def test_stem_filters_are_found_in_a_mixer_inside_a_model(tiny):
    outer = keras.Sequential([keras.Input(tiny.input_shape[1:]), tiny])
    filters = visualize.stem_filters(outer)
    assert filters.shape == (10, 4, 4, 3)
    kernel = tiny.get_layer("stem").kernel.numpy()
    np.testing.assert_array_equal(filters[7], kernel[..., 7])


def test_weight_images_say_what_they_need(tiny):
    with pytest.raises(ValueError, match=r"from 0 to 1\. Received: block=2\."):
        visualize.token_mixing_units(tiny, 2)
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="dense")
    with pytest.raises(ValueError, match=r"must be an MLP-Mixer.*Received: 'dense'"):
        visualize.plot_stem(dense)


# Figures of weights.


def test_plot_token_mixing_draws_the_pairs_in_order(tiny):
    kernel = tiny.get_layer("block0_token_mixing").fc1.kernel
    units = np.zeros((5, 3, 3), "float32")
    units[0], units[3] = 2, -1  # even: the lowest frequency
    units[1] = [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]
    units[4] = -units[1]
    units[2] = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    kernel.assign(units.reshape(5, 9).T)
    figure = visualize.plot_token_mixing(tiny, blocks=(0,))
    mosaic = figure.axes[0].images[0].get_array()
    # Each unit is 3 x 8 pixels wide, scaled by its largest weight.
    even = mosaic[:24, :24]
    assert np.ma.is_masked(mosaic[0, 24]) or np.isnan(mosaic[0, 24])
    assert np.ptp(even) == 0 and abs(even[0, 0]) == 1
    assert "block 0: 2 pairs\n" in "".join(texts(figure))


def test_plot_token_mixing_draws_every_block_asked_for(tiny, tmp_path):
    figure = visualize.plot_token_mixing(tiny, blocks=(0, 1), max_pairs=1)
    words = "".join(texts(figure))
    assert "block 0: 1 of 2 pairs" in words and "block 1: 1 of 2 pairs" in words
    assert f"{tiny.name}: token-mixing units" in words
    picture = pixels(figure, tmp_path / "units.png")
    assert picture.std() > 5


def test_plot_stem_draws_filters_by_frequency(tiny):
    kernel = np.full((4, 4, 3, 10), 0.1, "float32")
    kernel[..., :9] *= np.array([1, -1, 1, -1])[:, None, None, None]
    kernel[:2, :2, :, 1:9] *= 0.5
    tiny.get_layer("stem").kernel.assign(kernel)
    figure = visualize.plot_stem(tiny)
    mosaic = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(mosaic[:4, :4], 1, rtol=1e-6)  # filter 9, all positive
    assert mosaic[:4, 5:9].min() == 0
    assert "10 filters of 4 x 4 pixels, 0.00 to" in "".join(texts(figure))


# Figures of predictions and training.


def example(prediction):
    image = np.full((8, 8, 3), 128, "uint8")
    return Example(image, label=1, prediction=prediction, score=0.75)


def test_plot_predictions_names_classes_and_scores():
    ranked = [("n1", "Egyptian_cat", 0.75), ("n2", "dog", 0.125)]
    figure = visualize.plot_predictions(
        [np.full((8, 8, 3), 99.0)] * 3, [ranked, ranked[:1], ranked], title="Three"
    )
    words = texts(figure)
    both = ["Egyptian cat", "dog"]
    assert bar_names(figure) == [both, both[:1], both]
    assert words.count("75.0") == 3 and words.count("12.5") == 2
    assert "Three" in words
    widths = [bar.get_width() for bar in figure.axes[1].patches]
    assert widths == [75, 12.5]
    with pytest.raises(ValueError, match=r"as many predictions.*Received: 1 for 2"):
        visualize.plot_predictions([np.zeros((8, 8, 3))] * 2, [ranked])


def test_plot_examples_marks_wrong_ones_in_red(tmp_path):
    names = ["cat", "dog"]
    red = {}
    for name, predictions in [("right", [1, 1]), ("wrong", [1, 0])]:
        figure = visualize.plot_examples([example(p) for p in predictions], names)
        picture = pixels(figure, tmp_path / "e.png")
        red[name] = (picture[..., 0] - picture[..., 1:].max(-1) > 100).mean()
    assert red["right"] == 0
    assert red["wrong"] > 1e-3
    assert "cat  75 %\nis dog" in texts(figure)


def test_plot_evaluation_says_how_many_errors_the_sheet_has():
    labels, predictions = np.ones(50, int), np.ones(50, int)
    predictions[:3] = 0
    evaluation = Evaluation(
        *(0.94, 1.0, 0.1, 50, 9.0),
        labels=labels,
        predictions=predictions,
        shown=(example(0), example(0), example(1)),
    )
    figure = visualize.plot_evaluation(
        evaluation, ["cat", "dog"], title="Nano4 on pets"
    )
    assert figure.get_suptitle() == (
        "Nano4 on pets\n3 of 50 images, with 2 of the 3 errors; 94.0% of all are right"
    )


def test_plot_images_shows_each_image(tmp_path):
    images = [np.full((4, 4, 3), value, "float32") for value in range(0, 250, 20)]
    figure = visualize.plot_images(images, ["a"] * len(images), title="t")
    picture = pixels(figure, tmp_path / "s.png")
    for value in range(0, 250, 20):
        assert share_of(picture, f"#{value:02x}{value:02x}{value:02x}") > 1e-3
    with pytest.raises(ValueError, match=r"as many captions.*Received: 1 for 13\."):
        visualize.plot_images(images, ["a"], title="t")


@pytest.mark.parametrize("classes", [2, 10, 60])
def test_plot_confusion_shows_mistakes(classes):
    labels = np.arange(classes).repeat(3)
    predictions = labels.copy()
    predictions[0] = 1
    names = [f"class {n}" for n in range(classes)]
    figure = visualize.plot_confusion(
        labels, predictions, names, title="MlpMixer on digits"
    )
    matrix = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(matrix[0, :2], [2 / 3, 1 / 3])
    words = texts(figure)
    assert "MlpMixer on digits" in words
    assert f"{3 * classes - 1} of {3 * classes} right" in "".join(words)
    assert ("class 0" in words) == (classes <= 40)


def test_plot_curves_draws_train_and_validation(tmp_path):
    figure = visualize.plot_curves(HISTORY)
    loss, accuracy, rate = figure.axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata()[-1], 90)
    np.testing.assert_allclose(rate.lines[0].get_ydata()[1], 0.05)
    path = tmp_path / "curves.png"
    assert share_of(pixels(figure, path), loss.lines[1].get_color()) > 1e-3
    assert list(tmp_path.iterdir()) == [path]


def test_plot_curves_does_without_validation_and_learning_rate():
    rows = [{k: row[k] for k in ("epoch", "loss", "accuracy")} for row in HISTORY]
    figure = visualize.plot_curves(rows)
    assert len(figure.axes) == 2
    assert [line.get_label() for line in figure.axes[0].lines] == ["train"]


def test_plot_curves_says_whose_labels_are_smoothed():
    loss, accuracy, _ = visualize.plot_curves(HISTORY, smoothed=True).axes
    smoothed = "train (labels smoothed or mixed)"
    assert [line.get_label() for line in loss.lines] == [smoothed, "validation"]
    assert [line.get_label() for line in accuracy.lines] == ["train", "validation"]


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_plot_curves_of_one_epoch_have_that_tick_and_nothing_negative(rate):
    row = {"epoch": 1, "loss": 0.0, "accuracy": 0.0, "learning_rate": rate}
    for axes in visualize.plot_curves([row]).axes:
        low, high = axes.get_xlim()
        assert [t for t in axes.get_xticks() if low <= t <= high] == [1]
        assert axes.get_ylim()[0] >= 0


def test_plot_curves_takes_what_fit_returns():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    history = model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, verbose=0)
    line = visualize.plot_curves(history).axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), history.history["loss"])


def test_plot_curves_needs_an_epoch():
    with pytest.raises(ValueError, match=r"at least one .*epoch\. Received: none"):
        visualize.plot_curves([])


def test_figures_leave_pyplot_alone():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    visualize.plot_curves(HISTORY)
    visualize.plot_images([np.zeros((4, 4, 3))], ["a"], title="t")
    assert pyplot.get_fignums() == before


def test_pictures_name_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"matplotlib.*keras-mixer\[train\]"):
        visualize.plot_curves(HISTORY)
