"""A Mixer in paddle.nn with PASSL's names; writes its checkpoints and its logits.

Run in a process of its own, since Paddle and TensorFlow crash when they share one:

    python tests/support/paddle_mixer.py OUT_DIR '{"hidden_dim": 10, ...}' [FORM...]

A form is `prefixed_2`, `bare_4`, `nested_4` or the like; all of them by default.
"""

import json
import pathlib
import sys

import numpy as np
import paddle
from paddle import nn


class Mlp(nn.Layer):
    def __init__(self, width, mlp_dim):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Layer):
    def __init__(self, patches, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_dim, epsilon=1e-6)
        self.mlp_tokens = Mlp(patches, tokens_mlp_dim)
        self.norm2 = nn.LayerNorm(hidden_dim, epsilon=1e-6)
        self.mlp_channels = Mlp(hidden_dim, channels_mlp_dim)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose([0, 2, 1])).transpose([0, 2, 1])
        return x + self.mlp_channels(self.norm2(x))


class Stem(nn.Layer):
    def __init__(self, hidden_dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2D(3, hidden_dim, patch_size, stride=patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose([0, 2, 1])


class Backbone(nn.Layer):
    def __init__(
        self,
        hidden_dim,
        num_blocks,
        tokens_mlp_dim,
        channels_mlp_dim,
        patch_size,
        image_size,
    ):
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.stem = Stem(hidden_dim, patch_size)
        self.blocks = nn.Sequential(
            *[
                Block(patches, hidden_dim, tokens_mlp_dim, channels_mlp_dim)
                for _ in range(num_blocks)
            ]
        )
        self.norm = nn.LayerNorm(hidden_dim, epsilon=1e-6)

    def forward(self, x):
        return self.norm(self.blocks(self.stem(x))).mean(1)


class Head(nn.Layer):
    def __init__(self, hidden_dim, classes):
        super().__init__()
        self.fc_cls = nn.Linear(hidden_dim, classes)

    def forward(self, x):
        return self.fc_cls(x)


class Classifier(nn.Layer):
    def __init__(self, classes, **sizes):
        super().__init__()
        self.backbone = Backbone(**sizes)
        self.head = Head(sizes["hidden_dim"], classes)

    def forward(self, x):
        return self.head(self.backbone(x))


def main(out_dir, sizes, forms):
    out_dir = pathlib.Path(out_dir)
    paddle.seed(0)
    model = Classifier(**sizes)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # gammas unlike betas, and biases that are not zero
            parameter.set_value(rng.normal(0.5, 0.2, parameter.shape).astype("float32"))
    model.eval()
    state = model.state_dict()
    bare = {
        name.removeprefix("backbone.").removeprefix("head."): value
        for name, value in state.items()
    }
    states = {"prefixed": state, "bare": bare}
    states["nested"] = {"epoch": 3, "state_dict": state}
    for form in forms or [f"{kind}_{n}" for kind in states for n in (2, 4)]:
        kind, protocol = form.split("_")
        path = f"{out_dir}/{form}.pdparams"
        paddle.save(states[kind], path, protocol=int(protocol))
    size = sizes["image_size"]
    images = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    with paddle.no_grad():
        normalised = paddle.to_tensor((images / 127.5 - 1).transpose(0, 3, 1, 2))
        logits = model(normalised).numpy()
    np.savez(out_dir / "expected.npz", images=images, logits=logits)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:])
