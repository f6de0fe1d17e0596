"""Ours from files to Parquet, the model alone, and predict as it was.

    python benchmarks/bulk_contender.py FOLDER PRECISION

Also writes what the section `bulk` reads: photographs, and a model for all contenders.
"""

import io
import json
import os
import pathlib
import resource
import shutil
import sys
import time

import contender

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf
from PIL import Image

import keras_mixer
from keras_mixer import weights
from keras_mixer.data.collections import Collection
from keras_mixer.models import mixer
from keras_mixer.serving import Answer, bulk, open_predictor

tf.config.threading.set_intra_op_parallelism_threads(contender.THREADS)
tf.config.threading.set_inter_op_parallelism_threads(contender.THREADS)

BATCH = 32
OLD_BATCH = 8  # of predict before it streamed
# Of ten photographs: as data sets have them, as pages have them; of fifty, a phone's.
SIZES = [(500, 375)] * 5 + [(640, 480)] * 2 + [(1024, 768)] * 2 + [(1600, 1200)]
PHONE = (4032, 3024)


class Bulk:
    def __init__(self, folder, precision):
        self.folder = folder
        self.precision = precision
        self.crops = {}

    def write_photographs(self, count):
        """Write windows of scikit-image's and scikit-learn's photographs as JPEG."""
        from skimage import data
        from sklearn.datasets import load_sample_images

        rng = np.random.default_rng(0)
        arrays = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
        photographs = [
            Image.fromarray(a) for a in (*arrays, *load_sample_images().images)
        ]
        folder = self.folder / "photographs"
        folder.mkdir()
        for number in range(count):
            width, height = PHONE if number % 50 == 49 else SIZES[number % len(SIZES)]
            image = photographs[number % len(photographs)]
            part = min(image.width / width, image.height / height) * rng.uniform(0.6, 1)
            left = rng.uniform(0, image.width - part * width)
            top = rng.uniform(0, image.height - part * height)
            box = (left, top, left + part * width, top + part * height)
            window = image.resize((width, height), Image.Resampling.BICUBIC, box)
            # Enlarged they are smooth; a camera's are not, and take longer to decode.
            noise = rng.integers(-6, 7, (height, width, 1), "int16")
            pixels = (np.asarray(window) + noise).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=88)

    def write_model(self, model):
        """Write a model of random weights, for Keras and for PyTorch."""
        built = getattr(keras_mixer, model)()
        rng = np.random.default_rng(0)
        kernel = built.get_layer("head").kernel
        kernel.assign(rng.normal(0, 0.05, kernel.shape))
        folder = self.folder / model
        folder.mkdir()
        built.save(folder / "model.keras")
        np.savez(folder / "timm.npz", **weights.export_arrays(built, "timm"))
        variant = vars(mixer.VARIANTS[model])
        sizes = {**variant, "classes": built.output_shape[-1]}
        (folder / "sizes.json").write_text(json.dumps(sizes))

    def load(self, model):
        path = self.folder / model / "model.keras"
        self.predictor = open_predictor(path, precision=self.precision)
        if self.precision == "float32":
            self.old_model = tf.keras.models.load_model(path, compile=False)

    def _paths(self, start, stop):
        paths = sorted((self.folder / "photographs").iterdir())
        return [str(path) for path in paths[start:stop]]

    def alone(self, start, stop):
        """The model on prepared pixels, in the same batches."""
        crops = [
            self.predictor.prepare(pathlib.Path(path).read_bytes())
            for path in self._paths(start, stop)
        ]
        batches = [crops[n : n + BATCH] for n in range(0, len(crops), BATCH)]
        started = time.perf_counter()
        for batch in batches:
            self.predictor.predict(batch)
        return [time.perf_counter() - started]

    def files(self, start, stop):
        """From files to Parquet."""
        collection = Collection(self._paths(start, stop))
        started = time.perf_counter()
        answers = bulk.label(self.predictor, collection, batch_size=BATCH)
        bulk.write_table(self.folder / "ours.parquet", answers, bulk.Layout())
        return [time.perf_counter() - started]

    def old(self, start, stop):
        """What predict was (commit ff4c949): one thread, eight images at a time."""
        paths, answers = self._paths(start, stop), []
        started = time.perf_counter()
        for first in range(0, len(paths), OLD_BATCH):
            batch = paths[first : first + OLD_BATCH]
            images = [keras_mixer.load_image(p, weights=self.old_model) for p in batch]
            scores = self.old_model.predict_on_batch(np.stack(images))
            guesses = keras_mixer.decode_predictions(scores)
            answers += [
                {"image": path, "predictions": ranked}
                for path, ranked in zip(batch, guesses, strict=True)
            ]
        json.dump(answers, io.StringIO(), indent=2)
        return [time.perf_counter() - started]

    def write_small(self, count):
        """Write small JPEG files, a thousand a folder; returns their folder."""
        rng = np.random.default_rng(0)
        folder = self.folder / f"small-{count}"
        for number in range(count):
            if number % 1000 == 0:
                (folder / f"{number // 1000:04}").mkdir(parents=True)
            pixels = rng.integers(0, 256, (4, 4, 3), "uint8")
            image = Image.fromarray(pixels).resize((40, 32), Image.Resampling.BILINEAR)
            image.save(folder / f"{number // 1000:04}" / f"{number:06}.jpg")
        return str(folder)

    def peak_bytes(self, small):
        """The most memory that it takes to label a folder into shards of 1,000."""
        layout = bulk.Layout()
        out = self.folder / "shards"
        with bulk.Shards(out, {}, layout, 1000) as shards:
            for number, records in shards.pending(Collection([small])):
                answers = bulk.label(self.predictor, records, batch_size=BATCH)
                shards.write(number, bulk.LabelledShard.of(answers, layout))
        shutil.rmtree(out)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def write_finished(self, count, flags):
        """Write what a run over so many paths leaves; returns folders in and out.

        The answers are errors: what a run that goes on looks at is the names.
        """
        images, out = self.folder / "million", self.folder / "finished"
        for number in range(count):
            if number % 10_000 == 0:
                folder = images / f"{number // 10_000:03}"
                folder.mkdir(parents=True)
            (folder / f"{number:07}.jpg").touch()
        layout = bulk.Layout()
        settings = {**flags, "model": bulk.model_identity("MlpMixerNano4", "cifar10")}
        with bulk.Shards(out, settings, layout) as shards:
            for number, records in shards.pending(Collection([images])):
                rows = [(record.name, Answer(error="empty")) for record in records]
                shards.write(number, bulk.LabelledShard.of(rows, layout))
            shards.finish()
        return [str(images), str(out)]


if __name__ == "__main__":
    contender.answer(Bulk(pathlib.Path(sys.argv[1]), sys.argv[2]))
