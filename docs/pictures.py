"""Draw the README's picture and that of "How it works": python docs/pictures.py."""

import io
import pathlib

import numpy as np
import skimage.data
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

import keras_mixer
from keras_mixer import visualize

HERE = pathlib.Path(__file__).parent
BLUE, GREY = "#2a6db0", "#c4c9ce"


def photograph():
    """What MlpMixerNano4 says of a photograph, beside units that mix its tokens."""
    model = keras_mixer.MlpMixerNano4(weights="cifar10")
    photo = skimage.data.chelsea()
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    seen = keras_mixer.load_image(file.getvalue(), weights=model)
    scores = model.predict(seen[None], verbose=0)
    (ranked,) = keras_mixer.decode_predictions(scores, top=5, weights="cifar10")

    figure = Figure(figsize=(10, 3.1), dpi=100, layout="constrained")
    image, bars, units = figure.subplots(1, 3, width_ratios=[1.5, 1.05, 1])
    image.imshow(photo)
    image.set_title("a photograph", loc="left", fontsize=11)
    image.set_axis_off()

    names = [name for _, name, _ in ranked]
    percents = [100 * score for *_, score in ranked]
    ranks = bars.barh(names, percents, color=[BLUE] + [GREY] * 4, height=0.6)
    bars.bar_label(ranks, fmt="%.1f %%", padding=3)
    bars.invert_yaxis()
    bars.set_xlim(0, 135)
    bars.set_xticks([])
    bars.tick_params(length=0, labelsize=11)
    bars.spines[:].set_visible(False)
    bars.set_title("what the Mixer says", loc="left", fontsize=11)

    tiles = visualize.token_mixing_units(model, 0)
    pairs, _, _ = visualize.sorted_pairs(tiles)
    tiles = tiles[np.ravel(pairs)[:36]]
    tiles = tiles / np.abs(tiles).max((1, 2), keepdims=True)
    framed = np.pad(tiles, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    side = framed.shape[1]
    mosaic = framed.reshape(6, 6, side, side).swapaxes(1, 2).reshape(6 * side, -1)
    units.imshow(mosaic[:-1, :-1], cmap="RdBu_r", vmin=-1, vmax=1)
    units.set_title("36 of its token-mixing units", loc="left", fontsize=11)
    units.set_axis_off()
    drawn = io.BytesIO()
    figure.savefig(drawn)
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(160, dither=Image.Dither.NONE).save(
        HERE / "photograph.png", optimize=True
    )


def mixer():
    """The way of an image through the model: a block is drawn in full."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 16), ylim=(0, 8.8), aspect="equal")
    axes.set_axis_off()

    def box(x, y, width, text, color="white"):
        shape = FancyBboxPatch(
            (x, y),
            width,
            1,
            boxstyle="round,pad=0.1",
            facecolor=color,
            edgecolor="#444",
        )
        axes.add_patch(shape)
        axes.text(x + width / 2, y + 0.5, text, ha="center", va="center", fontsize=9)

    def arrow(start, end, bend=""):
        style = {"arrowstyle": "->", "color": "#444", "connectionstyle": bend or None}
        axes.annotate("", end, start, arrowprops=style)

    top = [
        "image",
        "patches",
        "linear map\nof each patch",
        "N blocks",
        "norm, mean\nof tokens",
    ]
    colors = ["white", "white", "#e4edf7", "#fdf1d8", "white"]
    for number, (text, color) in enumerate(zip(top, colors, strict=True)):
        box(0.2 + 2.7 * number, 7.3, 1.9, text, color)
        arrow((2.2 + 2.7 * number, 7.8), (2.8 + 2.7 * number, 7.8))
    box(13.7, 7.3, 1.9, "head:\nclasses", "#e4edf7")

    axes.add_patch(
        FancyBboxPatch(
            (0.2, 0.3), 15.4, 5.6, boxstyle="round,pad=0.1", facecolor="#fdf1d8", lw=0
        )
    )
    axes.text(0.5, 5.3, "one block; tokens are rows, channels are columns", fontsize=10)
    axes.plot([8.3, 0.3], [7.15, 6.05], ls=":", color="#888")
    axes.plot([10.2, 15.5], [7.15, 6.05], ls=":", color="#888")
    rows = [
        (
            3.1,
            ["norm", "transpose", "MLP over the\ntokens", "transpose"],
            "token mixing",
        ),
        (0.8, ["norm", "MLP over the\nchannels"], "channel mixing"),
    ]
    for y, steps, name in rows:
        axes.text(0.5, y + 0.5, name, va="center", fontsize=9, weight="bold")
        for number, text in enumerate(steps):
            color = "#cfe0f2" if "MLP" in text else "white"
            box(3.9 + 2.6 * number, y, 1.9, text, color)
            arrow((3.3 + 2.6 * number, y + 0.5), (3.8 + 2.6 * number, y + 0.5))
        end = 3.9 + 2.6 * len(steps)
        arrow((end - 0.6, y + 0.5), (end + 0.4, y + 0.5))
        axes.text(end + 0.6, y + 0.5, "+", ha="center", va="center", fontsize=14)
        axes.plot(
            [3.4, 3.4, end + 0.6], [y + 0.5, y + 1.6, y + 1.6], color="#444", lw=1
        )
        arrow((end + 0.6, y + 1.6), (end + 0.6, y + 0.8))
        axes.text(3.6, y + 1.7, "skip", fontsize=8, color="#666")
    figure.savefig(HERE / "mixer.svg", metadata={"Date": None})


if __name__ == "__main__":
    photograph()
    mixer()
