"""Callbacks of a run, and the trackers that it tells its figures."""

import json
import sys

import keras
import pytest
import training_child

from keras_mixer import training
from keras_mixer.training import trackers


@pytest.fixture(autouse=True)
def _policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def file_store(tmp_path, monkeypatch):
    """MLflow with its figures in files."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(before)


def test_a_resumed_run_stays_one_run_of_mlflow(file_store, tmp_path):
    folder = tmp_path / "digits"
    settings = {"tracker": "mlflow", "epochs": 2}
    training_child.stop_at(7)
    with pytest.raises(training.Preempted):
        training_child.run(settings, folder)
    done = training_child.run(settings, folder)
    (run,) = file_store.search_runs(output_format="list")
    assert run.info.run_id == (folder / "mlflow_run_id").read_text().strip()
    assert (run.info.run_name, run.info.status) == ("digits", "FINISHED")
    assert run.data.params["learning_rate"] == "0.01"
    assert run.data.params["optimizer_name"] == "adamw"
    assert run.data.metrics["test_accuracy"] == done.report["test_accuracy"]
    history = file_store.MlflowClient().get_metric_history(run.info.run_id, "accuracy")
    found = [(row.step, row.value) for row in history if row.step < 2]
    assert found == [(n, row["accuracy"]) for n, row in enumerate(done.history)]
    assert not (folder / "tensorboard").exists()


def test_a_record_that_is_lost_is_said_so(file_store, tmp_path):
    (tmp_path / "mlflow_run_id").write_text("0123456789abcdef0123456789abcdef\n")
    config = training.TrainConfig(tracker="mlflow")
    record = trackers.tracked(config, tmp_path)
    with pytest.raises(ValueError, match=r"open the record.*MLFLOW_TRACKING_URI"):
        record.__enter__()


def test_weights_and_biases_goes_on_with_its_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = training.TrainConfig(tracker="wandb")
    for _ in range(2):
        with trackers.tracked(config, tmp_path) as (callback, log):
            assert isinstance(callback, keras.callbacks.Callback)
            log({"test_accuracy": 0.5})
    run_id = (tmp_path / "wandb_run_id").read_text().strip()
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert runs
    assert all(name.endswith(f"-{run_id}") for name in runs)


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(
    tracker, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, tracker, None)
    config = training.TrainConfig(tracker=tracker)
    record = trackers.tracked(config, tmp_path)
    with pytest.raises(ImportError, match=rf"keras-mixer\[{tracker}\]"):
        record.__enter__()


class Ender(keras.callbacks.Callback):
    """Ends training after an epoch, and notes what it heard."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, sorted(logs)))
        self.model.stop_training = epoch == 1


def test_a_callback_hears_of_the_run_and_ends_it_for_good(tmp_path):
    ender = Ender()
    done = training.train(training_child.SMALL, tmp_path, callbacks=[ender])
    names = ["accuracy", "loss", "top5_accuracy"]
    names += [f"val_{name}" for name in names]
    assert ender.epochs == [(0, names), (1, names)]
    assert (done.report["steps"], len(done.history)) == (10, 2)
    assert list((tmp_path / "tensorboard").iterdir())
    # The same call reports it again, and trains no further.
    again = training.train(training_child.SMALL, tmp_path, callbacks=[ender])
    assert len(ender.epochs) == 2
    assert again.report["steps"] == 10
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["test_accuracy"] == done.report["test_accuracy"]
