"""Logits against PyTorch's, for files with timm's names; run by `make parity`."""

import numpy as np
import pytest
from conftest import CLASSES, IMAGE_SIZE, TINY

import keras_mixer
from keras_mixer import checkpoints, network

torch = pytest.importorskip(
    "torch", reason="PyTorch is gigabytes: `make parity` installs it and runs this"
)
nn = torch.nn


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


def check(folder, build, image_size, *sizes):
    """Compare the logits there and, by the file written back, the weights here."""
    torch.manual_seed(0)
    theirs = Mixer(*sizes).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # gammas unlike betas, biases that are not zero
                parameter.normal_(0.5, 0.2)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    checkpoints.write_safetensors(folder / "model.safetensors", state)
    images = np.random.default_rng(0).uniform(0, 255, (2, image_size, image_size, 3))
    images = images.astype("float32")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    model = build(weights=folder / "model.safetensors", classifier_activation=None)
    np.testing.assert_allclose(model(images), expected.numpy(), atol=1e-4, rtol=0)


def test_timms_file_ports_to_torchs_logits(tmp_path):
    def build(**kwargs):
        return keras_mixer.MlpMixer(
            **TINY, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), **kwargs
        )

    check(tmp_path, build, IMAGE_SIZE, *TINY.values(), IMAGE_SIZE, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MlpMixerS32", "MlpMixerB16"])
def test_timms_full_size_file_ports_to_torchs_logits(tmp_path, name):
    sizes = vars(network.VARIANTS[name]).values()
    check(tmp_path, getattr(keras_mixer, name), 224, *sizes, 1000)
