"""A tiny model whose sizes all differ, so that a wrong transpose fails on its shape."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

import keras_mixer

# Fixtures and options of the tests of export and serving.
pytest_plugins = ["serving_support"]

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


@pytest.fixture
def tiny():
    return randomize(build_tiny())


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (3, IMAGE_SIZE, IMAGE_SIZE, 3)).astype("float32")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache, and no mirror."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras_home"))
    monkeypatch.delenv("KERAS_MIXER_WEIGHTS_URL", raising=False)
    return tmp_path / "keras_home"


@pytest.fixture
def policy():
    """Set a dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)
