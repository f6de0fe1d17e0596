"""The weights that come with the package, against their model card."""

import pathlib
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import keras_mixer
from keras_mixer import catalog, images, weights

ENTRY = catalog.ENTRIES["MlpMixerNano4", "cifar10"]
CARD = weights.fetch(ENTRY).with_name("MlpMixerNano4-cifar10.md")
# CIFAR-10 after JPEG, which no project may carry: beside a developer's checkout.
DATA = pathlib.Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.tar.xz"


def test_card_and_catalogue_say_the_same():
    text = CARD.read_text(encoding="utf-8")
    assert f"**{ENTRY.top1:.2f} %** top-1" in text
    assert f"{ENTRY.top5:.2f} % top-5" in text
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \|$", text, re.M)
    labels = [label for _, label in images.weights_labels("cifar10")]
    assert [name for name, _ in rows] == labels
    # The classes have equally many images.
    mean = np.mean([float(accuracy) for _, accuracy in rows])
    assert mean == pytest.approx(ENTRY.top1, abs=0.01)
    assert ENTRY.accuracy_source == f"keras_mixer/catalog/assets/{CARD.name}"


def test_it_knows_a_horse():
    import skimage

    path = pathlib.Path(skimage.__file__).parent / "data" / "horse.png"
    model = keras_mixer.MlpMixerNano4(weights="cifar10")
    image = keras_mixer.load_image(path, weights=model)
    assert image.shape == (32, 32, 3)
    scores = model.predict(image[None], verbose=0)
    ((best, *_),) = keras_mixer.decode_predictions(scores, weights="cifar10")
    assert best[0] == "horse"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="CIFAR-10's images are not at hand")
def test_the_cards_accuracy_is_what_evaluate_prints(tmp_path):
    # All test images, and ten of each class that a data set has to have for training.
    with tarfile.open(DATA) as archive:
        for file in archive:
            if re.search(r"/test/|/000\d\.jpg$", file.name):
                archive.extract(file, tmp_path, filter="data")
    result = subprocess.run(
        [
            *(sys.executable, "-c", "from keras_mixer import cli; cli.main()"),
            *("evaluate", "MlpMixerNano4", "--weights=cifar10"),
            f"--dataset=folder:{tmp_path / 'cifar10'}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = re.findall(r"top-\d +([\d.]+)% +published ([\d.]+)%", result.stdout)
    assert "10000 images" in result.stdout
    text = CARD.read_text(encoding="utf-8")
    (of_jpeg,) = re.findall(r"JPEG once\*\*[^:]+: ([\d.]+) % .+ ([\d.]+) % top-5", text)
    for (measured, published), known, entry in zip(
        lines, of_jpeg, [ENTRY.top1, ENTRY.top5], strict=True
    ):
        assert float(published) == entry
        # Machines round differently, and an image on the border may cross it.
        assert float(measured) == pytest.approx(float(known), abs=0.03)
