"""What the tests of export and serving share: photographs, an export, a server.

A plugin of pytest: `conftest.py` loads it.
"""

import base64
import contextlib
import dataclasses
import io
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import requests
from program import PROGRAM

pytest_plugins = ["conformance_servers"]

ROOT = pathlib.Path(__file__).parents[2]
EXPORT = ROOT / "export"
SUPPORT = ROOT / "tests" / "support"
# The programs of export/ are run from a checkout; they are no package.
sys.path.insert(0, str(EXPORT))

IMAGE_SIZE = 24
LABELS = ["cat", "dog", "Löwe", "ibex", "yak", "emu", "fox"]


def pytest_addoption(parser):
    parser.getgroup("serving").addoption(
        "--screenshot", help="Where to write the README's picture of the page."
    )
    parser.getgroup("serving").addoption(
        "--load-seconds",
        type=float,
        default=6.0,
        help="Length of the load tests; 60 and more also judges memory and throughput.",
    )


@dataclasses.dataclass(frozen=True)
class Server:
    """Where a server listens.

    Attributes:
        url: `http://HOST:PORT`.
        grpc: `HOST:PORT`.
        model: Name of its model.
        process: The process, if it was started here.
        log: Path of what it prints, if it was started here.
    """

    url: str
    grpc: str | None
    model: str = "mixer"
    process: subprocess.Popen | None = None
    log: pathlib.Path | None = None

    @property
    def model_url(self):
        return f"{self.url}/v1/models/{self.model}"

    def predict(self, document, path=":predict", timeout=60):
        return requests.post(self.model_url + path, json=document, timeout=timeout)

    def ask(self, *files):
        """Return the rows of the answer for image files."""
        response = self.predict({"instances": [b64(file) for file in files]})
        assert response.status_code == 200, response.text
        return response.json()["predictions"]


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


def encoded(image, kind="JPEG", **options):
    """Return the bytes of an image file of a PIL image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def random_model(seed=0, *, size=IMAGE_SIZE, classes=7, **options):
    """Build a small Mixer whose answers depend on the image, and not a little."""
    import keras_mixer

    model = keras_mixer.MlpMixer(
        16, 2, 9, 33, 8, input_shape=(size, size, 3), classes=classes, **options
    )
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        scale = 1.0 if "head" in variable.path else 0.3
        value = rng.normal(variable.name == "gamma", scale, variable.shape)
        variable.assign(value.astype("float32"))
    return model


def run_signature(signature, **inputs):
    """Run a signature of a loaded SavedModel, from and to arrays."""
    import tensorflow as tf

    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in signature(**inputs).items()}


def signatures_of(version):
    import tensorflow as tf

    return tf.saved_model.load(str(version)).signatures


def meta_graph(version):
    """Return the `MetaGraphDef` of a version's SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = (version / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]


def crops(files):
    """Return image files as `load_image` crops them, `(batch, size, size, 3)`."""
    from keras_mixer.images import preprocess

    return np.stack([preprocess.load_image(file, IMAGE_SIZE) for file in files])


def example(file):
    """Return a serialized `tf.Example` with an image file."""
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    features = tf.train.Features(feature={"image": feature})
    return tf.train.Example(features=features).SerializeToString()


@contextlib.contextmanager
def running_server(directory, *flags, max_files=None):
    """Start `keras-mixer serve` on free ports, wait for it, and stop it at last.

    Args:
        directory: `pathlib.Path` for its log.
        *flags: Its arguments.
        max_files: How many files and connections it may have open.

    Yields:
        A `Server`.
    """
    log_path = directory / f"server-{time.monotonic_ns()}.log"
    command = [PROGRAM, "serve", "--port=0", "--grpc_port=0", *map(str, flags)]
    if max_files is not None:
        limits = f'ulimit -n {max_files}; exec "$@"'
        command = ["sh", "-c", limits, "sh", *command]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        # A large model is warmed up in every batch size: minutes on a slow processor.
        wait_for(
            lambda: process.poll() is not None or "REST: " in log_path.read_text(),
            timeout_seconds=600,
        )
        started = re.search(r"REST: (\S+), gRPC: (\S+)", log_path.read_text())
        assert started, log_path.read_text()
        yield Server(started[1], started[2], process=process, log=log_path)
    finally:
        stop(process)


def stop(process):
    """End a process as an operator would, and by force if it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition, timeout_seconds=120):
    """Wait until `condition()` is true, and return what it returned."""
    end_seconds = time.monotonic() + timeout_seconds
    while time.monotonic() < end_seconds:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"It did not come true within {timeout_seconds} seconds.")


@pytest.fixture(scope="session")
def photos():
    """Real photographs as PIL images, cropped unlike each other."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return {
        "astronaut": Image.fromarray(data.astronaut()).crop((40, 0, 400, 270)),
        "cat": Image.fromarray(data.chelsea()),
        "china": Image.fromarray(china).resize((320, 213)),
        "coffee": Image.fromarray(data.coffee()).crop((100, 20, 340, 380)),
        "flower": Image.fromarray(flower).resize((200, 200)),
        "rocket": Image.fromarray(data.rocket()).crop((150, 0, 350, 400)),
    }


@pytest.fixture(scope="session")
def files(photos):
    """The photographs as the bytes of JPEG and PNG files."""
    kinds = ["JPEG", "PNG"]
    return {
        name: encoded(photo, kinds[i % 2])
        for i, (name, photo) in enumerate(photos.items())
    }


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The base directory of a model with one version and all signatures."""
    import keras_mixer.serving

    base_dir = tmp_path_factory.mktemp("models") / "mixer"
    keras_mixer.serving.export_saved_model(
        random_model(), base_dir, labels=LABELS, top_k=3, features=True
    )
    return base_dir


@pytest.fixture(scope="session")
def exported_files(tmp_path_factory):
    """The model of `exported` as a file for each runtime: a folder with `m.onnx`."""
    import keras_mixer

    folder = tmp_path_factory.mktemp("files")
    for suffix in (".onnx", ".xml", ".tflite"):
        keras_mixer.export_model(random_model(), folder / f"m{suffix}", labels=LABELS)
    return folder


@pytest.fixture(scope="session")
def local_server(exported, tmp_path_factory):
    """The local server, on a copy of `exported`."""
    directory = tmp_path_factory.mktemp("server")
    shutil.copytree(exported, directory / "mixer")
    with running_server(directory, directory / "mixer") as server:
        yield server
