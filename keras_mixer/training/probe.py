"""What frozen features are worth: few-shot regression, a linear probe, neighbours.

All three take features and labels as arrays, choose their one setting by the validation
examples, and score it on the test examples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_mixer.catalog import check_positive
from keras_mixer.training.split_features import Examples

SHOTS = (1, 5, 10, 25)
# big_vision, evaluators/fewshot_lsr.py: the feature that stands for the bias, so large
# that the penalty hardly touches its weight; and the penalties that are tried.
_BIAS = 100.0
_PENALTIES = 2.0 ** np.arange(-10, 20)
# Inverse penalties of the linear probe, and numbers of neighbours.
_INVERSE_PENALTIES = 10.0 ** np.arange(-4, 3)
_NEIGHBOURS = (1, 5, 10, 20, 50)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        method: `"few_shot"`, `"linear"` or `"knn"`.
        shots: Training examples of each class; `None` is all.
        chosen: The setting that was best on the validation examples: the penalty, its
            inverse, or the number of neighbours.
        accuracy: Share of the test examples that were right, the mean over the seeds.
        spread: Standard deviation of that share over the seeds; 0 for one seed.
        val_accuracy: As `accuracy`, on the validation examples.
    """

    method: str
    shots: int | None
    chosen: float
    accuracy: float
    spread: float
    val_accuracy: float


def few_shot(
    examples: Mapping[str, Examples],
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
) -> list[Probe]:
    """Classify by a least-squares regression on a few examples of each class.

    Features are whitened by the mean and deviation of the few. The penalty is the one
    whose accuracy on the validation examples, over the seeds, is best.

    Args:
        examples: Features `(examples, channels)` and labels `(examples,)` of `train`,
            `val` and `test`, as `split_features` returns them.
        shots: Numbers of examples of each class.
        seeds: How often to draw them.

    Returns:
        A `Probe` for each of `shots`.

    Raises:
        ValueError: If there is one class alone, or a class has fewer examples.

    Reference:
        big_vision, `evaluators/fewshot_lsr.py`; arXiv 2105.01601, section 3.
    """
    check_positive("seeds", seeds)
    features, labels = examples["train"]
    members = _members(labels, "train")
    fewest = min(len(numbers) for numbers in members)
    for count in shots:
        check_positive("shots", count)
        if count > fewest:
            raise ValueError(
                "Each class must have as many training examples as shots. Received: "
                f"shots={count}, and a class of {fewest}. Leave out what is more, as "
                f"--shots={','.join(str(n) for n in SHOTS if n <= fewest) or fewest}."
            )
    results = []
    for count in shots:
        scores = []
        for seed in range(seeds):
            generator = np.random.default_rng([seed, count])
            few = np.concatenate(
                [generator.permutation(numbers)[:count] for numbers in members]
            )
            regression = Regression(features[few], labels[few])
            scores.append([regression.scores(*examples[s]) for s in ("val", "test")])
        # (seeds, val and test, penalties)
        accuracies = np.array(scores)
        best = int(np.argmax(accuracies[:, 0].mean(0)))
        results.append(
            Probe(
                method="few_shot",
                shots=count,
                chosen=float(_PENALTIES[best]),
                accuracy=float(accuracies[:, 1, best].mean()),
                spread=float(accuracies[:, 1, best].std()),
                val_accuracy=float(accuracies[:, 0, best].mean()),
            )
        )
    return results


class Regression:
    """Ridge regression from whitened features to the classes, for many penalties.

    With X the whitened features and a constant, Y the labels as 1 and -1, and `l2` the
    penalty, the weights are `(X'X + l2 I)^-1 X'Y = X' (XX' + l2 I)^-1 Y`. One
    eigendecomposition, of the smaller of the two matrices, serves every penalty.

    Args:
        features: `(examples, channels)`.
        labels: Class numbers `(examples,)`.

    Reference:
        big_vision, `evaluators/fewshot_lsr.py`.
    """

    def __init__(self, features, labels):
        features = np.asarray(features, "float64")
        self._mean = features.mean(0)
        self._deviation = features.std(0) + 1e-5
        self._classes = np.unique(labels)
        x = self._inputs(features)
        y = 2.0 * (labels[:, None] == self._classes) - 1.0
        if len(x) >= x.shape[1]:
            self._eigenvalues, vectors = np.linalg.eigh(x.T @ x)
            self._left, self._right = vectors, vectors.T @ (x.T @ y)
        else:
            self._eigenvalues, vectors = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ vectors, vectors.T @ y

    def _inputs(self, features):
        white = (features - self._mean) / self._deviation
        return np.pad(white, ((0, 0), (0, 1)), constant_values=_BIAS)

    def weights(self, penalty):
        """The weights `(channels + 1, classes)` for a penalty."""
        return (self._left / (self._eigenvalues + penalty)) @ self._right

    def scores(self, features, labels):
        """The share of `labels` that is predicted, for each of the penalties."""
        projected = self._inputs(np.asarray(features, "float64")) @ self._left
        found = []
        for penalty in _PENALTIES:
            outputs = (projected / (self._eigenvalues + penalty)) @ self._right
            predicted = self._classes[np.argmax(outputs, -1)]
            found.append(np.mean(predicted == labels))
        return found


def linear(examples: Mapping[str, Examples]) -> Probe:
    """Classify by a multinomial logistic regression on all training examples.

    Args:
        examples: As for `few_shot`.

    Returns:
        A `Probe`.

    Raises:
        ValueError: If there is one class alone.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    _members(examples["train"][1], "train")
    scaler = StandardScaler().fit(examples["train"][0])
    scaled = {name: (scaler.transform(x), y) for name, (x, y) in examples.items()}

    def fitted(inverse_penalty):
        model = LogisticRegression(C=inverse_penalty, max_iter=1000)
        return model.fit(*scaled["train"])

    return _best("linear", _INVERSE_PENALTIES, fitted, scaled)


def knn(examples: Mapping[str, Examples]) -> Probe:
    """Classify by the training examples whose features are nearest, by cosine.

    Args:
        examples: As for `few_shot`.

    Returns:
        A `Probe`.

    Raises:
        ValueError: If there is one class alone.
    """
    from sklearn.neighbors import KNeighborsClassifier

    features, labels = examples["train"]
    _members(labels, "train")

    def fitted(neighbours):
        model = KNeighborsClassifier(neighbours, metric="cosine")
        return model.fit(features, labels)

    usable = [n for n in _NEIGHBOURS if n <= len(labels)]
    return _best("knn", usable, fitted, examples)


def _best(method, settings, fitted, examples):
    models = {setting: fitted(setting) for setting in settings}
    scores = {setting: m.score(*examples["val"]) for setting, m in models.items()}
    chosen = max(scores, key=scores.__getitem__)  # the first of equals
    return Probe(
        method=method,
        shots=None,
        chosen=float(chosen),
        accuracy=float(models[chosen].score(*examples["test"])),
        spread=0.0,
        val_accuracy=float(scores[chosen]),
    )


def _members(labels, name):
    """The numbers of the examples of each class that is there."""
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(
            "A probe tells classes apart, so there must be two at least. Received: "
            f"{len(classes)} in {name}."
        )
    return [np.flatnonzero(labels == c) for c in classes]
