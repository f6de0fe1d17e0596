r"""Ask a model server what is on images.

    python export/client.py cat.jpg photos/
    python export/client.py - --json --url=grpc://127.0.0.1:8500/v1/models/mixer < a.jpg

Arguments are files, folders (their JPEG and PNG files, with those of the folders in
them), and `-` for one image on standard input. Prints a table, or with `--json` a list.
A file that is no JPEG or PNG image is answered so; only a request that fails, after
`--retries` more attempts, ends the program: one line on standard error, exit status 1.
"""

import concurrent.futures
import json
import pathlib
import sys
import threading

import serving_client
from absl import app, flags

_URL = flags.DEFINE_string(
    "url",
    "http://127.0.0.1:8501/v1/models/mixer",
    "The model on the server, http:// or grpc://; /versions/N or /labels/LABEL may "
    "follow.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images in a request.", 1)
_CONCURRENCY = flags.DEFINE_integer("concurrency", 4, "Requests at a time.", 1)
_RETRIES = flags.DEFINE_integer(
    "retries", 3, "How often to try again when the server is not there or busy.", 0
)
_TIMEOUT_SECONDS = flags.DEFINE_float("timeout_seconds", 60.0, "Time for a request.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")

_SUFFIXES = {".jpg", ".jpeg", ".png"}


def main(argv):
    try:
        if len(argv) < 2:
            raise ValueError("Usage: client.py IMAGE|FOLDER|-... [--url=URL] [--json]")
        names = list(_names(argv[1:]))
        answers = [
            {"file": name, **answer}
            for name, answer in zip(names, _predict(names), strict=True)
        ]
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    if _JSON.value:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        print(_table(answers))


def _names(arguments):
    for argument in arguments:
        path = pathlib.Path(argument)
        if not path.is_dir():
            yield argument
            continue
        files = [p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES]
        if not files:
            raise ValueError(f"The folder {argument} has no JPEG or PNG files.")
        yield from map(str, sorted(files))


def _predict(names):
    local = threading.local()

    def predict(batch):
        if not hasattr(local, "client"):
            local.client = serving_client.connect(_URL.value, _TIMEOUT_SECONDS.value)
        # Read here, so that a folder of any size needs the memory of a few batches.
        files = [
            sys.stdin.buffer.read() if name == "-" else pathlib.Path(name).read_bytes()
            for name in batch
        ]
        return serving_client.with_retries(
            lambda: local.client.predict(files), _RETRIES.value
        )

    size = _BATCH_SIZE.value
    batches = [names[i : i + size] for i in range(0, len(names), size)]
    with concurrent.futures.ThreadPoolExecutor(_CONCURRENCY.value) as pool:
        futures = [pool.submit(predict, batch) for batch in batches]
        try:
            return [answer for future in futures for answer in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def _table(answers):
    file_width = max(len(answer["file"]) for answer in answers)
    label_width = max(len(answer["top_k_labels"][0]) for answer in answers)
    lines = []
    for answer in answers:
        line = f"{answer['file']:{file_width}}  "
        if answer["valid"]:
            ranked = zip(answer["top_k_labels"], answer["top_k_scores"], strict=True)
            (label, score), *others = ranked
            line += f"{label:{label_width}} {score:6.1%}   "
            line += ", ".join(f"{label} {score:.1%}" for label, score in others)
        else:
            line += "not a JPEG or PNG image that can be read"
        lines.append(line.rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
