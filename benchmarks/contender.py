"""A contender of the benchmark: a process that computes only while it is asked to.

The driver holds a `Contender`; the program it starts ends in `answer(...)`. They speak
JSON, a line each, over the program's standard input and output.
"""

import json
import os
import pathlib
import resource
import runpy
import subprocess
import sys
import time
import types

import numpy as np

THREADS = 2
# The package's file without the package: the driver must not load TensorFlow, since a
# process that it starts begins with its parent's peak of memory.
PROCESSOR = types.SimpleNamespace(
    **runpy.run_path(
        str(pathlib.Path(__file__).parents[1] / "keras_mixer/catalog/processor.py")
    )
)


class Contender:
    """The driver's side.

    Args:
        name: How the tables call it.
        command: Program and arguments.
        log: Path of the file that takes what the program prints.
        env: Environment variables beyond those of this process.
    """

    def __init__(self, name, command, log, **env):
        self.name = name
        self.log = log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **env},
            )

    def ask(self, method, **arguments):
        """Return what the method of the contender's object returns."""
        request = json.dumps({"method": method, "arguments": arguments})
        try:
            self._process.stdin.write(f"{request}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It ended; the empty line below says so.
        reply = self._process.stdout.readline()
        if not reply:
            self._process.wait()
            text = self.log.read_text(errors="replace").strip()
            code = self._process.returncode
            raise RuntimeError(
                f"{self.name} failed in {method}, with status {code}:\n{text[-2000:]}"
            )
        return json.loads(reply)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def answer(contender):
    """The program's side: answer with the methods of an object until there is an end.

    Args:
        contender: An object whose methods take and return what JSON can hold.
    """
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # What libraries print is no reply.
        for line in sys.stdin:
            request = json.loads(line)
            reply = getattr(contender, request["method"])(**request["arguments"])
            print(json.dumps(reply), file=replies, flush=True)


def timed(function, repeats, warm_up=0):
    """Return the seconds of each of several calls, after some that do not count."""
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


class Inference:
    """What the contenders of the inference benchmark share.

    A subclass has `load(folder, precision)` and `run(images)`, from pixels
    `(batch, height, width, 3)` to probabilities `(batch, classes)`; and, if it has to
    know the batch beforehand, `prepare(batch)`.

    Args:
        folder: `pathlib.Path` of what `Preparation.write` wrote.
        precision: What its program takes after the folder, as `"float32"`.
    """

    def __init__(self, folder, precision):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.load(folder, precision)

    def prepare(self, batch):
        pass

    def probabilities(self, batch):
        self.prepare(batch)
        return np.asarray(self.run(np.array(self.images[:batch]))).tolist()

    def best_classes(self, batch):
        """The best class of every image; their number is a multiple of `batch`."""
        self.prepare(batch)
        classes = []
        for start in range(0, len(self.images), batch):
            images = np.array(self.images[start : start + batch])
            classes += np.argmax(self.run(images), axis=-1).tolist()
        return classes

    def infer(self, batch, repeats, warm_up):
        self.prepare(batch)
        images = np.array(self.images[:batch])
        return timed(lambda: self.run(images), repeats, warm_up)

    def peak_bytes(self):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
