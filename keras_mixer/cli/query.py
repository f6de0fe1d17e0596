"""Ask a model server what is on images.

    keras-mixer query cat.jpg photos/
    keras-mixer query - --json --url=grpc://127.0.0.1:8500/v1/models/mixer < cat.jpg

Arguments are files, folders (their images, with those of the folders in them), and `-`
for one image on standard input. The table has one line an image, best guess first. A
file that the server cannot use is named on standard error, the others are answered all
the same, and the exit status is 1. A request that fails, after `--retries` more
attempts, ends the program.
"""

import concurrent.futures
import json
import pathlib
import sys
import threading

from absl import flags

from keras_mixer import cli
from keras_mixer.cli import _flags
from keras_mixer.serving import ServerPredictor

ARGUMENTS = "IMAGE..."
URL = flags.DEFINE_string(
    "url",
    "http://127.0.0.1:8501/v1/models/mixer",
    "The model on the server, http:// or grpc://; /versions/N or /labels/LABEL may "
    "follow.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images in a request.", 1)
CONCURRENCY = flags.DEFINE_integer("concurrency", 4, "Requests at a time.", 1)
RETRIES = flags.DEFINE_integer(
    "retries", 3, "How often to try again when the server is not there or busy.", 0
)
TIMEOUT_SECONDS = flags.DEFINE_float("timeout_seconds", 60.0, "Time for a request.")
JSON = _flags.define_json()

# What an exported model reads.
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".bmp", ".gif", ".webp"),
)


def main(argv):
    """Print what a server says of the images named in `argv`."""
    if len(argv) < 2:
        raise ValueError(
            "query takes at least one image: keras-mixer query IMAGE... --url=URL. "
            "Received: none."
        )
    names = cli.image_files(argv[1:], _SUFFIXES)
    answers = [
        cli.as_json(name, answer)
        for name, answer in zip(names, _predict(names), strict=True)
    ]
    failed = [answer for answer in answers if "error" in answer]
    for answer in failed:
        print(f"keras-mixer: {answer['image']}: {answer['error']}", file=sys.stderr)
    if JSON.value:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        _print_table([answer for answer in answers if "error" not in answer])
    return 1 if failed else 0


def _predict(names):
    local = threading.local()

    def predict(batch):
        if not hasattr(local, "server"):
            local.server = ServerPredictor(
                URL.value,
                timeout_seconds=TIMEOUT_SECONDS.value,
                retries=RETRIES.value,
            )
        # Read here, so that a folder of any size needs the memory of a few batches.
        files = [
            sys.stdin.buffer.read() if name == "-" else pathlib.Path(name).read_bytes()
            for name in batch
        ]
        return local.server.predict(files)

    size = BATCH_SIZE.value
    batches = [names[i : i + size] for i in range(0, len(names), size)]
    with concurrent.futures.ThreadPoolExecutor(CONCURRENCY.value) as pool:
        futures = [pool.submit(predict, batch) for batch in batches]
        try:
            return [answer for future in futures for answer in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def _print_table(answers):
    image_width = max((len(answer["image"]) for answer in answers), default=0)
    best_labels = [answer["predictions"][0]["label"] for answer in answers]
    label_width = max(map(len, best_labels), default=0)
    for answer in answers:
        best, *others = answer["predictions"]
        line = f"{answer['image']:{image_width}}  {best['label']:{label_width}} "
        line += f"{best['score']:6.1%}   "
        line += ", ".join(f"{guess['label']} {guess['score']:.1%}" for guess in others)
        print(line.rstrip())
