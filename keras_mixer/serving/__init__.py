"""From a model to a server's answer: export, signatures, a server, a client."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_mixer.serving.answers import Answer, Predictor
from keras_mixer.serving.predictors import ServerPredictor, open_predictor

if TYPE_CHECKING:
    from keras_mixer.serving.bulk import predict_files
    from keras_mixer.serving.cluster import predict_dataset
    from keras_mixer.serving.export import export_saved_model
    from keras_mixer.serving.runtimes.export import export_model

__all__ = [
    "Answer",
    "Predictor",
    "ServerPredictor",
    "export_model",
    "export_saved_model",
    "open_predictor",
    "predict_dataset",
    "predict_files",
]


# At first use: the client needs neither TensorFlow nor Keras.
_LAZY = {
    "export_model": "runtimes.export",
    "export_saved_model": "export",
    "predict_dataset": "cluster",
    "predict_files": "bulk",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
