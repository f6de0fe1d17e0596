"""Time and peak memory of reading and porting an L/16 (832 MB), from each format.

    python benchmarks/porting.py [--model=MlpMixerL16] [--json]

Writes the file from random weights, then ports it in a fresh process for each format.
The peak is the resident memory beyond that of the interpreter with Keras loaded, as a
multiple of the file's size; mapped pages of the file count.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

MODEL = flags.DEFINE_string("model", "MlpMixerL16", "Name of the model.")
JSON = flags.DEFINE_bool("json", False, "Print JSON, a line for each file, no table.")

WRITE = """
import sys, pathlib, numpy as np, keras, keras_mixer
from keras_mixer import weights
model = getattr(keras_mixer, sys.argv[1])()
for path in sys.argv[2:]:
    layout = {".pdparams": "passl", ".npz": "google", ".safetensors": "timm"}
    if path.endswith(".h5"):
        model.save_weights(path)
    else:
        arrays = weights.export_arrays(model, layout[pathlib.Path(path).suffix])
        weights.write_checkpoint(path, arrays)
"""
PORT = """
import json, resource, sys, time, keras, keras_mixer
import numpy as np
keras.ops.zeros(1) + 1
def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak_bytes()
start = time.perf_counter()
model = getattr(keras_mixer, sys.argv[1])(weights=sys.argv[2])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "bytes": peak_bytes() - before}))
"""


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        suffixes = (".pdparams", ".npz", ".safetensors", ".weights.h5")
        paths = [pathlib.Path(folder, f"m{suffix}") for suffix in suffixes]
        subprocess.run([sys.executable, "-c", WRITE, MODEL.value, *paths], check=True)
        if not JSON.value:
            print(f"{MODEL.value:14} {'MB':>6} {'seconds':>8} {'peak / file':>12}")
        for path in paths:
            result = subprocess.run(
                [sys.executable, "-c", PORT, MODEL.value, path],
                check=True,
                capture_output=True,
            )
            ported = json.loads(result.stdout.splitlines()[-1])
            size = path.stat().st_size
            if JSON.value:
                row = {"file": path.name[1:], "bytes": size}
                row |= {"seconds": ported["seconds"], "peak_bytes": ported["bytes"]}
                print(json.dumps(row))
                continue
            print(
                f"{path.name[1:]:14} {size / 1e6:6.0f} {ported['seconds']:8.2f} "
                f"{ported['bytes'] / size:12.2f}"
            )


if __name__ == "__main__":
    app.run(main)
