"""Images to measure int8 on: scales of activations, and how far answers move."""

import numpy as np
from PIL import Image

from keras_mixer import data
from keras_mixer.catalog import needs_extra
from keras_mixer.images import graph

# Twice as many change nothing: on CIFAR-10, Nano4 keeps its accuracy to 0.1 points.
_IMAGES = 128


def sample_images(dataset, classifier):
    """Return crops for a classifier, as evaluation cuts them.

    Args:
        dataset: A data set as `keras_mixer.data.open_source` takes it, of whose
            training split some are drawn; or None, for windows of the two photographs
            that come with scikit-learn.
        classifier: A `Classifier`.

    Returns:
        float32 `(images, size, size, 3)`, pixels in [0, 255].

    Raises:
        ImportError: If None is given, and scikit-learn is not installed.
        ValueError: If the data set is not found, or an image of it cannot be read.
    """
    if dataset is None:
        return _photographs(classifier.size)
    source = data.open_source(dataset)
    split = source.splits["train"]
    size = (classifier.size, classifier.size)

    def crop(image, label):
        return graph.evaluation_crop(split.content(image), size, classifier.transform)

    with data.errors_in_words(source):
        drawn = split.shuffled(seed=0, epoch=0, start=0).take(_IMAGES).map(crop)
        return np.stack([*drawn.as_numpy_iterator()])


def _photographs(size):
    with needs_extra("Photographs to measure int8 on", "runtimes"):
        from sklearn.datasets import load_sample_images
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    windows = []
    for number in range(_IMAGES):
        photograph = photographs[number % len(photographs)]
        short = min(photograph.size)
        side = int(rng.integers(short // 8, short + 1))
        left = int(rng.integers(photograph.width - side + 1))
        top = int(rng.integers(photograph.height - side + 1))
        window = photograph.resize(
            (size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
        )
        windows.append(np.asarray(window, "float32"))
    return np.stack(windows)
