"""A Mixer in plain torch.nn: inference, training, and the ONNX file of others.

    python benchmarks/torch_contender.py FOLDER PRECISION

In bfloat16 the weights are stored so for inference (faster than autocast), and
autocast around float32 weights for training. In int8 activations are rounded as they
are computed: by `torch.ao` in int8, by torchao in int8_compiled. What ends in _compiled
goes through `torch.compile`.
"""

import json
import pathlib
import sys

import contender
import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))

from torch_mixer import Mixer

torch.set_num_threads(contender.THREADS)


def read_mixer(folder):
    sizes = json.loads((folder / "sizes.json").read_text())
    with torch.device("meta"):
        mixer = Mixer(**sizes)
    arrays = np.load(folder / "timm.npz")
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mixer.load_state_dict(state, assign=True)
    return mixer


class Served(nn.Module):
    """From pixels to probabilities, as the SavedModel; both in float32."""

    def __init__(self, mixer, dtype):
        super().__init__()
        self.mixer = mixer.to(dtype)
        self.dtype = dtype

    def forward(self, images):
        pixels = images.permute(0, 3, 1, 2) / 127.5 - 1
        return self.mixer(pixels.to(self.dtype)).float().softmax(-1)


class Torch(contender.Inference):
    def load(self, folder, precision):
        self.folder = folder
        precision, _, compiled = precision.partition("_")
        self.compiles = bool(compiled)
        is_int8 = precision == "int8"
        self.dtype = torch.float32 if is_int8 else getattr(torch, precision)
        self.served = Served(read_mixer(folder), self.dtype).eval()
        if is_int8 and not compiled:
            self.served = torch.ao.quantization.quantize_dynamic(
                self.served, {nn.Linear}, dtype=torch.qint8
            )
        elif is_int8:
            from torchao import quantization

            config = quantization.Int8DynamicActivationInt8WeightConfig()
            quantization.quantize_(self.served, config)
        if compiled:
            self.served = torch.compile(self.served)

    @torch.inference_mode()
    def run(self, images):
        return self.served(torch.from_numpy(images)).numpy()

    def product(self, rows, inner, columns, repeats):
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        return contender.timed(lambda: a @ b, repeats, warm_up=2)

    def export_onnx(self):
        batch = torch.export.Dim("batch", max=1024)
        torch.onnx.export(
            self.served,
            (torch.from_numpy(self.images[:2]),),
            str(self.folder / "mixer.onnx"),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
        )

    def start_training(self, batch, learning_rate, weight_decay, clip_norm):
        """Prepare steps as `keras_mixer.train` takes them: AdamW, clipped gradient."""
        self.served = None
        mixer = model = read_mixer(self.folder).train()
        if self.compiles:
            model = torch.compile(mixer)
        kernels = [p for p in mixer.parameters() if p.ndim > 1]
        others = [p for p in mixer.parameters() if p.ndim == 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=learning_rate,
            fused=True,
        )
        images = torch.from_numpy(self.images[:batch])
        labels = torch.arange(batch)

        def step():
            pixels = images.permute(0, 3, 1, 2) / 127.5 - 1
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", self.dtype, self.dtype != torch.float32):
                logits = model(pixels)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(mixer.parameters(), clip_norm)
            optimizer.step()
            return loss.item()

        self.step = step
        return [step() for _ in range(2)]

    def train(self, repeats):
        return contender.timed(self.step, repeats)


if __name__ == "__main__":
    contender.answer(Torch(pathlib.Path(sys.argv[1]), sys.argv[2]))
