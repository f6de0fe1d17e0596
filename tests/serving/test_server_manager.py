"""Which versions are served: those that are half-copied, odd, greedy, or a canary."""

import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from serving_support import EXPORT, LABELS, random_model, wait_for
from tensorflow_serving.apis import model_pb2

from keras_mixer.serving import export
from keras_mixer.serving.server import config, errors, manager, metrics


def truth(version, files):
    """What TensorFlow itself says of images by a version's SavedModel."""
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    answer = serve(image_bytes=tf.constant(list(files.values())))
    return answer["top_k_scores"].numpy()


def state_of(served, number):
    spec = model_pb2.ModelSpec(name="mixer")
    for status in served.status(spec).model_version_status:
        if status.version == number:
            return manager.State.State.Name(status.state)
    return None


@pytest.fixture
def base_dir(exported, tmp_path):
    """A base directory of its own, with version 1, which is not warmed up."""
    shutil.copytree(
        exported / "1",
        tmp_path / "mixer" / "1",
        ignore=shutil.ignore_patterns("assets.extra"),
    )
    return tmp_path / "mixer"


@pytest.fixture
def managed(base_dir):
    """A manager of that directory, which looks for versions all the time.

    Its configuration is a list: an error in it is raised.
    """
    found = config.single_model_config("mixer", base_dir)
    found.model_config_list.config[0].model_version_policy.all.SetInParent()
    configs = [found]

    def read_config():
        if isinstance(configs[0], Exception):
            raise configs[0]
        return configs[0]

    served = manager.Manager(read_config, metrics.Metrics())
    served.start(0.02)
    served.configs = configs
    yield served
    served.close()


def test_manager_tries_a_version_again_when_it_is_complete(base_dir, managed):
    shutil.copytree(
        base_dir / "1",
        base_dir / "2",
        ignore=shutil.ignore_patterns("variables", "assets*"),
    )
    wait_for(lambda: state_of(managed, 2) == "END")
    # What clients read names no folder of this machine.
    status = managed.status(model_pb2.ModelSpec(name="mixer"))
    (error,) = (s.status for s in status.model_version_status if s.version == 2)
    assert "Version 2 of mixer cannot be served" in error.error_message
    assert "/" not in error.error_message
    shutil.copytree(base_dir / "1", base_dir / "2", dirs_exist_ok=True)
    wait_for(lambda: state_of(managed, 2) == "AVAILABLE")


def test_manager_passes_over_what_is_no_version(base_dir, managed):
    for name in ("9" * 23, "9223372036854775808", "-3", "1e3", "²", "0012"):
        shutil.copytree(base_dir / "1", base_dir / name)
    wait_for(lambda: state_of(managed, 12) == "AVAILABLE")
    statuses = managed.status(model_pb2.ModelSpec(name="mixer")).model_version_status
    assert [status.version for status in statuses] == [12, 1]


def test_manager_outlives_any_error(base_dir, managed, caplog):
    good = managed.configs[0]
    for error in (ValueError("unreadable"), RuntimeError("can't start new thread")):
        managed.configs[0] = error
        wait_for(lambda text=str(error): text in caplog.text)
    managed.configs[0] = good
    shutil.copytree(base_dir / "1", base_dir / "2")
    wait_for(lambda: state_of(managed, 2) == "AVAILABLE")


def test_manager_outlives_a_version_that_asks_for_40000_threads(base_dir, managed):
    shutil.copytree(base_dir / "1", base_dir / "2")
    greedy = base_dir / "2" / "batching_params.pbtxt"
    before = threading.active_count()
    greedy.write_text("num_batch_threads { value: 40000 }")
    wait_for(lambda: state_of(managed, 2) in ("AVAILABLE", "END"))
    shutil.copytree(base_dir / "1", base_dir / "3")
    wait_for(lambda: state_of(managed, 3) == "AVAILABLE")
    assert threading.active_count() < before + 100


@pytest.mark.slow
def test_manager_serves_a_canary_and_goes_back(base_dir, tmp_path, files, caplog):
    model = random_model(seed=1)
    options = {"labels": LABELS, "top_k": 3, "batch_sizes": (len(files),)}
    export.export_saved_model(model, base_dir, **options)
    current = tmp_path / "current.config"

    def write(text):
        # At once: a file that is empty for a moment asks for no model at all.
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(current)

    def use(name):
        text = (EXPORT / "tf_serving" / name).read_text()
        write(text.replace("/models/mixer", str(base_dir)))

    def states():
        statuses = served.status(model_pb2.ModelSpec(name="mixer"))
        return {s.version: s.state for s in statuses.model_version_status}

    def ask(label=None):
        spec = model_pb2.ModelSpec(name="mixer", version_label=label)
        images = np.array(list(files.values()), object)
        with served.use(spec) as servable:
            outputs = servable.submit("", {"image_bytes": images}).result(60)
            return outputs[servable.output_names("").index("top_k_scores")]

    def assert_serves(version, label=None):
        np.testing.assert_allclose(ask(label), known[version], atol=1e-5)

    known = {n: truth(base_dir / str(n), files) for n in (1, 2)}
    available, end = manager.State.AVAILABLE, manager.State.END
    use("models.config")
    served = manager.Manager(lambda: config.read_config(current), metrics.Metrics())
    served.start(0.02)
    assert states() == {2: available}
    use("canary.config")
    wait_for(lambda: states() == {1: available, 2: available})
    assert_serves(1, "stable")
    assert_serves(2, "canary")
    assert_serves(2)
    # A configuration that cannot be read changes nothing.
    write("model_config_list {")
    wait_for(lambda: "cannot be read as a models.config" in caplog.text)
    assert_serves(1, "stable")
    # Back: only version 1 is served.
    use("rollback.config")
    wait_for(lambda: states()[2] == end)
    assert_serves(1)
    assert_serves(1, "stable")
    with pytest.raises(errors.ServingError, match="Unrecognized servable version"):
        ask("canary")
    # And forth: a version that was let go is loaded again.
    use("models.config")
    wait_for(lambda: states() == {1: end, 2: available})
    assert_serves(2)
    served.close()
