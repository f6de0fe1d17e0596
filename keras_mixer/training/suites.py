"""ImageNet's validation images, and the test sets that say what its score hides."""

import dataclasses
from collections.abc import Iterator

import keras
import numpy as np

from keras_mixer import data
from keras_mixer.catalog import ImageTransform
from keras_mixer.data import NotPrepared
from keras_mixer.training.evaluation import evaluate

SEVERITIES = (1, 2, 3, 4, 5)
# The error of AlexNet on each corruption, the mean over the severities, by which a
# model's is divided: Hendrycks and Dietterich, 2019 (arXiv 1903.12261), table 1, to the
# digits of their robustness repository.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


@dataclasses.dataclass(frozen=True)
class Score:
    """A model's score on one test set of a suite.

    Attributes:
        name: Of the test set.
        value: Share of the images that were right, in [0, 1]; of `C` the mean
            corruption error, where AlexNet's is 1. `None` if the data is not there.
        top5: Share whose class is among the best five, where it is asked for.
        examples: Number of images.
        missing: What to do to have the data, or None.
    """

    name: str
    value: float | None = None
    top5: float | None = None
    examples: int = 0
    missing: str | None = None


def imagenet_suite(
    model: keras.Model,
    *,
    data_dir: str | None = None,
    batch_size: int = 64,
    verbose: int = 0,
) -> Iterator[Score]:
    """Score a model on the test sets of ImageNet, one after the other.

    - `ImageNet`: the validation images, top-1 and top-5.
    - `ReaL`: the same images with all the labels that are right; those without any do
      not count (Beyer et al., 2020, arXiv 2006.07159).
    - `V2`: new images, matched frequency (Recht et al., 2019, arXiv 1902.10811).
    - `A`: images that ResNet-50 gets wrong, and `R`: renditions; both of 200 classes,
      the scores of the others left out (Hendrycks et al., arXiv 1907.07174 and
      2006.16241).
    - `C`: 15 corruptions in five severities; the mean over the corruptions of a
      model's error divided by AlexNet's (Hendrycks and Dietterich, arXiv 1903.12261).
      Its images are crops already, and are not cropped again.

    Args:
        model: A classifier of this package, of ImageNet's 1,000 classes in their usual
            order.
        data_dir: Where TensorFlow Datasets keeps its data; `None` is its own default.
        batch_size: Images in a batch.
        verbose: 1 for a progress bar, 0 for none.

    Yields:
        A `Score` for each test set, with `missing` where its data is not prepared.

    Raises:
        ValueError: If the model has other classes.
    """
    if model.output_shape[-1] != 1000:
        raise ValueError(
            "The suite needs a model of ImageNet's 1,000 classes. Received: "
            f"{model.name} of {model.output_shape[-1]}."
        )

    def run(split, **settings):
        return evaluate(
            model, split, batch_size=batch_size, verbose=verbose, **settings
        )

    def open_split(dataset, split, label="label"):
        return data.open_prepared(dataset, split, data_dir, label)

    def plain(name, dataset, split):
        found = run(open_split(dataset, split))
        return [Score(name, found.top1, found.top5, found.examples)]

    def validation():
        try:
            split = open_split("imagenet2012_real", "validation", "original_label")
        except NotPrepared as error:
            alone = missing("ImageNet", plain, "imagenet2012", "validation")
            return [*alone, Score("ReaL", missing=str(error))]
        # The same images: one pass over them gives both.
        found = run(split)
        answers = zip(found.predictions, split.feature("real_label"), strict=True)
        right = [best in labels for best, labels in answers if len(labels)]
        return [
            Score("ImageNet", found.top1, found.top5, found.examples),
            Score("ReaL", float(np.mean(right)), examples=len(right)),
        ]

    def masked(name, dataset):
        split = open_split(dataset, "test")
        found = run(split, among=np.unique(split.feature("label")))
        return [Score(name, found.top1, examples=found.examples)]

    def missing(name, score, *arguments):
        try:
            return score(name, *arguments)
        except NotPrepared as error:
            return [Score(name, missing=str(error))]

    yield from validation()
    yield from missing("V2", plain, "imagenet_v2/matched-frequency", "test")
    yield from missing("A", masked, "imagenet_a")
    yield from missing("R", masked, "imagenet_r")
    yield from missing("C", _corruptions, model, open_split, run)


def _corruptions(name, model, open_split, run):
    """The mean corruption error. All data sets are opened before one is scored."""
    splits = {
        kind: [
            open_split(f"imagenet2012_corrupted/{kind}_{severity}", "validation")
            for severity in SEVERITIES
        ]
        for kind in ALEXNET_ERRORS
    }
    layer = model.get_layer("preprocessing")
    whole = ImageTransform(layer.mean, layer.std, layer.interpolation, 1.0)
    ratios, examples = [], 0
    for kind, severities in splits.items():
        found = [run(split, transform=whole) for split in severities]
        error = 1 - np.mean([one.top1 for one in found])
        ratios.append(error / ALEXNET_ERRORS[kind])
        examples += sum(one.examples for one in found)
    return [Score(name, float(np.mean(ratios)), examples=examples)]
