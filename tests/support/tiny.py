"""A tiny model whose sizes all differ, so that a wrong transpose fails on its shape."""

import numpy as np

import keras_mixer

TINY = {
    "hidden_dim": 10,
    "num_blocks": 2,
    "tokens_mlp_dim": 5,
    "channels_mlp_dim": 7,
    "patch_size": 4,
}
IMAGE_SIZE = 12  # 9 patches
CLASSES = 11


def build_tiny(**kwargs):
    kwargs = {"input_shape": (IMAGE_SIZE, IMAGE_SIZE, 3), "classes": CLASSES} | kwargs
    return keras_mixer.MlpMixer(**TINY, **kwargs)


def randomize(model, seed=0):
    """Give every weight a value: a head starts at zero, a gamma at one."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(rng.normal(0.1, 0.5, variable.shape).astype("float32"))
    return model


# CHECKPOINTS: the paper's table 1, with a head of 1000 classes.
PARAMETERS = {
    "MlpMixerS32": 19_104_624,
    "MlpMixerS16": 18_528_264,
    "MlpMixerS8": 20_646_504,  # not in the table; counted by hand
    "MlpMixerB32": 60_293_428,
    "MlpMixerB16": 59_880_472,
    "MlpMixerL32": 206_939_264,
    "MlpMixerL16": 208_196_168,
    "MlpMixerH14": 432_350_952,
    "MlpMixerNano4": 1_259_880,
}
