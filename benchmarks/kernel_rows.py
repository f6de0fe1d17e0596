"""What kernels a cache line wider give: channel MLPs of the models in TensorFlow.

    python benchmarks/kernel_rows.py
    TF_ENABLE_ONEDNN_OPTS=0 python benchmarks/kernel_rows.py

The rows of most kernels take whole pages of 4 KB. Each MLP is measured so, as Keras has
it, and with 16 columns more, as `keras_mixer.serving.fused` exports it; in turns, with
the tokens of one image and of several. Prints GFLOP/s of the arithmetic without what
was added, the median, and their ratio.
"""

import os
import statistics
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import tensorflow as tf
from contender import THREADS

tf1 = tf.compat.v1

# Name, patches, channels, width of the channel MLP, and blocks: enough of them that no
# cache holds the weights.
MODELS = [
    ("S/16", 196, 512, 2048, 8),
    ("B/16", 196, 768, 3072, 6),
    ("L/16", 196, 1024, 4096, 4),
    ("H/14", 256, 1280, 5120, 3),
]
PAGE, LINE = 1024, 16  # in numbers of float32
RNG = np.random.default_rng(0)


def off_pages(columns):
    """The columns that the export gives a kernel."""
    return columns + LINE if columns % PAGE == 0 else columns


def blocks(x, channels, hidden, outputs, count):
    """Channel MLPs with their residual sums, one after another."""
    for _ in range(count):
        y = tf.nn.gelu(_dense(x, channels, hidden), approximate=False)
        x += _dense(y, hidden, outputs)[:, :channels]
    return x


def _dense(x, inputs, outputs):
    kernel = RNG.normal(0, inputs**-0.5, (inputs, outputs)).astype("float32")
    bias = tf1.Variable(tf.zeros(outputs), use_resource=True)
    return tf.nn.bias_add(x @ tf1.Variable(kernel, use_resource=True), bias)


def rates(patches, channels, hidden, count):
    """Yield a batch size, and the GFLOP/s of the MLPs as Keras has them and wider."""
    config = tf1.ConfigProto(
        intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=THREADS
    )
    with tf.Graph().as_default(), tf1.Session(config=config) as session:
        x = tf1.placeholder(tf.float32, (None, channels))
        outputs = [
            blocks(x, channels, hidden, channels, count),
            blocks(x, channels, off_pages(hidden), off_pages(channels), count),
        ]
        session.run(tf1.global_variables_initializer())
        # One number is fetched: the rest stays where it is.
        calls = [session.make_callable([y[-1, -1]], [x]) for y in outputs]
        for batch in (1, 2, 8):
            rows = RNG.normal(size=(batch * patches, channels)).astype("float32")
            seconds = [[], []]
            for turn in range(22 if batch == 1 else 10):
                for call, spent in zip(calls, seconds, strict=True):
                    start = time.perf_counter()
                    call(rows)
                    if turn > 1:
                        spent.append(time.perf_counter() - start)
            work = 4 * batch * patches * channels * hidden * count
            yield batch, *(work / statistics.median(each) / 1e9 for each in seconds)


def main():
    print("| MLPs | batch | as Keras has them | wider | ratio |")
    print("|------|-------|-------------------|-------|-------|")
    for name, *sizes in MODELS:
        for batch, plain, wider in rates(*sizes):
            ratio = f"{wider / plain:.2f}"
            print(
                f"| {name} | {batch} | {plain:.0f} | {wider:.0f} | {ratio} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
