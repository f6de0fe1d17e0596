"""MLP-Mixer in numpy, from the paper's equations, to compare with."""

import math

import numpy as np

EPSILON = 1e-6


def gelu(x, approximate):
    if approximate:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + np.tanh(inner))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x, gamma, beta):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def mlp(x, w, name, approximate):
    hidden = gelu(x @ w[f"{name}/fc1/kernel"] + w[f"{name}/fc1/bias"], approximate)
    return hidden @ w[f"{name}/fc2/kernel"] + w[f"{name}/fc2/bias"]


def logits(images, w, approximate=False):
    """Logits `(batch, classes)` of normalised `images`, given `{Keras name: array}`."""
    w = {name: np.asarray(value, "float64") for name, value in w.items()}
    patch = w["stem/kernel"].shape[0]
    _, height, width, _ = images.shape
    tokens = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            tile = images[:, top : top + patch, left : left + patch]
            tokens.append(np.tensordot(tile, w["stem/kernel"], 3) + w["stem/bias"])
    x = np.stack(tokens, axis=1)
    block = 0
    while (name := f"block{block}") + "_token_norm/gamma" in w:
        norm = f"{name}_token_norm"
        y = layer_norm(x, w[f"{norm}/gamma"], w[f"{norm}/beta"])
        y = mlp(y.swapaxes(1, 2), w, f"{name}_token_mixing", approximate)
        x = x + y.swapaxes(1, 2)
        norm = f"{name}_channel_norm"
        y = layer_norm(x, w[f"{norm}/gamma"], w[f"{norm}/beta"])
        x = x + mlp(y, w, f"{name}_channel_mixing", approximate)
        block += 1
    x = layer_norm(x, w["pre_head_norm/gamma"], w["pre_head_norm/beta"]).mean(1)
    return x @ w["head/kernel"] + w["head/bias"]
