"""A named variant that trains in milliseconds; importing this makes it known."""

import dataclasses
import functools

from keras_mixer import models
from keras_mixer.models import mixer

_SIZES = {
    "hidden_dim": 24,
    "num_blocks": 2,
    "tokens_mlp_dim": 12,
    "channels_mlp_dim": 40,
    "patch_size": 4,
}

mixer.VARIANTS["MlpMixerTiny"] = dataclasses.replace(
    mixer.VARIANTS["MlpMixerNano4"], image_size=16, **_SIZES
)
mixer.MlpMixerTiny = models.MlpMixerTiny = functools.partial(
    mixer.MlpMixer, **_SIZES, name="MlpMixerTiny"
)
