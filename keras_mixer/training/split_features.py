"""The features of a data set, computed once and kept."""

import hashlib

import keras
import numpy as np

from keras_mixer import data
from keras_mixer.data import Source
from keras_mixer.models import features as features_of
from keras_mixer.weights import cache_dir, written_whole

Examples = tuple[np.ndarray, np.ndarray]


def split_features(
    model: keras.Model,
    source: Source,
    *,
    batch_size: int = 64,
    verbose: int = 0,
) -> dict[str, Examples]:
    """Compute the pooled features of every split of a data set, or read them.

    They are kept under the folder of cached weights, by the digests of the model and of
    the examples, so that each is computed once.

    Args:
        model: A Mixer of this package, with its layer `preprocessing`.
        source: A data set with the splits `train`, `val` and `test`.
        batch_size: Images in a batch.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A dict from the name of each split to features, float32 `(examples, channels)`,
        and labels, int64 `(examples,)`.

    Raises:
        ValueError: If the model is no Mixer of this package, or an image cannot be
            read.
    """
    extractor = features_of(model)
    transform = model.get_layer("preprocessing")
    digest = _digest_of(extractor)
    found = {}
    for name, split in source.splits.items():
        key = hashlib.sha256(f"{digest} {split.fingerprint}".encode()).hexdigest()
        path = cache_dir() / "features" / f"{key}.npz"
        if path.exists():
            with np.load(path) as arrays:
                found[name] = arrays["features"], arrays["labels"]
            continue
        found[name] = _compute(
            extractor, split, transform, len(source.class_names), batch_size, verbose
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            features, labels = found[name]
            np.savez(temporary, features=features, labels=labels)
    return found


def _digest_of(model):
    digest = hashlib.sha256(model.to_json().encode())
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()


def _compute(extractor, split, transform, classes, batch_size, verbose):
    size = min(batch_size, split.size)
    batches = data.evaluation_batches(
        split,
        transform=transform,
        image_size=extractor.input_shape[1:3],
        classes=classes,
        batch_size=size,
    )
    bar = keras.utils.Progbar(-(-split.size // size), verbose=verbose)
    features, labels = [], []
    for images, one_hot, weights in batches:
        count = int(np.count_nonzero(weights))
        scores = extractor.predict_on_batch(images.numpy())
        features.append(np.asarray(scores, "float32")[:count])
        labels.append(np.argmax(one_hot, -1)[:count])
        bar.update(len(features))
    return np.concatenate(features), np.concatenate(labels)
