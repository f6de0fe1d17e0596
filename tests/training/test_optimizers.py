"""The optimizer's arithmetic, against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.training import optimizers

SETTINGS = {"weight_decay": 0.1, "global_clipnorm": 0.5}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (keras.optimizers.AdamW, optimizers.RatedAdamW),
        (keras.optimizers.Muon, optimizers.RatedMuon),
        (keras.optimizers.SGD, optimizers.RatedSGD),
    ],
    ids=["adamw", "muon", "sgd"],
)
def test_optimizers_step_as_keras_does(theirs, ours):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3)).astype("float32")
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    paths = []
    for optimizer_class in (theirs, ours):
        variable = keras.Variable(start, name="kernel")
        optimizer = optimizer_class(rate, **SETTINGS)
        optimizer.build([variable])
        gradients = np.random.default_rng(1).normal(size=(20, 5, 3))
        path = []
        for gradient in gradients.astype("float32"):
            optimizer.apply([tf.constant(gradient)], [variable])
            path.append(variable.numpy())
        paths.append([*path, *(np.asarray(v) for v in optimizer.variables)])
    for expected, found in zip(*paths, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # It went somewhere, and not straight.
    assert np.abs(paths[0][19] - start).max() > 0.1
