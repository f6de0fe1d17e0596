"""How each project names an MLP-Mixer's tensors and orders their axes.

Google's names, current and before 2021, follow from big_vision's `models/mlp_mixer.py`
and its `load`; timm's from timm 1.0.31, `models/mlp_mixer.py`; PASSL's head from
`passl/modeling/heads/mlp_mixer_head.py`, its backbone from the project's notes. The
published files could not be opened where this was written.
"""

import dataclasses

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


def pairs(num_blocks, column):
    """Pairs of (Keras name, name in that column) for a model of `num_blocks`."""
    for row in NAMES:
        if "{i}" in row[0]:
            for i in range(num_blocks):
                yield row[0].format(i=i), row[column].format(i=i)
        else:
            yield row[0], row[column]
