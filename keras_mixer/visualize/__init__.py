"""Pictures of weights, predictions and training, as matplotlib figures.

Each function `plot_*` returns a `matplotlib.figure.Figure`: a notebook shows it after
`%matplotlib inline`, and `save_figure` writes it to a file.
"""

from keras_mixer.visualize.curve_plots import plot_curves, plot_shots
from keras_mixer.visualize.figures import save_figure
from keras_mixer.visualize.prediction_plots import (
    plot_confusion,
    plot_evaluation,
    plot_examples,
    plot_images,
    plot_predictions,
)
from keras_mixer.visualize.weight_images import (
    pair_opposites,
    sorted_pairs,
    spatial_frequency,
    stem_filters,
    token_mixing_units,
)
from keras_mixer.visualize.weight_plots import plot_stem, plot_token_mixing

__all__ = [
    "pair_opposites",
    "plot_confusion",
    "plot_curves",
    "plot_evaluation",
    "plot_examples",
    "plot_images",
    "plot_predictions",
    "plot_shots",
    "plot_stem",
    "plot_token_mixing",
    "save_figure",
    "sorted_pairs",
    "spatial_frequency",
    "stem_filters",
    "token_mixing_units",
]
