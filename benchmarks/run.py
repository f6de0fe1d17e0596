"""Ours and its peers side by side: `make benchmark`.

    python benchmarks/run.py --peers_python=.venv-peers/bin/python
    python benchmarks/run.py --only=inference,training

Each contender is a process that computes only while it is asked to. They are asked in
turn, round after round, so that whatever else the machine does meets all of them; a
pause before each turn lets the thread pools of the one before fall asleep. Prints a
table, writes it to RESULTS.md, and draws results.png and growth.png. A section that is
not run keeps its last figures, each with its date.
"""

import datetime
import pathlib
import sys
import tempfile
import time

import arena
import drawing
import growth
import report
import sections
from absl import app, flags

HERE = pathlib.Path(__file__).parent

SECTIONS = {
    **sections.SECTIONS,
    "settings": growth.settings,
    "growth": growth.growth,
}

ONLY = flags.DEFINE_list("only", None, f"Sections: {', '.join(SECTIONS)}.")
PEERS_PYTHON = flags.DEFINE_string(
    "peers_python", sys.executable, "Python of the environment with the peers."
)
QUICK = flags.DEFINE_bool("quick", False, "A small model, once: does it all run?")
CIFAR10 = flags.DEFINE_string(
    "cifar10",
    None,
    "CIFAR-10, as folder:PATH or cifar10 of TensorFlow Datasets: the accuracy of what "
    "`runtimes` measures. Without it that column is left out.",
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", str(HERE), "Where to write results.")


def main(argv):
    del argv
    names = ONLY.value or list(SECTIONS)
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise app.UsageError(
            f"--only takes {', '.join(SECTIONS)}. Received: {', '.join(unknown)}."
        )
    output_dir = pathlib.Path(OUTPUT_DIR.value)
    scale = arena.QUICK if QUICK.value else arena.FULL
    with tempfile.TemporaryDirectory() as folder:
        everyone = arena.Arena(
            pathlib.Path(folder), PEERS_PYTHON.value, scale, CIFAR10.value, say=_say
        )
        for name in names:
            started = time.monotonic()
            _say(f"{name} ...")
            rows = SECTIONS[name](everyone)
            now = datetime.datetime.now(datetime.UTC)
            measured = {
                "date": now.isoformat(timespec="minutes"),
                "seconds": round(time.monotonic() - started),
                "rows": rows,
            }
            # Section by section: a run that is interrupted has not been for nothing.
            report.update(output_dir, name, measured)
            print(report.table(name, measured), flush=True)
    drawing.draw(output_dir)
    print(f"Wrote {output_dir / 'RESULTS.md'}, and its pictures beside it.")


def _say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
