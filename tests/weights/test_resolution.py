"""Weights at another image size than they were trained for."""

import keras
import numpy as np
import pytest
import sklearn.datasets
from tiny import IMAGE_SIZE, TINY, build_tiny

import keras_mixer
from keras_mixer import weights


@pytest.fixture
def path(tiny, tmp_path):
    tiny.save_weights(tmp_path / "tiny.weights.h5")
    return tmp_path / "tiny.weights.h5"


def sized(path, side, **kwargs):
    return build_tiny(input_shape=(side, side, 3), weights=path, **kwargs)


def large_images(scale):
    side = scale * IMAGE_SIZE
    rng = np.random.default_rng(4)
    return rng.uniform(0, 255, (2, side, side, 3)).astype("float32")


@pytest.mark.parametrize("scale", [2, 3])
def test_features_are_the_mean_over_the_tiles(path, scale):
    # The exact identity of the paper's block-diagonal weights, before any training.
    images = large_images(scale)
    small = build_tiny(weights=path, include_top=False, pooling="avg")
    large = sized(path, scale * IMAGE_SIZE, include_top=False, pooling="avg")
    tiles = [
        small(images[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE])
        for top in range(0, scale * IMAGE_SIZE, IMAGE_SIZE)
        for left in range(0, scale * IMAGE_SIZE, IMAGE_SIZE)
    ]
    np.testing.assert_allclose(large(images), np.mean(tiles, axis=0), atol=1e-5)
    mixing = large.get_layer("block0_token_mixing")
    assert mixing.mlp_dim == scale**2 * TINY["tokens_mlp_dim"]


def test_enlarged_weights_come_back_at_their_own_size_and_grow_again(path, tmp_path):
    large = sized(path, 2 * IMAGE_SIZE)
    large.save_weights(tmp_path / "large.weights.h5")
    again = sized(tmp_path / "large.weights.h5", 2 * IMAGE_SIZE)
    images = large_images(2)
    np.testing.assert_array_equal(again(images), large(images))
    four = sized(tmp_path / "large.weights.h5", 4 * IMAGE_SIZE)
    np.testing.assert_allclose(
        four(large_images(4)), sized(path, 4 * IMAGE_SIZE)(large_images(4)), atol=1e-5
    )


def test_load_weights_enlarges_too_and_says_so(path):
    built = sized(path, 2 * IMAGE_SIZE)
    report = keras_mixer.load_weights(built, path)
    how = {row.target: row.how for row in report.rows}
    assert how["block0_token_mixing/fc1/bias"] == "block-diagonal"
    assert how["block0_channel_mixing/fc1/bias"] == "copied"


def test_other_sizes_are_refused_with_those_that_work(path):
    with pytest.raises(
        ValueError, match=r"12x12.*12, 24, 36.*image_size=16x16.*resize=\"interpolate\""
    ):
        sized(path, 16)
    with pytest.raises(ValueError, match="image_size=12x24"):
        build_tiny(input_shape=(12, 24, 3), weights=path)


def test_interpolation_keeps_the_features_of_smooth_images(path):
    # An image that varies slowly looks alike at 12 and at 20 pixels.
    ramp = np.linspace(0, 255, 60, dtype="float32")
    image = np.broadcast_to(ramp[None, :, None, None], (1, 60, 60, 3))
    at = {
        side: np.asarray(keras.ops.image.resize(image, (side, side)))
        for side in (12, 20)
    }
    small = build_tiny(weights=path, include_top=False, pooling="avg")
    large = sized(path, 20, resize="interpolate", include_top=False, pooling="avg")
    expected, got = np.asarray(small(at[12])), np.asarray(large(at[20]))
    scrambled = sized(path, 20, resize="interpolate", include_top=False, pooling="avg")
    for variable in scrambled.get_layer("block0_token_mixing").weights:
        values = np.random.default_rng(0).permutation(np.asarray(variable).ravel())
        variable.assign(values.reshape(variable.shape))
    error = np.abs(got - expected).mean()
    assert error < np.abs(np.asarray(scrambled(at[20])) - expected).mean() / 2
    assert large.get_layer("block0_token_mixing").mlp_dim == TINY["tokens_mlp_dim"]


def test_interpolation_is_linear_in_position(path, tiny):
    model = sized(path, 24, resize="interpolate")
    how = keras_mixer.load_weights(
        sized(path, 20, resize="interpolate"), path, resize="interpolate"
    )
    assert {row.how for row in how.rows} == {"copied", "interpolated"}
    # Twice the size is exact, so it is block-diagonal even when asked to interpolate.
    assert model.get_layer("block0_token_mixing").mlp_dim == 4 * TINY["tokens_mlp_dim"]
    bias = np.asarray(weights.model_variables(tiny)["block0_token_mixing/fc2/bias"])
    large = weights.model_variables(sized(path, 20, resize="interpolate"))
    resized = np.asarray(large["block0_token_mixing/fc2/bias"]).reshape(5, 5)
    expected = keras.ops.image.resize(
        bias.reshape(3, 3, 1), (5, 5), interpolation="bilinear", antialias=True
    )
    np.testing.assert_allclose(resized, np.asarray(expected)[:, :, 0], atol=1e-6)


@pytest.mark.slow
def test_digits_train_on_from_the_same_accuracy_at_twice_the_size(tmp_path):
    # Each quarter of the large image shows the digit at the scale the weights know.
    digits, labels = sklearn.datasets.load_digits(return_X_y=True)
    pixels = np.kron(digits.reshape(-1, 8, 8), np.ones((2, 2))) * 255 / 16
    images = np.repeat(pixels[..., None], 3, axis=-1).astype("float32")
    train, test = slice(0, 1400), slice(1400, None)

    def compiled(side, learning_rate, weights=None):
        model = keras_mixer.MlpMixer(
            32, 2, 24, 64, 4, input_shape=(side, side, 3), classes=10, weights=weights
        )
        model.compile(
            keras.optimizers.AdamW(learning_rate),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    keras.utils.set_random_seed(0)
    small = compiled(16, 3e-3)
    small.fit(images[train], labels[train], epochs=8, batch_size=32, verbose=0)
    loss, accuracy = small.evaluate(images[test], labels[test], verbose=0)
    assert accuracy > 0.8
    small.save_weights(tmp_path / "small.weights.h5")

    large = compiled(32, 3e-4, tmp_path / "small.weights.h5")
    tiled = np.tile(images, (1, 2, 2, 1))
    start = large.evaluate(tiled[test], labels[test], verbose=0)
    np.testing.assert_allclose(start, [loss, accuracy], atol=1e-4)
    large.fit(tiled[train], labels[train], epochs=1, batch_size=32, verbose=0)
    after = large.evaluate(tiled[test], labels[test], verbose=0)
    assert after[1] >= accuracy - 0.02
    assert after[0] < loss + 0.02
