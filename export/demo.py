"""A Mixer's whole life in a few minutes: predict, fine-tune, export, serve, ask.

    python export/demo.py --output_dir=demo_output      (what `make demo` runs)

Classifies a photograph with the weights that come with the package, MlpMixerNano4's for
CIFAR-10, fine-tunes them on scikit-learn's 1,797 scanned digits, exports the result,
serves it, and sends the server an image file. Each step is a command that is printed
before it runs, and can be typed as it stands. Nothing is downloaded.
"""

import contextlib
import json
import os
import pathlib
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import PIL.Image
from absl import app, flags

OUTPUT_DIR = flags.DEFINE_string("output_dir", "demo_output", "Where everything goes.")

# As the program sets it for itself. What this one starts would inherit what the library
# sets where it is imported, which lets TensorFlow's warnings through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MIN_ACCURACY = 0.97
EPOCHS = 3
SERVER_START_S = 60


def main(argv):
    del argv
    start = time.monotonic()
    folder = pathlib.Path(OUTPUT_DIR.value)
    run_dir, model_dir = folder / "digits", folder / "models" / "digits"

    say("1. Classify a photograph of a cat, with the weights in the package")
    print(
        "(They know ten classes at 32 pixels, and are right nearly nine times in ten.)"
    )
    packaged = ["--model=MlpMixerNano4", "--weights=cifar10"]
    run("keras-mixer", "predict", write_photograph(folder), *packaged, "--top_k=3")

    say("2. Fine-tune these weights on 1,797 scanned digits")
    run(
        *("keras-mixer", "train", "--dataset=digits", *packaged),
        *(f"--epochs={EPOCHS}", f"--output_dir={run_dir}"),
    )
    report = json.loads((run_dir / "report.json").read_text())
    if report["test_accuracy"] < MIN_ACCURACY:
        sys.exit(
            f"The test accuracy must reach {MIN_ACCURACY:.0%}. "
            f"Received: {report['test_accuracy']:.2%}, see {run_dir}/curves.png."
        )

    say("3. Predict an image file the training never saw")
    image, label = write_test_image(folder)
    run("keras-mixer", "predict", image, f"--model={run_dir}/model.keras", "--top_k=3")

    say("4. Export for TensorFlow Serving")
    run("keras-mixer", "export", run_dir / "model.keras", model_dir, "--top_k=3")

    say("5. Serve it, and ask over HTTP")
    with served(model_dir) as url:
        ask = ["keras-mixer", "query", image, f"--url={url}"]
        run(*ask)
        answer = json.loads(run(*ask, "--json", capture=True))[0]
        best = answer["predictions"][0]["label"]
    print(f"The server says {best}; the label of that image is {label}.")

    say(f"Done in {time.monotonic() - start:.0f} s. What you can do next")
    print(
        f"""  Look at      {run_dir}/predictions.png, confusion_matrix.png, curves.png
  Train on     your images, one folder a class:
                 keras-mixer train --dataset=folder:PATH --output_dir=runs/mine
  Serve        {model_dir}/ with TensorFlow Serving: export/README.md
  Read         README.md, for the pretrained models"""
    )


def say(title):
    print(f"\n=== {title}", flush=True)


def run(*command, capture=False):
    command = [str(word) for word in command]
    shown = [short(word) for word in command]
    if not capture:
        print("$", shlex.join(shown), flush=True)
    result = subprocess.run(
        of_this_environment(command),
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


def of_this_environment(command):
    """The command with this environment's program, whatever the PATH says."""
    program = pathlib.Path(sys.executable).with_name(command[0])
    return [str(program), *command[1:]]


def short(word):
    """A path as one would type it here."""
    with contextlib.suppress(ValueError):
        if os.path.isabs(word):
            return str(pathlib.Path(word).relative_to(pathlib.Path.cwd()))
    return word


def write_photograph(folder):
    """Write scikit-image's photograph of a cat as a JPEG file."""
    import skimage.data

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cat.jpg"
    PIL.Image.fromarray(skimage.data.chelsea()).save(path, quality=90)
    return path


def write_test_image(folder):
    """Write one digit of the held-out test split, enlarged smoothly, as a PNG file."""
    from keras_mixer.data import sources

    test = sources.open_source("digits").splits["test"]
    number = 1
    label = int(test.labels[number])
    path = folder / f"digit_{label}.png"
    pixels = np.asarray(test.images[number]).astype("uint8")
    PIL.Image.fromarray(pixels).resize((256, 256), PIL.Image.BICUBIC).save(path)
    return path, label


@contextlib.contextmanager
def served(model_dir):
    """Serve the model on a free port; yields the URL that clients ask."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *("keras-mixer", "serve", model_dir),
        "--model_name=digits",
        f"--port={port}",
        "--grpc_port=0",
    ]
    print("$", shlex.join(short(str(word)) for word in command), "&", flush=True)
    log_path = model_dir.parent / "server.log"
    with open(log_path, "w") as log:
        server = subprocess.Popen(of_this_environment(command), stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/v1/models/digits"
    try:
        wait_until_ready(server, url, log_path)
        yield url
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(server, url, log_path):
    for _ in range(SERVER_START_S * 10):
        if server.poll() is not None:
            sys.exit(f"The server stopped; its log is {log_path}.")
        with contextlib.suppress(urllib.error.URLError):
            with urllib.request.urlopen(url) as response:
                status = json.load(response)
            if status["model_version_status"][0]["state"] == "AVAILABLE":
                return
        time.sleep(0.1)
    sys.exit(f"The server must be ready in {SERVER_START_S} s; its log is {log_path}.")


if __name__ == "__main__":
    app.run(main)
