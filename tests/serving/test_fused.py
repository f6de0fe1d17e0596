"""The layers of exported models: the numbers of Keras', in the ops that fuse."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving_support import random_model
from tensorflow.python.util import _pywrap_util_port

from keras_mixer.serving import export, fused

tf1 = tf.compat.v1


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
def test_fused_layer_normalization_gives_keras_numbers(batch, shape):
    layer = randomised(keras.layers.LayerNormalization(epsilon=1e-6), shape)
    served = served_copy(layer)
    assert type(served) is fused.FusedLayerNormalization
    x = np.random.default_rng(1).normal(3, 2, (batch, *shape)).astype("float32")
    np.testing.assert_allclose(served(x), layer(x), atol=1e-5)


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


def kernels_of(version):
    """What a session makes of the signature `images`: its ops, with what they fuse."""
    graph = tf.Graph()
    with graph.as_default(), tf1.Session() as session:
        meta = tf1.saved_model.load(session, ["serve"], str(version))
        signature = meta.signature_def["images"]
        size = signature.inputs["images"].tensor_shape.dim[1].size
        metadata = tf1.RunMetadata()
        session.run(
            signature.outputs["probabilities"].name,
            {signature.inputs["images"].name: np.zeros((2, size, size, 3), "f4")},
            options=tf1.RunOptions(output_partition_graphs=True),
            run_metadata=metadata,
        )
    return collections.Counter(
        " ".join([node.op, *(op.decode() for op in node.attr["fused_ops"].list.s)])
        for partition in metadata.partition_graphs
        for node in partition.node
    )


@pytest.mark.skipif(
    not _pywrap_util_port.IsMklEnabled(), reason="TensorFlow without oneDNN"
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_exported_model_runs_in_fused_kernels(tmp_path, precision):
    version = export.export_saved_model(
        random_model(), tmp_path, top_k=3, precision=precision
    )
    kernels = kernels_of(version)
    # Between bfloat16 blocks and a float32 head there is a cast, and the normalisation
    # after it stays a batch normalisation.
    assert kernels["_MklLayerNorm"] == {"float32": 5, "bfloat16": 4}[precision]
    assert kernels["_MklNativeFusedMatMul BiasAdd GeluExact"] == 4
    # The second product of each MLP, the stem and the head.
    assert kernels["_MklNativeFusedMatMul BiasAdd"] == 6
    unfused = ("MatMul", "Conv2D", "BiasAdd", "Erf", "Squared", "Rsqrt")
    assert not [
        kernel
        for kernel in kernels
        if not kernel.startswith("_MklNativeFusedMatMul")
        and any(name in kernel for name in unfused)
    ]
