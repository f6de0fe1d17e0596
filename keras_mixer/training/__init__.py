"""Training and evaluation of models, on one device or many."""

from keras_mixer.training.evaluation import (
    Evaluation,
    Example,
)
from keras_mixer.training.recipes import (
    RECIPES,
    TrainConfig,
    default_recipe,
)
from keras_mixer.training.run import (
    Training,
    evaluate,
    preview,
    train,
)

__all__ = [
    "RECIPES",
    "Evaluation",
    "Example",
    "TrainConfig",
    "Training",
    "default_recipe",
    "evaluate",
    "preview",
    "train",
]
