"""Start training in other processes, and read what it left behind."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

_SUPPORT = pathlib.Path(__file__).parent


def start(runs, **environment):
    """Start `training_child.py` on pairs of settings and folder; return the Popen."""
    arguments = [x for settings, folder in runs for x in (json.dumps(settings), folder)]
    path = os.pathsep.join([str(_SUPPORT.parents[1]), str(_SUPPORT)])
    return subprocess.Popen(
        [sys.executable, str(_SUPPORT / "training_child.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def state_of(folder):
    """Return the arrays of a run's checkpoint by name."""
    with np.load(folder / "checkpoint.npz") as file:
        return {name: file[name] for name in file.files if name != "meta.json"}


def history_of(folder):
    """Return the rows of a run's history without the time that they took."""
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
