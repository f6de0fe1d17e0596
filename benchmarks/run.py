"""Ours and its peers side by side: `make benchmark`.

    python benchmarks/run.py --peers_python=.venv-peers/bin/python
    python benchmarks/run.py --only=inference,training

Each contender is a process that computes only while it is asked to. They are asked in
turn, round after round, so that whatever else the machine does meets all of them; a
pause before each turn lets the thread pools of the one before fall asleep. Prints a
table, writes it to RESULTS.md, and draws results.png. A section that is not run keeps
its last figures, each with its date.
"""

import datetime
import pathlib
import sys
import tempfile
import time

import report
import sections
from absl import app, flags

HERE = pathlib.Path(__file__).parent

ONLY = flags.DEFINE_list("only", None, f"Sections: {', '.join(sections.SECTIONS)}.")
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
    names = ONLY.value or list(sections.SECTIONS)
    unknown = sorted(set(names) - set(sections.SECTIONS))
    if unknown:
        raise app.UsageError(
            f"--only takes {', '.join(sections.SECTIONS)}. Received: "
            f"{', '.join(unknown)}."
        )
    output_dir = pathlib.Path(OUTPUT_DIR.value)
    scale = sections.QUICK if QUICK.value else sections.FULL
    with tempfile.TemporaryDirectory() as folder:
        arena = sections.Arena(
            pathlib.Path(folder), PEERS_PYTHON.value, scale, CIFAR10.value, say=_say
        )
        for name in names:
            started = time.monotonic()
            _say(f"{name} ...")
            rows = sections.SECTIONS[name](arena)
            now = datetime.datetime.now(datetime.timezone.utc)
            measured = {
                "date": now.isoformat(timespec="minutes"),
                "seconds": round(time.monotonic() - started),
                "rows": rows,
            }
            # Section by section: a run that is interrupted has not been for nothing.
            report.update(output_dir, name, measured)
            print(report.table(name, measured), flush=True)
    report.draw(output_dir)
    print(f"Wrote {output_dir / 'RESULTS.md'} and {output_dir / 'results.png'}.")


def _say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
