"""Fixtures of all tests."""

import os
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the programs have it: tests compare what they compute with what is computed here.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import pytest
from tiny import IMAGE_SIZE, build_tiny, randomize

# Fixtures and options of the tests of export and serving.
pytest_plugins = ["serving_support"]


def settings():
    """What Keras keeps for the whole process."""
    return {
        "dtype_policy": keras.config.dtype_policy().name,
        "floatx": keras.config.floatx(),
        "image_data_format": keras.config.image_data_format(),
    }


def seed():
    """Seed Python, NumPy and Keras, as `keras.utils.set_random_seed` does.

    With TensorFlow's own seed it would have TensorFlow forget what it made of every
    function: two seconds to decode the next image. Nothing draws from that generator.
    """
    with mock.patch("tensorflow.random.set_seed"):
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def global_state():
    """Start every test from the same seeds, and fail one that leaves a setting."""
    seed()
    if keras.config.backend() == "tensorflow":
        from tensorflow.python.framework import config

        config.disable_op_determinism()  # training enables it for the process
    before = settings()
    yield
    after = settings()
    for name, value in before.items():
        getattr(keras.config, f"set_{name}")(value)
    assert after == before, "The test must put back what it sets."


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
