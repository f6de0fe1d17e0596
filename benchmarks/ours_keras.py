"""Ours with Keras: what all contenders read, training steps, bfloat16 on photographs.

python benchmarks/ours_keras.py FOLDER PRECISION
"""

import json
import os
import pathlib
import sys

import contender

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import input_pipeline
import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_mixer
from keras_mixer import data, export_model, weights
from keras_mixer.images import preprocess
from keras_mixer.models import mixer
from keras_mixer.serving import export
from keras_mixer.training import TrainConfig, devices, optimizers

tf.config.threading.set_intra_op_parallelism_threads(contender.THREADS)
tf.config.threading.set_inter_op_parallelism_threads(contender.THREADS)


def _randomize(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:  # gammas unlike betas, biases not zero
            center = float(variable.name == "gamma")
            variable.assign(rng.normal(center, 0.1, variable.shape))
    kernel = model.get_layer("head").kernel
    kernel.assign(rng.normal(0, 0.05, kernel.shape))


class Keras:
    def __init__(self, folder, precision):
        self.folder = folder
        self.precision = precision

    def write(self, model, images, trained=None):
        """Write the weights, the exports and the images that all contenders read.

        Without the tag of `trained` weights every variable is random, so that logits
        tell one computation from another.
        """
        built = getattr(keras_mixer, model)(weights=trained)
        if trained is None:
            _randomize(built)
        built.save_weights(self.folder / "mixer.weights.h5")
        for layout in ("timm", "passl"):
            arrays = weights.export_arrays(built, layout)
            np.savez(self.folder / f"{layout}.npz", **arrays)
        for precision in ("float32", "bfloat16"):
            path = self.folder / "saved_model" / precision
            export.export_saved_model(built, path, precision=precision)
        variant = vars(mixer.VARIANTS[model])
        sizes = {**variant, "classes": built.output_shape[-1]}
        (self.folder / "sizes.json").write_text(json.dumps(sizes))
        files = self.folder / "files"
        files.mkdir()
        input_pipeline.write_photographs(files, images)
        paths = sorted(files.rglob("*.jpg"))
        for number, path in enumerate(paths):
            path.rename(files / f"{number:03}.jpg")
        side = variant["image_size"]
        crops = [preprocess.load_image(p, side) for p in sorted(files.glob("*.jpg"))]
        np.save(self.folder / "images.npy", np.stack(crops).astype("float32"))

    def sizes(self, models):
        """Return what `write_sized` takes, for each of several named models."""
        return {
            name: {**vars(mixer.VARIANTS[name]), "classes": 1000} for name in models
        }

    def write_sized(self, folder, sizes, images):
        """Write the export of a random model of some sizes, and images for it."""
        folder = pathlib.Path(folder)
        side = sizes.pop("image_size")
        built = keras_mixer.MlpMixer(input_shape=(side, side, 3), **sizes)
        _randomize(built)
        export.export_saved_model(built, folder / "saved_model" / "float32")
        pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3))
        np.save(folder / "images.npy", pixels.astype("float32"))

    def export_files(self, model):
        """Write the weights for every other runtime, in float32 and in int8."""
        built = getattr(keras_mixer, model)(weights=self.folder / "mixer.weights.h5")
        (self.folder / "exports").mkdir()
        for precision in ("float32", "int8"):
            for suffix in ("onnx", "xml", "tflite"):
                path = self.folder / "exports" / f"{precision}.{suffix}"
                export_model(built, path, precision=precision, verify=False)

    def write_labelled(self, dataset, model):
        """Replace the images by a data set's test split; return its labels."""
        source, split = data.open_split(dataset, "test")
        built = getattr(keras_mixer, model)(weights=self.folder / "mixer.weights.h5")
        batches = data.evaluation_batches(
            split,
            transform=built.get_layer("preprocessing"),
            image_size=built.input_shape[1:3],
            classes=len(source.class_names),
            batch_size=100,
        )
        crops, labels, _ = map(np.concatenate, zip(*batches, strict=True))
        np.save(self.folder / "images.npy", crops[: split.size])
        return labels[: split.size].argmax(axis=1).tolist()

    def start_training(self, model, batch, **settings):
        """Prepare steps as `keras_mixer.train` takes them, from the written weights."""
        devices.set_precision(self.precision)
        built = getattr(keras_mixer, model)(classifier_activation=None)
        built.load_weights(self.folder / "mixer.weights.h5")
        config = TrainConfig(
            model=model, batch_size=batch, precision=self.precision, **settings
        )
        fitted, _, _ = optimizers.make_trainer(
            config, devices.Distribution(), built, total_steps=10**6
        )
        images = np.load(self.folder / "images.npy")[:batch]
        labels = np.eye(built.output_shape[-1], dtype="float32")[:batch]
        batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
        fitted.make_train_function()

        def step():
            fitted.reset_metrics()
            return float(fitted.train_function(batches)["loss"])

        self.step = step
        return [step() for _ in range(2)]

    def train(self, repeats):
        return contender.timed(self.step, repeats)

    def agreement(self, count):
        """Compare the exports of trained weights on windows of photographs."""
        from skimage import data as samples

        model = keras_mixer.MlpMixerNano4(weights="cifar10")
        side = model.input_shape[1]
        names = ("astronaut", "coffee", "chelsea", "rocket")
        photographs = [Image.fromarray(getattr(samples, name)()) for name in names]
        rng = np.random.default_rng(0)
        crops = []
        for number in range(count):
            photograph = photographs[number % len(photographs)]
            edge = rng.uniform(0.15, 1) * min(photograph.size)
            left, top = (rng.uniform(0, length - edge) for length in photograph.size)
            box = (left, top, left + edge, top + edge)
            crops.append(photograph.resize((side, side), Image.Resampling.BICUBIC, box))
        images = tf.constant(np.stack(crops).astype("float32"))
        answers = {}
        for precision in ("float32", "bfloat16"):
            path = self.folder / "trained" / precision
            path = export.export_saved_model(model, path, precision=precision)
            signature = tf.saved_model.load(str(path)).signatures["images"]
            answers[precision] = signature(images=images)["probabilities"].numpy()
        first, second = answers.values()
        return {
            "images": count,
            "classes_seen": len(set(first.argmax(1))),
            "agreement": float((first.argmax(1) == second.argmax(1)).mean()),
            "largest_difference": float(np.abs(first - second).max()),
        }


if __name__ == "__main__":
    assert keras.backend.backend() == "tensorflow"
    contender.answer(Keras(pathlib.Path(sys.argv[1]), sys.argv[2]))
