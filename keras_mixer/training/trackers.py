"""Where the figures of a run go, beside its folder, by the trackers' own callbacks."""

import contextlib
import dataclasses

import keras

from keras_mixer.catalog import needs_extra
from keras_mixer.weights import written_whole


@contextlib.contextmanager
def tracked(config, folder):
    """Open the record of a run with the tracker of a `TrainConfig`.

    A run that is resumed goes on in the same record: its number is kept in the folder.

    Args:
        config: A `TrainConfig`.
        folder: The folder of the run.

    Yields:
        A Keras callback, and a function that adds a dict of the final figures.

    Raises:
        ImportError: If the tracker is not installed.
        ValueError: If the record can neither be found nor begun.
    """
    with _OPEN[config.tracker](config, folder) as opened:
        yield opened


@contextlib.contextmanager
def _tensorboard(config, folder):
    yield (
        keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        lambda figures: None,
    )


@contextlib.contextmanager
def _mlflow(config, folder):
    with needs_extra("MLflow's records", "mlflow"):
        import mlflow
        from mlflow.keras import MlflowCallback

    kept = _kept(folder / "mlflow_run_id")
    nested = mlflow.active_run() is not None
    try:
        run = mlflow.start_run(kept, run_name=folder.name, nested=nested)
    except Exception as error:  # of the server, the store, the network
        raise _unreachable(kept, folder, error, "MLFLOW_TRACKING_URI") from error
    with run:
        if kept is None:
            _keep(folder / "mlflow_run_id", run.info.run_id)
            mlflow.log_params(dataclasses.asdict(config))
        yield MlflowCallback(), mlflow.log_metrics
    mlflow.flush_async_logging()


@contextlib.contextmanager
def _wandb(config, folder):
    with needs_extra("The records of Weights & Biases", "wandb"):
        import wandb
        from wandb.integration.keras import WandbMetricsLogger

    kept = _kept(folder / "wandb_run_id")
    try:
        run = wandb.init(
            id=kept,
            resume="allow",
            name=folder.name,
            config=dataclasses.asdict(config),
            dir=folder,
        )
    except wandb.Error as error:
        raise _unreachable(kept, folder, error, "WANDB_BASE_URL") from error
    with run:
        _keep(folder / "wandb_run_id", run.id)
        yield WandbMetricsLogger(), run.summary.update


_OPEN = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def _kept(path):
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def _keep(path, run_id):
    with written_whole(path) as temporary:
        temporary.write_text(f"{run_id}\n", encoding="utf-8")


def _unreachable(kept, folder, error, setting):
    words = f"Set {setting} to where it is."
    if kept is not None:
        words += f" The record is {kept}; another {folder} begins a new one."
    return ValueError(
        f"The tracker must open the record of the run. Received: {error} {words}"
    )
