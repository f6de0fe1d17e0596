"""Logits against PyTorch's, for files with timm's names; run by `make parity`."""

import numpy as np
import pytest
from tiny import CLASSES, IMAGE_SIZE, TINY

import keras_mixer
from keras_mixer.models import mixer
from keras_mixer.weights import formats

torch = pytest.importorskip(
    "torch", reason="PyTorch is gigabytes: `make parity` installs it and runs this"
)
from torch_mixer import Mixer  # noqa: E402


def check(folder, build, image_size, *sizes):
    """Compare the logits there and, by the file written back, the weights here."""
    torch.manual_seed(0)
    theirs = Mixer(*sizes).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # gammas unlike betas, biases that are not zero
                parameter.normal_(0.5, 0.2)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    formats.write_checkpoint(folder / "model.safetensors", state)
    images = np.random.default_rng(0).uniform(0, 255, (2, image_size, image_size, 3))
    images = images.astype("float32")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    model = build(weights=folder / "model.safetensors", classifier_activation=None)
    np.testing.assert_allclose(model(images), expected.numpy(), atol=1e-4, rtol=0)
    # As timm's forward_intermediates gives them, but for the order of the axes.
    tokens = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        tokens = theirs.stem(tokens)
        for block, found in zip(
            theirs.blocks,
            keras_mixer.features(model, range(len(theirs.blocks)), None, False)(images),
            strict=True,
        ):
            tokens = block(tokens)
            np.testing.assert_allclose(found, tokens.numpy(), atol=1e-4, rtol=1e-4)


def test_timms_file_ports_to_torchs_logits(tmp_path):
    def build(**kwargs):
        return keras_mixer.MlpMixer(
            **TINY, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), **kwargs
        )

    check(tmp_path, build, IMAGE_SIZE, *TINY.values(), IMAGE_SIZE, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MlpMixerS32", "MlpMixerB16"])
def test_timms_full_size_file_ports_to_torchs_logits(tmp_path, name):
    sizes = vars(mixer.VARIANTS[name]).values()
    check(tmp_path, getattr(keras_mixer, name), 224, *sizes, 1000)
