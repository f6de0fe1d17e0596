"""The layers of MLP-Mixer, the named models, and porting files to new ones."""

from keras_mixer.catalog import VARIANTS, Variant
from keras_mixer.models.features import features
from keras_mixer.models.layers import ChannelMixing, StochasticDepth, TokenMixing
from keras_mixer.models.mixer import (
    MlpMixer,
    MlpMixerB16,
    MlpMixerB32,
    MlpMixerH14,
    MlpMixerL16,
    MlpMixerL32,
    MlpMixerNano4,
    MlpMixerS8,
    MlpMixerS16,
    MlpMixerS32,
    build,
    variant_name,
)
from keras_mixer.models.open import default_labels, model_file, open_model
from keras_mixer.models.port import load_weights

__all__ = [
    "VARIANTS",
    "ChannelMixing",
    "MlpMixer",
    "MlpMixerB16",
    "MlpMixerB32",
    "MlpMixerH14",
    "MlpMixerL16",
    "MlpMixerL32",
    "MlpMixerNano4",
    "MlpMixerS8",
    "MlpMixerS16",
    "MlpMixerS32",
    "StochasticDepth",
    "TokenMixing",
    "Variant",
    "build",
    "default_labels",
    "features",
    "load_weights",
    "model_file",
    "open_model",
    "variant_name",
]
