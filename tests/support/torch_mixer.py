"""A Mixer in torch.nn with timm's names, to compare logits and speed with."""

from torch import nn


class Mlp(nn.Module):
    def __init__(self, width, mlp_dim):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, patches, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.mlp_tokens = Mlp(patches, tokens_mlp_dim)
        self.norm2 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.mlp_channels = Mlp(hidden_dim, channels_mlp_dim)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).mT).mT
        return x + self.mlp_channels(self.norm2(x))


class Stem(nn.Module):
    def __init__(self, hidden_dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).mT


class Mixer(nn.Module):
    """timm's `MlpMixer`, by the names of its tensors."""

    def __init__(
        self,
        hidden_dim,
        num_blocks,
        tokens_mlp_dim,
        channels_mlp_dim,
        patch_size,
        image_size,
        classes,
    ):
        super().__init__()
        patches = (image_size // patch_size) ** 2
        sizes = patches, hidden_dim, tokens_mlp_dim, channels_mlp_dim
        self.stem = Stem(hidden_dim, patch_size)
        self.blocks = nn.Sequential(*[Block(*sizes) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.head = nn.Linear(hidden_dim, classes)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x))).mean(1))
