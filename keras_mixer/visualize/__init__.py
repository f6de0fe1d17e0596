"""Pictures of weights, predictions and training."""

from keras_mixer.visualize.plots import (
    plot_confusion,
    plot_curves,
    plot_examples,
    plot_images,
    plot_predictions,
    plot_stem,
    plot_token_mixing,
    save_figure,
)
from keras_mixer.visualize.weight_images import (
    pair_opposites,
    sorted_pairs,
    spatial_frequency,
    stem_filters,
    token_mixing_units,
)

__all__ = [
    "pair_opposites",
    "plot_confusion",
    "plot_curves",
    "plot_examples",
    "plot_images",
    "plot_predictions",
    "plot_stem",
    "plot_token_mixing",
    "save_figure",
    "sorted_pairs",
    "spatial_frequency",
    "stem_filters",
    "token_mixing_units",
]
