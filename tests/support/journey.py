"""What the journeys share: commands as a user types them, and one question to all."""

import json
import signal
import subprocess
import time

import keras
import numpy as np
import serving_support
import tensorflow as tf
from program import PROGRAM, keras_mixer_program

import keras_mixer


def do(*arguments):
    """Run a command of `keras-mixer`, which has to succeed; return what it printed."""
    done = keras_mixer_program(*arguments)
    said = f"keras-mixer {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "Traceback" not in said, said
    return done.stdout


def train_through_a_kill(run, *arguments):
    """Train, be killed once something is saved, and type the same command again."""
    command = ["train", *arguments, f"--output_dir={run}"]
    with open(run.with_suffix(".log"), "w") as log:
        process = subprocess.Popen([PROGRAM, *command], stdout=log, stderr=log)
    while process.poll() is None and not (run / "checkpoint.npz").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, run.with_suffix(".log").read_text()
    assert not (run / "report.json").exists()
    do(*command)
    return json.loads((run / "report.json").read_text())


def scores_of(answers, class_names):
    """Return `(images, classes)` of the JSON that `predict` and `query` print."""
    rows = []
    for answer in json.loads(answers):
        by_label = {row["label"]: row["score"] for row in answer["predictions"]}
        rows.append([by_label[name] for name in class_names])
    return np.array(rows)


def scores_everywhere(run, paths, base_dir):
    """Ask everything that can answer for the classes of images.

    Args:
        run: Folder of a finished run.
        paths: Image files.
        base_dir: Where to export to.

    Returns:
        A dict from who answered to scores, `(images, classes)`.
    """
    names = (run / "labels.txt").read_text(encoding="utf-8").splitlines()
    top_k = f"--top_k={len(names)}"
    found = {}
    # The commands, in the order in which a user comes to them.
    model = run / "model.keras"
    predicted = do("predict", *paths, f"--model={model}", top_k, "--json")
    found["predict"] = scores_of(predicted, names)
    loaded = keras.models.load_model(model)
    crops = np.stack([keras_mixer.load_image(path, weights=loaded) for path in paths])
    found["Keras"] = loaded.predict(crops, verbose=0)
    version = do("export", model, base_dir, top_k).split()[-1]
    serving = tf.saved_model.load(version).signatures["serving_default"]
    answer = serving(tf.constant([path.read_bytes() for path in paths]))
    assert answer["valid"].numpy().all()
    in_order = answer["top_k_indices"].numpy().argsort(axis=1)
    scores = answer["top_k_scores"].numpy()
    found["SavedModel"] = np.take_along_axis(scores, in_order, axis=1)
    with serving_support.running_server(run, base_dir) as server:
        for kind, url in [
            ("REST", server.model_url),
            ("gRPC", f"grpc://{server.grpc}/v1/models/{server.model}"),
        ]:
            found[kind] = scores_of(
                do("query", *paths, f"--url={url}", "--json"), names
            )
    return found


def assert_agree(found):
    """Hold scores together: to rounding behind one decoder, closely behind two."""
    expected = found["Keras"]
    np.testing.assert_allclose(found["predict"], expected, atol=1e-5)
    for name in ("SavedModel", "REST", "gRPC"):
        np.testing.assert_allclose(found[name], expected, atol=0.02, err_msg=name)
        np.testing.assert_allclose(found[name], found["SavedModel"], atol=1e-5)
