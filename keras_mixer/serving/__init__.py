"""From a model to a server's answer: export, signatures, a server, a client."""

from typing import TYPE_CHECKING, Any

from keras_mixer.serving.extra import needs_serve_extra
from keras_mixer.serving.predictors import (
    Answer,
    Predictor,
    ServerPredictor,
    open_predictor,
)

if TYPE_CHECKING:
    from keras_mixer.serving.bulk import predict_files
    from keras_mixer.serving.export import export_saved_model

__all__ = [
    "Answer",
    "Predictor",
    "ServerPredictor",
    "export_saved_model",
    "needs_serve_extra",
    "open_predictor",
    "predict_files",
]


def __getattr__(name: str) -> Any:
    # At first use: the client needs neither TensorFlow nor Keras.
    if name == "export_saved_model":
        from keras_mixer.serving import export

        return export.export_saved_model
    if name == "predict_files":
        from keras_mixer.serving import bulk

        return bulk.predict_files
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
