"""Training and evaluation of models, on one device or many."""

from keras_mixer.training.fit import Preempted
from keras_mixer.training.recipes import RECIPES, TrainConfig, default_recipe
from keras_mixer.training.run import (
    Evaluation,
    Example,
    Training,
    evaluate,
    preview,
    train,
)

__all__ = [
    "RECIPES",
    "Evaluation",
    "Example",
    "Preempted",
    "TrainConfig",
    "Training",
    "default_recipe",
    "evaluate",
    "preview",
    "train",
]
