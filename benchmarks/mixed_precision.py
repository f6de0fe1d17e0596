"""Train the digits under each precision, and compare the test accuracies.

    python benchmarks/mixed_precision.py

Runs `keras-mixer train --dataset=digits --precision=...` three times, for mixed_float16
with `--jit_compile`: a CPU without float16 products is very slow op by op, and XLA
widens them. The exit status is 1 if one of the mixed precisions is more than a point
from float32.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
LARGEST_DIFFERENCE = 0.01


def main():
    program = pathlib.Path(sys.executable).with_name("keras-mixer")
    accuracies = {}
    print(f"{'precision':16} {'test accuracy':>13} {'seconds':>8}")
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [
                    *(program, "train", "--dataset=digits"),
                    *(f"--precision={precision}", f"--output_dir={folder}"),
                    f"--jit_compile={precision == 'mixed_float16'}",
                ],
                check=True,
                capture_output=True,
            )
            report = json.loads((pathlib.Path(folder) / "report.json").read_text())
        accuracies[precision] = report["test_accuracy"]
        print(
            f"{precision:16} {report['test_accuracy']:13.2%} "
            f"{report['train_seconds']:8.1f}",
            flush=True,
        )
    worst = max(abs(a - accuracies["float32"]) for a in accuracies.values())
    print(f"Largest difference from float32: {worst:.2%}")
    sys.exit(worst > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    main()
