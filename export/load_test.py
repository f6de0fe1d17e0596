r"""Load a model server, and check every answer.

    python export/load_test.py photos/*.jpg --seconds=60 --broken=0.05 \
        --url=http://127.0.0.1:8501/v1/models/mixer

Each connection sends its next request when the last one is answered: one image, or now
and then a few. First each image is asked alone; every later answer must be the same, to
`--tolerance`. `--broken` of the requests are wrong on purpose: half of them in turn in
all the ways of `broken_requests.py`, which must get their status and a sentence; half
have a file that is no image among good ones, which must be answered all the same.
Prints a table, or JSON with `--json`; the exit status is 1 if any answer was wrong or
missing. Ctrl-C ends it early, with the figures so far.
"""

import collections
import dataclasses
import itertools
import json
import pathlib
import random
import signal
import sys
import threading
import time

import broken_requests
from absl import app, flags

from keras_mixer.serving import client as serving_client

_URL = flags.DEFINE_list(
    "url",
    "http://127.0.0.1:8501/v1/models/mixer",
    "The model on the server, http:// or grpc://. Connections take several in turn.",
)
_CONNECTIONS = flags.DEFINE_integer("connections", 16, "Requests at a time.", 1)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Duration.", 0.1)
_BROKEN = flags.DEFINE_float("broken", 0.0, "Share of broken requests.", 0.0, 0.5)
_BATCHED = flags.DEFINE_float(
    "batched", 0.1, "Share of requests with 2 to 8 images.", 0.0, 1.0
)
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-5, "Largest difference of a score.")
_NEW_VERSIONS = flags.DEFINE_bool(
    "new_versions",
    False,
    "Expect new versions meanwhile: an answer may also be what the server says now.",
)
_TIMEOUT_SECONDS = flags.DEFINE_float("timeout_seconds", 60.0, "Time for a request.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(argv):
    try:
        if len(argv) < 2:
            raise ValueError("Usage: load_test.py IMAGE... [--url=URL] [--seconds=N]")
        files = {name: pathlib.Path(name).read_bytes() for name in argv[1:]}
        known = KnownAnswers(files, _connect(0))
        tally = _run(files, known)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    report = tally.report(known)
    if _JSON.value:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(_table(report))
    sys.exit(1 if report["wrong"] or report["failed"] else 0)


class KnownAnswers:
    """What the server says of each image.

    Args:
        files: Dict from names to the bytes of images.
        client: A client of the server.
    """

    def __init__(self, files, client):
        self._lock = threading.Lock()
        self.answers = {}
        for name, file in files.items():
            (answer,) = client.predict([file])
            if not answer["valid"]:
                raise ValueError(f"{name} is not an image that the server can read.")
            self.answers[name] = [answer]

    def includes(self, name, answer):
        """Return whether an answer is one that is known of the image."""
        with self._lock:
            return any(_equal(answer, known) for known in self.answers[name])

    def add(self, name, answer):
        """Know one more answer of the image."""
        with self._lock:
            self.answers[name].append(answer)


def _equal(answer, known):
    return answer["top_k_labels"] == known["top_k_labels"] and all(
        abs(a - b) <= _TOLERANCE.value
        for a, b in zip(answer["top_k_scores"], known["top_k_scores"], strict=True)
    )


@dataclasses.dataclass
class Tally:
    """What was seen; one for each connection, added up at the end."""

    seconds: float = 0.0
    images: int = 0
    latencies: list = dataclasses.field(default_factory=list)
    broken: int = 0
    wrong: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    failed: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def __add__(self, other):
        return Tally(
            max(self.seconds, other.seconds),
            self.images + other.images,
            self.latencies + other.latencies,
            self.broken + other.broken,
            self.wrong + other.wrong,
            self.failed + other.failed,
        )

    def report(self, known):
        """Return the figures as a dict."""
        latencies = sorted(self.latencies) or [0.0]

        def percentile(share):
            return round(1e3 * latencies[int(share * (len(latencies) - 1))], 2)

        return {
            "seconds": round(self.seconds, 2),
            "requests": len(self.latencies) + self.broken,
            "broken_requests": self.broken,
            "images": self.images,
            "images_per_second": round(self.images / self.seconds, 2),
            "latency_ms": {
                "p50": percentile(0.5),
                "p95": percentile(0.95),
                "p99": percentile(0.99),
                "max": percentile(1.0),
            },
            "wrong": dict(self.wrong),
            "failed": dict(self.failed),
            "answers": known.answers,
        }


def _run(files, known):
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    tallies = [Tally() for _ in range(_CONNECTIONS.value)]
    threads = [
        threading.Thread(target=_load, args=(i, files, known, tally, stop))
        for i, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    stop.wait(_SECONDS.value)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(tallies, Tally())


def _load(index, files, known, tally, stop):
    start_seconds = time.monotonic()
    client = _connect(index)
    rest_url = next((url for url in _URL.value if url.startswith("http")), None)
    breaker = broken_requests.Sender(rest_url, next(iter(files.values())))
    broken = itertools.cycle(broken_requests.KINDS)
    # Connections begin with different kinds.
    for _ in range(index):
        next(broken)
    rng = random.Random(index)
    while not stop.is_set():
        is_broken = rng.random() < _BROKEN.value
        tally.broken += is_broken
        if is_broken and rest_url is not None and rng.random() < 0.5:
            if complaint := breaker.send(next(broken)):
                tally.wrong[complaint] += 1
            continue
        count = rng.randint(2, 8) if is_broken or rng.random() < _BATCHED.value else 1
        batch = [(name, files[name]) for name in rng.choices(list(files), k=count)]
        if is_broken:
            batch[rng.randrange(count)] = (None, rng.choice(broken_requests.NOT_IMAGES))
        _ask(client, batch, known, tally)
    tally.seconds = time.monotonic() - start_seconds


def _ask(client, batch, known, tally):
    """Send a batch of `(name, file)`, where the name is `None` for what is no image."""
    start_seconds = time.monotonic()
    try:
        answers = client.predict([file for _, file in batch])
    except serving_client.ServerError as error:
        tally.failed[str(error)] += 1
        return
    tally.latencies.append(time.monotonic() - start_seconds)
    tally.images += len(answers)
    if len(answers) != len(batch):
        tally.wrong[f"{len(answers)} answers for {len(batch)} images"] += 1
        return
    for (name, file), answer in zip(batch, answers, strict=True):
        if name is None:
            if answer["valid"]:
                tally.wrong[f"{file!r} was taken for an image"] += 1
            continue
        if known.includes(name, answer):
            continue
        if _NEW_VERSIONS.value:
            (now,) = client.predict([file])
            if _equal(answer, now):
                known.add(name, now)
                continue
        tally.wrong[f"another answer for {name}"] += 1


def _connect(index):
    url = _URL.value[index % len(_URL.value)]
    return serving_client.connect(url, _TIMEOUT_SECONDS.value)


def _table(report):
    latency = report["latency_ms"]
    lines = [
        f"{report['requests']} requests in {report['seconds']} s, "
        f"{report['broken_requests']} of them broken on purpose",
        f"{report['images']} images, {report['images_per_second']} a second",
        "latency in ms: " + ", ".join(f"{key} {latency[key]}" for key in latency),
    ]
    for kind in ("wrong", "failed"):
        lines.append(f"{kind}: {sum(report[kind].values())}")
        lines += [f"  {count} x {text}" for text, count in report[kind].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
