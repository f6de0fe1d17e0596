"""How each project names an MLP-Mixer's tensors and orders their axes.

Google's names, current and before 2021, follow from big_vision's `models/mlp_mixer.py`
and its `load`; timm's from timm 1.0.31, `models/mlp_mixer.py`; PASSL's head from
`passl/modeling/heads/mlp_mixer_head.py`, its backbone from the project's notes. The
published files could not be opened where this was written.
"""

import dataclasses
import re

# Keras name, PASSL's and timm's name, Google's npz name, Google's name before 2021.
NAMES = [
    ("stem/kernel", "stem.proj.weight", "stem/kernel", "embedding/kernel"),
    ("stem/bias", "stem.proj.bias", "stem/bias", "embedding/bias"),
    *[
        (
            f"block{{i}}_{branch}_norm/{keras_name}",
            f"blocks.{{i}}.norm{k + 1}.{torch_name}",
            f"MixerBlock_{{i}}/LayerNorm_{k}/{flax_name}",
            f"Mixer/encoderblock_{{i}}/LayerNorm_{k}/{flax_name}",
        )
        for k, branch in enumerate(["token", "channel"])
        for keras_name, torch_name, flax_name in [
            ("gamma", "weight", "scale"),
            ("beta", "bias", "bias"),
        ]
    ],
    *[
        (
            f"block{{i}}_{branch}_mixing/fc{k + 1}/{keras_name}",
            f"blocks.{{i}}.mlp_{branch}s.fc{k + 1}.{torch_name}",
            f"MixerBlock_{{i}}/{branch}_mixing/Dense_{k}/{keras_name}",
            f"Mixer/encoderblock_{{i}}/{branch}_mixing_phase_0/{keras_name}{k + 1}",
        )
        for branch in ["token", "channel"]
        for k in range(2)
        for keras_name, torch_name in [("kernel", "weight"), ("bias", "bias")]
    ],
    (
        "pre_head_norm/gamma",
        "norm.weight",
        "pre_head_layer_norm/scale",
        "Mixer/encoder_norm/scale",
    ),
    (
        "pre_head_norm/beta",
        "norm.bias",
        "pre_head_layer_norm/bias",
        "Mixer/encoder_norm/bias",
    ),
    ("head/kernel", "head.weight", "head/kernel", "head/kernel"),
    ("head/bias", "head.bias", "head/bias", "head/bias"),
]

HWIO_FROM_OIHW = (2, 3, 1, 0)
IN_OUT_FROM_OUT_IN = (1, 0)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one family of files names its tensors and orders their axes."""

    column: int  # of NAMES
    approximate_gelu: bool
    stem_axes: tuple[int, ...] | None = None  # to Keras' height, width, in, out
    dense_axes: tuple[int, ...] | None = None  # to Keras' in, out
    squeezes_mixing: bool = False  # axes of length 1, as in a bias (1, patches, 1)

    def axes(self, name):
        if name == "stem/kernel":
            return self.stem_axes
        return self.dense_axes if name.endswith("/kernel") else None


LAYOUTS = {
    # Paddle's Linear keeps (in, out); PyTorch's keeps (out, in).
    "passl": Layout(1, approximate_gelu=False, stem_axes=HWIO_FROM_OIHW),
    "timm": Layout(
        1,
        approximate_gelu=False,
        stem_axes=HWIO_FROM_OIHW,
        dense_axes=IN_OUT_FROM_OUT_IN,
    ),
    "google": Layout(2, approximate_gelu=True),
    "google_legacy": Layout(3, approximate_gelu=True, squeezes_mixing=True),
    "keras": Layout(0, approximate_gelu=False),
}
SUFFIXES = (".pdparams", ".npz", ".safetensors", ".weights.h5", ".keras")
LAYOUT_OF_FORMAT = {"pdparams": "passl", "safetensors": "timm", "npz": "google"}


# The deepest published Mixer, H/14, has 32.
MAX_BLOCKS = 100
_BLOCK = re.compile(r"^(blocks\.|MixerBlock_|Mixer/encoderblock_|block)(\d{1,3})(?!\d)")


def pairs(num_blocks, column):
    """Pairs of (Keras name, name in that column) for a model of `num_blocks`."""
    for row in NAMES:
        if "{i}" in row[0]:
            for i in range(num_blocks):
                yield row[0].format(i=i), row[column].format(i=i)
        else:
            yield row[0], row[column]


def keras_name(name, column):
    """The Keras name of a tensor that is named as in that column, or None."""
    template, number = name, None
    if block := _BLOCK.match(name):
        number = int(block[2])
        template = f"{block[1]}{{i}}{name[block.end() :]}"
    for row in NAMES:
        if row[column] == template:
            ours = row[0].format(i=number)
            # Other spellings of a number, such as 007, are not the tensor's name.
            return ours if row[column].format(i=number) == name else None
    return None


def num_blocks(keras_names):
    """One more than the highest number of a block among names."""
    blocks = [int(m[1]) for n in keras_names if (m := re.match(r"block(\d+)_", n))]
    return max(blocks, default=-1) + 1


def shapes(sizes, patches, classes):
    """Every tensor of a model of these sizes, as `{Keras name: shape}`.

    Args:
        sizes: (hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim, patch_size).
        patches: Number of patches of an image.
        classes: Number of classes, or None for no head.
    """
    hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim, patch_size = sizes
    dense = {
        "token_mixing": (patches, tokens_mlp_dim),
        "channel_mixing": (hidden_dim, channels_mlp_dim),
        "head": (hidden_dim, classes),
    }
    found = {}
    for name, _ in pairs(num_blocks, 0):
        layer, *path, variable = name.split("/")
        kind = re.sub(r"^block\d+_", "", layer)
        if kind == "head" and classes is None:
            continue
        if kind == "stem":
            kernel = (patch_size, patch_size, 3, hidden_dim)
        else:
            kernel = dense.get(kind, (hidden_dim,))
            kernel = kernel[::-1] if path == ["fc2"] else kernel
        found[name] = kernel if variable == "kernel" else kernel[-1:]
    return found
