"""Label images with a Mixer.

    keras-mixer predict cat.jpg dog.png
    keras-mixer predict scan.png --model=runs/digits/model.keras --json

The table has one line a guess, best first. An image that cannot be read is named on
standard error, the others are labelled all the same, and the exit status is 1.
"""

import json
import pathlib
import sys

import numpy as np
from absl import flags

import keras_mixer
from keras_mixer import catalog

MODEL = flags.DEFINE_string(
    "model",
    "MlpMixerB16",
    "A named model, such as MlpMixerB16, or the path of a .keras file.",
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
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv):
    """Print the most probable classes of the images named in `argv`."""
    paths = argv[1:]
    if not paths:
        raise ValueError(
            "predict takes at least one image: keras-mixer predict IMAGE... "
            "Received: none."
        )
    from keras_mixer.models import mixer

    model = mixer.from_name_or_file(MODEL.value, WEIGHTS.value)
    naming = _naming(model.output_shape[-1])
    answers, failed = {}, False
    for start in range(0, len(paths), BATCH_SIZE):
        images = {}
        for path in paths[start : start + BATCH_SIZE]:
            try:
                images[path] = keras_mixer.load_image(path, weights=model)
            except (ValueError, OSError) as error:
                print("keras-mixer:", " ".join(str(error).split()), file=sys.stderr)
                failed = True
        if images:
            scores = model.predict_on_batch(np.stack(list(images.values())))
            guesses = keras_mixer.decode_predictions(scores, top=TOP_K.value, **naming)
            answers |= zip(images, guesses, strict=True)
    if JSON.value:
        print(json.dumps([_as_json(path, answers[path]) for path in answers], indent=2))
    else:
        for path, guess in answers.items():
            print(path)
            for _, label, score in guess:
                print(f"  {score:7.2%}  {label}")
    return 1 if failed else 0


def _naming(classes):
    """The keyword arguments by which `decode_predictions` names the classes."""
    path = LABELS.value
    if path is None and (MODEL.value, WEIGHTS.value) in catalog.ENTRIES:
        return {"weights": WEIGHTS.value}
    if path is None:
        beside = pathlib.Path(MODEL.value).with_name("labels.txt")
        if MODEL.value.endswith(".keras") and beside.exists():
            path = beside
    if path is not None:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return {"class_names": text.splitlines()}
    if classes in catalog.CLASS_LISTS:
        return {}
    return {"class_names": [str(index) for index in range(classes)]}


def _as_json(path, guess):
    return {
        "image": path,
        "predictions": [
            {"class": name, "label": label, "score": round(float(score), 6)}
            for name, label, score in guess
        ],
    }
