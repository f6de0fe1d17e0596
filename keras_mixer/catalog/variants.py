"""The sizes of the named models."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """The sizes of a named model: the first arguments of `MlpMixer`, and its image."""

    hidden_dim: int
    num_blocks: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    patch_size: int
    image_size: int = 224

    @property
    def sizes(self):
        return dataclasses.astuple(self)[:-1]


# arXiv 2105.01601, table 1. S8 is S at patch size 8, for which Google published
# weights; Nano4 is the small one that ships in the package.
VARIANTS = {
    "MlpMixerS32": Variant(512, 8, 256, 2048, 32),
    "MlpMixerS16": Variant(512, 8, 256, 2048, 16),
    "MlpMixerS8": Variant(512, 8, 256, 2048, 8),
    "MlpMixerB32": Variant(768, 12, 384, 3072, 32),
    "MlpMixerB16": Variant(768, 12, 384, 3072, 16),
    "MlpMixerL32": Variant(1024, 24, 512, 4096, 32),
    "MlpMixerL16": Variant(1024, 24, 512, 4096, 16),
    "MlpMixerH14": Variant(1280, 32, 640, 5120, 14),
    "MlpMixerNano4": Variant(128, 8, 64, 512, 4, image_size=32),
}
