"""As timm's `inference.py` labels files: PyTorch's DataLoader with two workers.

    python benchmarks/bulk_torch.py FOLDER PRECISION

FOLDER holds a model's `timm.npz` and `sizes.json`, and lies beside `photographs`.
"""

import csv
import pathlib
import sys
import time

import contender
import numpy as np
import torch
import torch_contender
from PIL import Image

BATCH = 32
WORKERS = 2


class Files(torch.utils.data.Dataset):
    """Crops of files: the short side resized, the centre cut out."""

    def __init__(self, paths, size):
        self.paths = paths
        self.size = size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        short = int(self.size / 0.875)
        scale = short / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image, dtype="uint8"))


class Torch:
    def __init__(self, folder, precision):
        self.folder = folder
        mixer = torch_contender.read_mixer(folder)
        self.served = torch_contender.Served(mixer, getattr(torch, precision)).eval()

    @torch.inference_mode()
    def files(self, start, stop, size):
        paths = sorted((self.folder.parent / "photographs").iterdir())[start:stop]
        started = time.perf_counter()
        loader = torch.utils.data.DataLoader(
            Files(paths, size), BATCH, num_workers=WORKERS
        )
        rows = []
        for images in loader:
            scores, classes = self.served(images.float()).topk(5)
            rows += zip(classes.tolist(), scores.tolist(), strict=True)
        with open(self.folder / "torch.csv", "w", newline="") as file:
            table = csv.writer(file)
            for path, (classes, scores) in zip(paths, rows, strict=True):
                table.writerow([path, *classes, *scores])
        return [time.perf_counter() - started]


if __name__ == "__main__":
    contender.answer(Torch(pathlib.Path(sys.argv[1]), sys.argv[2]))
