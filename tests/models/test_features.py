"""Features of any block."""

import keras
import numpy as np
import pytest
from tiny import CLASSES, IMAGE_SIZE, TINY

import keras_mixer

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, IMAGE_SIZE, IMAGE_SIZE, 3))
IMAGES = IMAGES.astype("float32")
BLOCKS = TINY["num_blocks"]


def mixer(**kwargs):
    keras.utils.set_random_seed(0)
    model = keras_mixer.MlpMixer(
        **TINY, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), classes=CLASSES, **kwargs
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_the_default_is_what_the_head_classifies_by():
    model = mixer(classifier_activation=None)
    pooled = numpy_of(keras_mixer.features(model)(IMAGES))
    kernel, bias = model.get_layer("head").get_weights()
    np.testing.assert_allclose(
        pooled @ kernel + bias, numpy_of(model(IMAGES)), atol=1e-4
    )


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_blocks_are_those_of_a_model_that_ends_there(pooling):
    model = mixer()
    found = keras_mixer.features(model, [0, -1], pooling, norm=False)(IMAGES)
    for block, value in zip([0, BLOCKS - 1], found, strict=True):
        inner = keras.Model(
            model.input, model.get_layer(f"block{block}_channel_residual").output
        )
        tokens = numpy_of(inner(IMAGES))
        wanted = {None: tokens, "avg": tokens.mean(1), "max": tokens.max(1)}[pooling]
        np.testing.assert_allclose(numpy_of(value), wanted, atol=1e-5)
    assert np.abs(numpy_of(found[0]) - numpy_of(found[1])).max() > 0.1


def test_later_blocks_are_not_run():
    names = [layer.name for layer in keras_mixer.features(mixer(), 0).layers]
    assert "block0_channel_mixing" in names
    assert "block1_token_mixing" not in names


def test_features_are_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = mixer()
    finally:
        keras.config.set_dtype_policy(policy)
    for norm in (False, True):
        for pooling in (None, "avg"):
            found = keras_mixer.features(model, 0, pooling, norm)(IMAGES)
            assert keras.backend.standardize_dtype(found.dtype) == "float32"


def test_what_cannot_be_is_said():
    model = mixer()
    with pytest.raises(ValueError, match=f"from -{BLOCKS} to {BLOCKS - 1}.*blocks=9"):
        keras_mixer.features(model, 9)
    with pytest.raises(ValueError, match="at least one"):
        keras_mixer.features(model, [])
    with pytest.raises(ValueError, match="pooling must be"):
        keras_mixer.features(model, pooling="mean")
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    with pytest.raises(ValueError, match="pass that layer"):
        keras_mixer.features(keras.Model(inputs, model(inputs)))
