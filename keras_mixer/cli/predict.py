"""Label images with a Mixer.

    keras-mixer predict cat.jpg photos/
    keras-mixer predict scan.png --model=runs/digits/model.keras --json

The table has one line a guess, best first. An image that cannot be read is named on
standard error, and in JSON has "error" in the place of "predictions"; the others are
labelled all the same, and the exit status is 1.
"""

import json
import pathlib
import sys

import numpy as np
from absl import flags

import keras_mixer
from keras_mixer import catalog, cli

MODEL = flags.DEFINE_string(
    "model",
    "MlpMixerB16",
    "A named model, such as MlpMixerB16, the path of a .keras file, or a run's folder.",
)
WEIGHTS = flags.DEFINE_string(
    "weights", "imagenet", "For a named model: a tag of the catalogue or a path."
)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "A text file with the name of one class a line. Without it: the classes of the "
    "tag, for a named model; labels.txt beside a .keras file; else ImageNet's, for as "
    "many classes; else the classes' numbers.",
)
TOP_K = flags.DEFINE_integer("top_k", 5, "How many guesses to print.", lower_bound=1)
BATCH_SIZE = 8  # images in memory at a time
# Of files in a folder; a file by its own name is read whatever it is called.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif"),
    *(".webp", ".tif", ".tiff"),
)
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv):
    """Print the most probable classes of the images named in `argv`."""
    if len(argv) == 1:
        raise ValueError(
            "predict takes at least one image: keras-mixer predict IMAGE... "
            "Received: none."
        )
    from keras_mixer.models import open_model

    paths = cli.image_files(argv[1:], SUFFIXES)
    model = open_model(MODEL.value, WEIGHTS.value)
    naming = _naming(model.output_shape[-1])
    answers = []
    for start in range(0, len(paths), BATCH_SIZE):
        answers += _label(paths[start : start + BATCH_SIZE], model, naming)
    if JSON.value:
        print(json.dumps(answers, indent=2))
    else:
        for answer in answers:
            if "error" in answer:
                continue
            print(answer["image"])
            for guess in answer["predictions"]:
                print(f"  {guess['score']:7.2%}  {guess['label']}")
    return 1 if any("error" in answer for answer in answers) else 0


def _label(paths, model, naming):
    """Return what JSON says of each image of a batch."""
    images, errors = {}, {}
    for path in paths:
        try:
            images[path] = keras_mixer.load_image(path, weights=model)
        except (ValueError, OSError) as error:
            errors[path] = cli.one_line(error)
            print("keras-mixer:", errors[path], file=sys.stderr)
    ranked = {}
    if images:
        scores = model.predict_on_batch(np.stack([*images.values()]))
        guesses = keras_mixer.decode_predictions(scores, top=TOP_K.value, **naming)
        ranked = dict(zip(images, guesses, strict=True))
    return [
        {"image": path, "error": errors[path]}
        if path in errors
        else {
            "image": path,
            "predictions": [
                {"class": name, "label": label, "score": round(float(score), 6)}
                for name, label, score in ranked[path]
            ],
        }
        for path in paths
    ]


def _naming(classes):
    """The keyword arguments by which `decode_predictions` names the classes."""
    from keras_mixer.models import labels_beside

    path = LABELS.value
    if path is None and (MODEL.value, WEIGHTS.value) in catalog.ENTRIES:
        return {"weights": WEIGHTS.value}
    if path is None:
        path = labels_beside(MODEL.value)
    if path is not None:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return {"class_names": text.splitlines()}
    if classes in catalog.CLASS_LISTS:
        return {}
    return {"class_names": [str(index) for index in range(classes)]}
