"""The compiled parts of training: their values, gradients, and that they are used."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_mixer.models import cpu_kernels, layers  # noqa: E402


def value_and_gradients(function, upstream, *arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = function(*arguments)
    return [y, *tape.gradient(y, arguments, upstream)]


def assert_exact(function, definition, arguments, dtype):
    """Compare a function and its gradients with its definition in float64."""
    # Rounded first: what is compared is the arithmetic.
    arguments = [tf.cast(a, dtype) for a in arguments]
    found = value_and_gradients(function, *arguments)
    exact = value_and_gradients(
        definition, *(tf.cast(argument, "float64") for argument in arguments)
    )
    tolerance = {"float32": 1e-5, "bfloat16": 0.02}[dtype]
    for ours, expected in zip(found, exact, strict=True):
        assert ours.dtype == dtype and ours.shape == expected.shape
        np.testing.assert_allclose(
            tf.cast(ours, "float64"), expected, atol=tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_biased_gelu_and_its_gradients_are_the_exact_ones(dtype):
    # Far out, where it is x or 0, and a shape that fills no vector register.
    x = np.linspace(-9, 9, 7 * 101).reshape(101, 7)
    x[0] = [-50, 50, 0, -30, 30, -20, 20]
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=x.shape), x, rng.normal(size=7)]
    assert_exact(
        cpu_kernels.biased_gelu, lambda x, bias: tf.nn.gelu(x + bias), arguments, dtype
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm_and_its_gradients_are_the_exact_ones(dtype):
    rng = np.random.default_rng(0)
    # Means far from 0, of which the variance must not suffer; a row of equals.
    x = rng.normal(rng.normal(0, 9, (3, 5, 1)), 1, (3, 5, 37))
    x[0, 0] = 4.0
    arguments = [rng.normal(size=x.shape), x, rng.normal(size=37), rng.normal(size=37)]

    def definition(x, gamma, beta):
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-3) * gamma + beta

    assert_exact(
        lambda *given: cpu_kernels.layer_norm(*given, epsilon=1e-3),
        definition,
        arguments,
        dtype,
    )


def test_dense_and_its_gradients_are_the_exact_ones():
    rng = np.random.default_rng(0)
    shapes = [(101, 5), (101, 7), (7, 5), (5,)]
    assert_exact(
        cpu_kernels.dense,
        lambda x, kernel, bias: x @ kernel + bias,
        [rng.normal(size=shape) for shape in shapes],
        "float32",
    )


def test_gradient_of_a_bias_in_bfloat16_counts_thousands_of_rows():
    # TensorFlow's own gives 256: with 8 significant bits, 256 + 1 is 256.
    x, kernel, bias = (tf.zeros(n, "bfloat16") for n in [(5000, 2), (2, 3), (3,)])
    upstream = tf.ones((5000, 3), "bfloat16")
    *_, gradient = value_and_gradients(cpu_kernels.dense, upstream, x, kernel, bias)
    np.testing.assert_allclose(tf.cast(gradient, "float32"), 5000, rtol=2**-8)


@pytest.mark.parametrize(
    "layer",
    [
        layers.TokenMixing(5),
        layers.ChannelMixing(5),
        layers.LayerNormalization(epsilon=1e-6),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_train_with_the_gradient_of_inference(layer):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32"))
    layer.build(x.shape)
    found = {}
    for training in (False, True):
        with tf.GradientTape() as tape:
            y = layer(x, training=training)
            loss = tf.reduce_sum(y**2)
        found[training] = [y, *tape.gradient(loss, layer.trainable_variables)]
    for trained, inferred in zip(found[True], found[False], strict=True):
        np.testing.assert_allclose(trained, inferred, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [layers.ChannelMixing(5), layers.LayerNormalization()],
    ids=lambda layer: layer.name,
)
def test_layers_train_by_cpu_kernels_and_infer_without(layer):
    layer.build((None, 3, 4))

    def calls(training):
        traced = tf.function(lambda x: layer(x, training=training))
        graph = traced.get_concrete_function(tf.TensorSpec([None, 3, 4])).graph
        functions = graph.as_graph_def().library.function
        return any("_XlaMustCompile" in function.attr for function in functions)

    assert calls(training=True)
    assert not calls(training=False)
