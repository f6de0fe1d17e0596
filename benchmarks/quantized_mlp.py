"""What int8 would give inside a SavedModel: a channel MLP of B/16 in TensorFlow.

    python benchmarks/quantized_mlp.py

The MLP in float32 and bfloat16 as the export has it; and by `_QuantizedMatMul`, the
product of oneDNN in int8 with GELU within it. The ranges of activations are constants.
Prints milliseconds of a call, the median and the least, in turns.
"""

import os
import statistics
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "1"

import numpy as np
import tensorflow as tf
from contender import THREADS
from tensorflow.core.framework.attr_value_pb2 import AttrValue

tf1 = tf.compat.v1

PATCHES, WIDTH, WIDE = 196, 768, 3072
RNG = np.random.default_rng(0)
KERNELS = [
    RNG.normal(0, inputs**-0.5, (inputs, outputs)).astype("float32")
    for inputs, outputs in ((WIDTH, WIDE), (WIDE, WIDTH))
]
LIMIT = 5.0  # of activations, which are normal


def floats(x, dtype):
    """The MLP in a floating type."""
    first, second = (tf1.Variable(tf.cast(kernel, dtype)) for kernel in KERNELS)
    one, two = (tf1.Variable(tf.zeros(size, dtype)) for size in (WIDE, WIDTH))
    y = tf.nn.bias_add(tf.matmul(tf.cast(x, dtype), first), one)
    y = tf.nn.gelu(y, approximate=False)
    return tf.cast(tf.nn.bias_add(tf.matmul(y, second), two), tf.float32)


def quantized(x):
    """The MLP in int8, from and to float32."""
    x, _, _ = tf.raw_ops.QuantizeV2(
        input=x, min_range=-LIMIT, max_range=LIMIT, T=tf.qint8, mode="SCALED"
    )
    y = _product(x, KERNELS[0], ("BiasAdd", "GeluExact", "Requantize"))
    return _product(y, KERNELS[1], ("BiasAdd", "Dequantize"))


def _product(x, kernel, fused):
    limit = float(np.abs(kernel).max())
    integers = np.round(kernel / limit * 127).astype("int8")
    kernel = tf.bitcast(tf.constant(integers), tf.qint8)
    bias = tf.zeros(kernel.shape[1])
    ranges = [-LIMIT, LIMIT, -limit, limit]
    kinds = {"T1": tf.qint8, "T2": tf.qint8, "Tbias": tf.float32, "U": tf.float32}
    results = [tf.float32]
    if "Requantize" in fused:
        ranges += [-LIMIT, LIMIT]
        results = [tf.qint8, tf.float32, tf.float32]
    attributes = {
        **{name: _types(kind)["type"] for name, kind in kinds.items()},
        "Tout": _types(results[0])["type"],
        "Tdevice_inputs": _types(tf.qint8, tf.qint8, tf.float32)["list"],
        "Thost_inputs": _types(*[tf.float32] * len(ranges))["list"],
        "Tdevice_outputs": _types(results[0])["list"],
        "Thost_outputs": _types(*results[1:])["list"],
        "fused_ops": AttrValue(
            list=AttrValue.ListValue(s=[name.encode() for name in fused])
        ),
    }
    product = x.graph.create_op(
        "_QuantizedMatMul",
        [x, kernel, bias, *map(tf.constant, ranges)],
        name="product",
        dtypes=results,
        attrs=attributes,
    )
    return product.outputs[0]


def _types(*kinds):
    """Types as an attribute of a list, and the first one alone."""
    numbers = [kind.as_datatype_enum for kind in kinds]
    return {
        "list": AttrValue(list=AttrValue.ListValue(type=numbers)),
        "type": AttrValue(type=numbers[0] if numbers else 0),
    }


def main():
    config = tf1.ConfigProto(
        intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=THREADS
    )
    with tf.Graph().as_default(), tf1.Session(config=config) as session:
        x = tf1.placeholder(tf.float32, (None, WIDTH))
        outputs = {
            "float32": floats(x, tf.float32),
            "bfloat16": floats(x, tf.bfloat16),
            "int8": quantized(x),
        }
        session.run(tf1.global_variables_initializer())
        mlps = {
            name: session.make_callable(output, [x]) for name, output in outputs.items()
        }
        for batch in (1, 8, 32):
            rows = RNG.normal(size=(batch * PATCHES, WIDTH)).astype("float32")
            expected = mlps["float32"](rows)
            seconds = {name: [] for name in mlps}
            for name, mlp in mlps.items():
                off = np.abs(mlp(rows) - expected).max() / np.abs(expected).max()
                print(f"batch {batch:2} {name:8} off by {off:.1%} of the largest")
            for _ in range(60 if batch == 1 else 10):
                for name, mlp in mlps.items():
                    start = time.perf_counter()
                    mlp(rows)
                    seconds[name].append(time.perf_counter() - start)
            for name, values in seconds.items():
                middle, least = statistics.median(values) * 1e3, min(values) * 1e3
                print(f"batch {batch:2} {name:8} {middle:7.2f} ms, least {least:.2f}")


if __name__ == "__main__":
    main()
