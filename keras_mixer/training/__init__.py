"""Training and evaluation of models, on one device or many."""

from keras_mixer.catalog import RECIPES, TrainConfig, default_recipe
from keras_mixer.training.evaluation import Evaluation, Example, evaluate
from keras_mixer.training.fit import Preempted
from keras_mixer.training.probe import (
    Probe,
    few_shot,
    knn,
    linear,
)
from keras_mixer.training.run import Training, preview, train
from keras_mixer.training.split_features import split_features
from keras_mixer.training.suites import Score, imagenet_suite
from keras_mixer.training.transfer import Transfer, transfer_all

__all__ = [
    "RECIPES",
    "Evaluation",
    "Example",
    "Preempted",
    "Probe",
    "Score",
    "TrainConfig",
    "Training",
    "Transfer",
    "default_recipe",
    "evaluate",
    "few_shot",
    "imagenet_suite",
    "knn",
    "linear",
    "preview",
    "split_features",
    "train",
    "transfer_all",
]
