"""What a user of Ray Data would write: label a folder with a Keras model.

python benchmarks/bulk_ray.py FOLDER MODEL.keras SIZE OUTPUT
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import ray
from PIL import Image

SIZE = int(sys.argv[3])


def crop(row):
    image = Image.fromarray(row["image"])
    short = int(SIZE / 0.875)
    scale = short / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    image = image.crop((left, top, left + SIZE, top + SIZE))
    return {"path": row["path"], "image": np.array(image, "float32")}


class Mixer:
    def __init__(self, path):
        import keras

        import keras_mixer  # noqa: F401  its layers

        self.model = keras.models.load_model(path, compile=False)

    def __call__(self, batch):
        scores = self.model.predict_on_batch(np.stack(batch["image"]))
        classes = np.argsort(-scores, axis=1)[:, :5]
        best = np.take_along_axis(scores, classes, axis=1)
        return {"path": batch["path"], "classes": classes, "scores": best}


if __name__ == "__main__":
    _, folder, path, _, output = sys.argv
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    images = ray.data.read_images(folder, mode="RGB", include_paths=True)
    answers = images.map(crop).map_batches(
        Mixer, fn_constructor_args=(path,), batch_size=32, concurrency=1
    )
    answers.write_parquet(output)
