"""The layers of exported models: the numbers of Keras', in the ops that fuse."""

import collections
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import session_kernels
import tensorflow as tf
from serving_support import random_model

import keras_mixer
from keras_mixer.catalog import cpu_features
from keras_mixer.models import ChannelMixing
from keras_mixer.serving import export, fused, served


def served_copy(layer, **config):
    """The served layer of a built one, with its weights."""
    copied = fused.served_layer(layer, {**layer.get_config(), **config})
    copied.build(layer.input.shape)
    copied.set_weights(layer.get_weights())
    return copied


def randomised(layer, shape, seed=0):
    layer(keras.Input(shape))
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        variable.assign(rng.normal(0.5, 1, variable.shape))
    return layer


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("shape", [(9,), (5, 9), (2, 5, 9)], ids=str)
@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 0])
def test_fused_layer_normalization_gives_keras_numbers(batch, shape, epsilon):
    layer = randomised(keras.layers.LayerNormalization(epsilon=epsilon), shape)
    served = served_copy(layer)
    assert type(served) is fused.FusedLayerNormalization
    x = np.random.default_rng(1).normal(3, 2, (batch, *shape)).astype("float32")
    np.testing.assert_allclose(served(x), layer(x), atol=1e-5)


def test_fused_kernel_has_the_epsilon_of_the_layer():
    # Compiled, so that TensorFlow fuses where it can; a variance as small as epsilon.
    layer = randomised(keras.layers.LayerNormalization(epsilon=1e-6), (5, 64))
    served = served_copy(layer)
    x = np.random.default_rng(1).normal(3, 1e-3, (4, 5, 64)).astype("float32")
    compiled = tf.function(lambda x: tf.nn.relu(served(tf.nn.relu(x))))
    signature = tf.TensorSpec((None, 5, 64))
    answer = compiled.get_concrete_function(signature)(tf.constant(x))
    np.testing.assert_allclose(answer, tf.nn.relu(layer(x)), atol=5e-3)


def test_fused_layer_normalization_in_bfloat16():
    layer = randomised(keras.layers.LayerNormalization(epsilon=1e-6), (5, 64))
    served = served_copy(layer, dtype="bfloat16")
    x = np.random.default_rng(1).normal(3, 2, (4, 5, 64)).astype("float32")
    answer = served(tf.cast(x, tf.bfloat16))
    assert answer.dtype == tf.bfloat16
    # bfloat16 has 8 significant bits; the values are up to 8.
    np.testing.assert_allclose(tf.cast(answer, tf.float32), layer(x), atol=0.1)


@pytest.mark.parametrize(
    "options", [{"axis": 1}, {"axis": [1, 2]}, {"center": False}, {"scale": False}]
)
def test_served_layer_leaves_other_normalisations_alone(options):
    layer = randomised(keras.layers.LayerNormalization(**options), (5, 9))
    served = fused.served_layer(layer, layer.get_config())
    assert type(served) is keras.layers.LayerNormalization


def mixer_of(channels, hidden):
    """A Mixer of one block with random weights, whose channel MLP has these widths."""
    return randomised_model(
        keras_mixer.MlpMixer(
            hidden_dim=channels,
            num_blocks=1,
            tokens_mlp_dim=4,
            channels_mlp_dim=hidden,
            patch_size=8,
            input_shape=(16, 16, 3),
            classes=5,
        )
    )


def randomised_model(model):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        shape = variable.shape
        variable.assign(rng.normal(0, shape[0] ** -0.5 if shape[1:] else 0.3, shape))
    return model


def channel_kernels(model):
    (layer,) = (x for x in model.layers if isinstance(x, ChannelMixing))
    return layer.fc1.kernel, layer.fc2.kernel


@pytest.mark.parametrize(
    ("channels", "hidden", "first", "second"),
    [
        (12, 3072, (12, 3088), (3088, 12)),
        (1024, 20, (1024, 20), (20, 1040)),
        (1024, 2048, (1024, 2064), (2064, 1040)),
        (12, 512, (12, 512), (512, 12)),
    ],
)
def test_kernels_leave_the_bounds_of_pages_and_numbers_stay(
    channels, hidden, first, second
):
    model = mixer_of(channels, hidden)
    copy = served.served_model(model, "float32", fused.served_layer)
    wider = [tuple(kernel.shape) for kernel in channel_kernels(copy)]
    assert wider == [first, second]
    for ours, theirs in zip(channel_kernels(copy), channel_kernels(model), strict=True):
        rest = ours.numpy().copy()
        corner = tuple(map(slice, theirs.shape))
        np.testing.assert_array_equal(rest[corner], theirs)
        rest[corner] = 0
        assert not rest.any()
    images = np.random.default_rng(1).uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    answers, expected = (np.asarray(m(images)) for m in (copy, model))
    assert expected.std() > 0.01
    np.testing.assert_allclose(answers, expected, atol=2e-6)


def test_kernels_in_bfloat16_keep_their_widths():
    copy = served.served_model(mixer_of(12, 3072), "bfloat16", fused.served_layer)
    assert [tuple(k.shape) for k in channel_kernels(copy)] == [(12, 3072), (3072, 12)]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A model as plain Keras exports it, and as we do in each precision."""
    folder, model = tmp_path_factory.mktemp("versions"), random_model()
    keras_path = str(folder / "keras")
    model.export(keras_path, verbose=False)
    exported = {
        precision: export.export_saved_model(
            model, folder / precision, top_k=3, precision=precision
        )
        for precision in ("float32", "bfloat16")
    }
    return {"keras": keras_path, **exported}


def kernels_of(versions, onednn):
    """The kernels of each version, as a process of its own runs them."""
    program = [sys.executable, session_kernels.__file__, *map(str, versions.values())]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
    output = subprocess.run(program, env=environment, check=True, capture_output=True)
    counts = map(collections.Counter, json.loads(output.stdout))
    return dict(zip(versions, counts, strict=True))


@pytest.mark.skipif("AVX2" not in cpu_features(), reason="oneDNN's ask for AVX2")
def test_exported_model_runs_in_fused_kernels(versions):
    found = kernels_of(versions, onednn="1")
    # Without AVX512 oneDNN has no product in bfloat16.
    for precision in ("float32", "bfloat16")[: 1 + ("AVX512" in cpu_features())]:
        kernels = found[precision]
        assert kernels["_MklLayerNorm"] == 5
        assert kernels["_MklNativeFusedMatMul BiasAdd GeluExact"] == 4
        # The second product of each MLP, the stem and the head.
        assert kernels["_MklNativeFusedMatMul BiasAdd"] == 6
        assert kernels["Mean"] == 1  # over the patches, before the head
        unfused = ("MatMul", "Conv2D", "BiasAdd", "Erf", "Squared", "Rsqrt")
        assert not [
            kernel
            for kernel in kernels
            if not kernel.startswith("_MklNativeFusedMatMul")
            and any(name in kernel for name in unfused)
        ]


def test_exported_model_takes_no_more_passes_where_onednn_is_off(versions):
    found = kernels_of(versions, onednn="0")
    products = ("_FusedMatMul BiasAdd", "MatMul", "Transpose", "Erfc", "Softmax")
    for name in (*products, "Mean", "SquaredDifference", "Rsqrt", "AddV2"):
        assert found["float32"][name] == found["keras"][name]
    assert found["float32"]["_FusedMatMul BiasAdd"] == 10
    assert found["float32"]["SquaredDifference"] == 5
    # The factors of the normalisations, which have an epsilon of their own.
    assert found["float32"]["Mul"] - found["keras"]["Mul"] == 5
