"""The mixing layers by value; run on TensorFlow and on JAX."""

import keras
import numpy as np
import pytest
import reference

from keras_mixer.models.layers import (
    ChannelMixing,
    LayerNormalization,
    PatchEmbedding,
    PixelNormalization,
    StochasticDepth,
    TokenMixing,
)

BATCH, PATCHES, CHANNELS, MLP = 2, 6, 10, 5


def weights_of(layer):
    return {
        f"mlp/{dense}/{name}": np.asarray(getattr(getattr(layer, dense), name))
        for dense in ("fc1", "fc2")
        for name in ("kernel", "bias")
    }


def filled(layer, seed=0):
    layer.build((None, PATCHES, CHANNELS))
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    return layer


@pytest.fixture
def x():
    rng = np.random.default_rng(1)
    return rng.normal(size=(BATCH, PATCHES, CHANNELS)).astype("float32")


@pytest.mark.parametrize("approximate", [False, True])
def test_token_mixing_is_one_mlp_over_the_patches_of_each_channel(x, approximate):
    layer = filled(TokenMixing(MLP, approximate_gelu=approximate))
    expected = np.stack(
        [
            reference.mlp(x[:, :, c], weights_of(layer), "mlp", approximate)
            for c in range(CHANNELS)
        ],
        axis=2,
    )
    np.testing.assert_allclose(layer(x), expected, atol=2e-5)


@pytest.mark.parametrize("approximate", [False, True])
def test_channel_mixing_is_one_mlp_over_the_channels_of_each_patch(x, approximate):
    layer = filled(ChannelMixing(MLP, approximate_gelu=approximate))
    expected = np.stack(
        [
            reference.mlp(x[:, p], weights_of(layer), "mlp", approximate)
            for p in range(PATCHES)
        ],
        axis=1,
    )
    np.testing.assert_allclose(layer(x), expected, atol=2e-5)


def test_gelu_flavours_differ(x):
    exact = filled(ChannelMixing(MLP))
    tanh = filled(ChannelMixing(MLP, approximate_gelu=True))
    assert 1e-5 < np.abs(np.asarray(exact(x)) - np.asarray(tanh(x))).max() < 1e-2


@pytest.mark.parametrize("layer_class", [TokenMixing, ChannelMixing])
def test_mixing_starts_as_google_initialises(layer_class):
    layer = layer_class(400)
    layer.build((None, 300, 300))
    for dense, fan_in in [(layer.fc1, 300), (layer.fc2, 400)]:
        kernel = np.asarray(dense.kernel)
        assert kernel.std() == pytest.approx(fan_in**-0.5, rel=0.02)
        assert not np.asarray(dense.bias).any()


@pytest.mark.parametrize("layer_class", [TokenMixing, ChannelMixing])
def test_mixing_drops_after_both_dense_layers_in_training_only(x, layer_class):
    layer = filled(layer_class(200, dropout_rate=0.5))
    plain = filled(layer_class(200))
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-6)
    dropped = np.asarray(layer(x, training=True))
    assert 0.3 < (dropped == 0).mean() < 0.7
    kept = dropped != 0
    # Dropout after the hidden layer changes what is kept by more than the factor 2.
    assert np.abs(dropped[kept] - 2 * np.asarray(plain(x))[kept]).max() > 0.1


@pytest.mark.parametrize("layer_class", [TokenMixing, ChannelMixing])
def test_mixing_refuses_unknown_sizes(layer_class):
    with pytest.raises(ValueError, match=r"both patches and channels known.*None, 10"):
        layer_class(MLP).build((2, None, 10))
    with pytest.raises(ValueError, match=r"mlp_dim must be a positive.*mlp_dim=0"):
        layer_class(0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_patch_embedding_is_a_convolution(batch, training):
    layer = PatchEmbedding(7, 4)
    layer.build((None, 8, 12, 3))
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 4, 3, 7)), rng.normal(size=7)
    layer.set_weights([kernel, bias])
    x = rng.normal(size=(batch, 8, 12, 3)).astype("float32")
    patches = x.reshape(batch, 2, 4, 3, 4, 3)
    expected = np.einsum("brycxi,yxio->brco", patches, kernel) + bias
    np.testing.assert_allclose(layer(x, training=training), expected, atol=1e-4)
    assert layer.compute_output_shape(x.shape) == expected.shape


@pytest.mark.parametrize("shape", [(None, None, 8, 3), (None, 8, 10, 3)])
def test_patch_embedding_refuses_sizes_without_whole_patches(shape):
    with pytest.raises(ValueError, match=r"multiples of patch_size=4\. Received"):
        PatchEmbedding(7, 4).build(shape)


def test_stochastic_depth_drops_whole_samples_and_rescales_the_rest():
    x = np.ones((4000, 2, 3), "float32")
    y = np.asarray(StochasticDepth(0.25, seed=3)(x, training=True))
    per_sample = y.reshape(4000, -1)
    dropped = (per_sample == 0).all(1)
    assert (per_sample[~dropped] == np.float32(1 / 0.75)).all()
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)


def test_stochastic_depth_is_identity_at_inference(x):
    np.testing.assert_array_equal(StochasticDepth(0.9)(x, training=False), x)


def test_pixel_normalization_maps_pixels_channel_by_channel():
    layer = PixelNormalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.875)
    pixels = np.array([[[[0, 127.5, 255]]]], "float32")
    expected = [[[[(0 - 0.1) / 0.4, (0.5 - 0.2) / 0.5, (1 - 0.3) / 0.6]]]]
    np.testing.assert_allclose(layer(pixels), expected, rtol=1e-6)


def test_pixel_normalization_keeps_float32_under_mixed_precision(policy):
    policy("mixed_bfloat16")
    layer = PixelNormalization((0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
    pixels = np.full((1, 1, 1, 3), 200.4, "float32")
    assert layer.compute_dtype == "float32"
    np.testing.assert_allclose(layer(pixels), 200.4 / 127.5 - 1, rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        TokenMixing(MLP, approximate_gelu=True, dropout_rate=0.1, name="a"),
        ChannelMixing(MLP, approximate_gelu=True, dropout_rate=0.1, name="b"),
        StochasticDepth(0.2, seed=5, name="c"),
        LayerNormalization(epsilon=0.01, name="e"),
        PatchEmbedding(3, 4, name="f"),
        PixelNormalization((0.1, 0.2, 0.3), (1, 2, 3), "bilinear", 0.9, name="d"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layer_config_round_trips(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
