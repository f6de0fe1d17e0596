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

from absl import flags

from keras_mixer import cli
from keras_mixer.serving import Answer, open_predictor

MODEL = flags.DEFINE_string(
    "model",
    "MlpMixerB16",
    "A named model, such as MlpMixerB16, the path of a .keras file, a run's folder, or "
    "the URL of a model on a server, http:// or grpc://.",
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "For a named model: a tag of the catalogue or a path; imagenet by default. For a "
    ".keras file built with include_preprocessing=False: the tag that says how to "
    "prepare images.",
)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "A text file with the name of one class a line, or a tag of weights with these "
    "classes. Without it: the classes of the tag, for a named model; labels.txt beside "
    "a .keras file; else ImageNet's, for as many classes; else the classes' numbers.",
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
    paths = cli.image_files(argv[1:], SUFFIXES)
    predictor = open_predictor(
        MODEL.value, weights=WEIGHTS.value, labels=LABELS.value, top_k=TOP_K.value
    )
    answers = []
    for start in range(0, len(paths), BATCH_SIZE):
        answers += _label(paths[start : start + BATCH_SIZE], predictor)
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


def _label(paths, predictor):
    """Return what JSON says of each image of a batch."""
    prepared, answers = {}, {}
    for path in paths:
        try:
            prepared[path] = predictor.prepare(pathlib.Path(path).read_bytes())
        except (ValueError, OSError) as error:
            answers[path] = Answer(error=cli.one_line(error))
    if prepared:
        answers |= zip(prepared, predictor.predict([*prepared.values()]), strict=True)
    for path in paths:
        if answers[path].error is not None:
            print(f"keras-mixer: {path}: {answers[path].error}", file=sys.stderr)
    return [cli.as_json(path, answers[path]) for path in paths]
