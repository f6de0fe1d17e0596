"""Photographs as phones and other people leave them, in class folders."""

import json

import journey
import numpy as np
import pytest
from PIL import Image

# What a camera turned so that EXIF says `orientation` has stored.
STORED_AS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
MODES = ["grey", "alpha", "cmyk"]


def pictures_of(photos):
    """Photographs the right way up, and of the same things hung upside down."""
    rng = np.random.default_rng(0)
    standing, hanging = [], []
    for number in range(70):
        photo = photos[("astronaut", "china", "coffee", "rocket")[number % 4]]
        left, top = rng.integers(0, 30, 2)
        right, bottom = photo.size - rng.integers(0, 30, 2)
        picture = photo.crop((left, top, right, bottom))
        if number % 8 > 3:
            hanging.append(picture.transpose(Image.Transpose.ROTATE_180))
        else:
            standing.append(picture)
    return {"hanging": hanging, "standing": standing}


def save(picture, path, kind):
    """Save a picture as `kind`: an EXIF orientation, or a colour mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "grey":
        picture.convert("L").save(path.with_suffix(".jpg"), quality=95)
    elif kind == "alpha":
        picture.convert("RGBA").save(path.with_suffix(".png"))
    elif kind == "cmyk":
        picture.convert("CMYK").save(path.with_suffix(".jpeg"), quality=95)
    elif kind in STORED_AS:
        exif = Image.Exif()
        exif[0x0112] = kind
        picture.transpose(STORED_AS[kind]).save(
            path.with_suffix(".jpg"), exif=exif, quality=95
        )
    else:
        picture.save(path.with_suffix(".jpg"), quality=95)


@pytest.mark.slow
def test_from_phone_photographs_to_a_served_model(home, photos):
    kinds = [1, *STORED_AS, *MODES]
    taken = pictures_of(photos)
    for name, pictures in taken.items():
        for number, picture in enumerate(pictures):
            split = "test" if number >= 28 else "train"
            path = home / "photos" / split / name / f"{number}"
            save(picture, path, kinds[number % len(kinds)])
    dataset = f"--dataset=folder:{home / 'photos'}"
    run = home / "run"

    packaged = ["--model=MlpMixerNano4", "--weights=cifar10"]
    journey.do("train", dataset, *packaged, f"--output_dir={run}")
    report = json.loads((run / "report.json").read_text())
    assert report["test_examples"] == 14
    assert report["test_accuracy"] > 0.85
    evaluated = json.loads(
        journey.do("evaluate", run / "model.keras", dataset, "--json")
    )
    assert evaluated["top1"] == report["test_accuracy"]

    paths = sorted((home / "photos" / "test").rglob("*.*"))
    found = journey.scores_everywhere(run, paths, home / "models")
    journey.assert_agree(found)
    # Every way sees what evaluation saw, upright and in the same colours.
    truth = [[sorted(taken).index(path.parent.name)] for path in paths]
    for name, scores in found.items():
        loss = -np.log(np.take_along_axis(scores, np.array(truth), axis=1)).mean()
        assert loss == pytest.approx(evaluated["loss"], abs=0.01), name
