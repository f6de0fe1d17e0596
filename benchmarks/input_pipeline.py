"""Input pipeline against Pillow: decode, inception crop to 224, flip; two processes.

    python benchmarks/input_pipeline.py [--seconds=8]

Both read the same 500x375 JPEG files, made of scikit-image's photographs. Pillow works
in as many processes as there are cores, as a PyTorch loader does, and sends the pixels
back as one array a batch. Prints images/s of each, how far the pixels of our evaluation
crop are from Pillow's, and all of it once more as JSON.
"""

import concurrent.futures
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags
from PIL import Image

SECONDS = flags.DEFINE_float("seconds", 8, "How long each of the two is measured.")

BATCH, SIZE = 32, 224
RESAMPLING = Image.Resampling.BILINEAR


def write_photographs(folder, count=256):
    """Write JPEG files of 500x375 pixels: windows of scikit-image's photographs."""
    from skimage import data

    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for number in range(count):
        image = Image.fromarray(photographs[number % 4])
        share = rng.uniform(0.6, 1)
        height = min(image.height, image.width * 0.75) * share
        left = rng.uniform(0, image.width - height / 0.75)
        top = rng.uniform(0, image.height - height)
        box = (left, top, left + height / 0.75, top + height)
        window = image.resize((500, 375), Image.Resampling.LANCZOS, box=box)
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        window.save(path, quality=92)


def pillow_batch(paths, seed):
    rng = np.random.default_rng(seed)
    batch = np.empty((len(paths), SIZE, SIZE, 3), "float32")
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            image = image.convert("RGB")
        width, height = image.size
        while True:
            area = width * height * rng.uniform(0.05, 1)
            stretch = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = math.sqrt(area * stretch), math.sqrt(area / stretch)
            if w <= width and h <= height:
                break
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        box = (left, top, left + w, top + h)
        crop = image.resize((SIZE, SIZE), RESAMPLING, box=box)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        batch[row] = crop
    return batch


def pillow_speed(paths):
    cores = os.cpu_count()
    batches = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(cores, context) as pool:
        jobs = zip(itertools.cycle(batches), itertools.count(), strict=False)
        pending = [pool.submit(pillow_batch, *next(jobs)) for _ in range(2 * cores)]
        for _ in range(2 * cores):  # The processes start, the files get cached.
            pending.pop(0).result()
            pending.append(pool.submit(pillow_batch, *next(jobs)))
        done, started = 0, time.monotonic()
        while time.monotonic() - started < SECONDS.value:
            done += len(pending.pop(0).result())
            pending.append(pool.submit(pillow_batch, *next(jobs)))
        speed = done / (time.monotonic() - started)
        for job in pending:
            job.cancel()
    return speed


def our_speed(split):
    from keras_mixer.catalog import ImageTransform
    from keras_mixer.data import Augmentation, batches

    config = Augmentation(crop_scale=0.05, flip=True)
    steps = split.size // BATCH
    batches = iter(
        batches.training_batches(
            split,
            config,
            transform=ImageTransform(),
            image_size=(SIZE, SIZE),
            classes=2,
            batch_size=BATCH,
            epoch_steps=steps,
            seed=0,
        )
    )
    for _ in range(8):
        next(batches)
    done, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS.value:
        done += len(next(batches)[0])
    return done / (time.monotonic() - started)


def crop_difference(paths):
    """Return how far evaluation crops are from Pillow's: mean and worst grey level."""
    import tensorflow as tf

    from keras_mixer.catalog import ImageTransform
    from keras_mixer.images import graph, load_image

    differences = []
    for path in paths:
        image = tf.io.read_file(path)
        crop = graph.evaluation_crop(image, (SIZE, SIZE), ImageTransform())
        differences.append(np.abs(crop - load_image(path, SIZE)).mean())
    return np.mean(differences), np.max(differences)


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(pathlib.Path(folder))
        paths = sorted(str(path) for path in pathlib.Path(folder).rglob("*.jpg"))
        theirs = pillow_speed(paths)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from keras_mixer.data import sources

        split = sources.open_source(f"folder:{folder}", val_fraction=0).splits["train"]
        ours = our_speed(split)
        mean, largest = crop_difference(paths[:32])
    print(f"Pillow, {os.cpu_count()} processes   {theirs:7.0f} images/s")
    print(f"keras_mixer            {ours:7.0f} images/s, {ours / theirs:.2f} times")
    print(
        f"evaluation crop: {mean:.3f} grey levels off Pillow's, at most {largest:.3f}"
    )
    figures = {"ours": ours, "pillow": theirs, "crop_mean": float(mean)}
    print(json.dumps(figures))


if __name__ == "__main__":
    app.run(main)
