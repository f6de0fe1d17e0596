"""The compiled parts of training: their values, gradients, and that they are used."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_mixer import compiled_ops, layers  # noqa: E402


def value_and_gradients(function, x, bias, upstream):
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        y = function(x, bias)
    return [y, *tape.gradient(y, [x, bias], upstream)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)]
)
def test_biased_gelu_and_its_gradients_are_the_exact_ones(dtype, tolerance):
    # Far out, where it is x or 0, and a shape that fills no vector register.
    x = np.linspace(-9, 9, 7 * 101).reshape(101, 7)
    x[0] = [-50, 50, 0, -30, 30, -20, 20]
    rng = np.random.default_rng(0)
    arguments = [x, rng.normal(size=7), rng.normal(size=x.shape)]
    # Rounded first: what is compared is the arithmetic.
    arguments = [tf.cast(a, dtype) for a in arguments]
    exact = value_and_gradients(
        lambda x, bias: tf.nn.gelu(x + bias),
        *(tf.cast(a, "float64") for a in arguments),
    )
    found = value_and_gradients(compiled_ops.biased_gelu, *arguments)
    for ours, expected in zip(found, exact, strict=True):
        assert ours.dtype == dtype and ours.shape == expected.shape
        np.testing.assert_allclose(
            tf.cast(ours, "float64"), expected, atol=tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("layer_class", [layers.TokenMixing, layers.ChannelMixing])
def test_mixing_trains_with_the_gradient_of_inference(layer_class):
    layer = layer_class(5)
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


def test_mixing_trains_by_compiled_gelu_and_infers_without():
    layer = layers.ChannelMixing(5)
    layer.build((None, 3, 4))

    def calls(training):
        traced = tf.function(lambda x: layer(x, training=training))
        graph = traced.get_concrete_function(tf.TensorSpec([None, 3, 4])).graph
        functions = graph.as_graph_def().library.function
        return any("_XlaMustCompile" in function.attr for function in functions)

    assert calls(training=True)
    assert not calls(training=False)
