"""The versions of a model: loaded as they appear, gone when the next one answers."""

import asyncio
import gc
import json
import re
import weakref

import tensorflow as tf
from absl import logging
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2 as status_pb2
from tensorflow_serving.apis import prediction_log_pb2

from keras_mixer.serving import publishing, warm_up
from keras_mixer.serving.server.batching import Signature
from keras_mixer.serving.server.errors import Code, ServingError

State = status_pb2.ModelVersionStatus


class Versions:
    """The versions of the model `name` in a folder. Belongs to an event loop.

    The highest one answers, once it is loaded and warm. The one before is gone when its
    last request is answered, as nothing refers to it any more. One that cannot be
    loaded changes nothing, and is tried again when its files change.
    """

    def __init__(self, name, base_path):
        self.name = name
        self._base_path = base_path
        self._served = None
        self._leaving = weakref.WeakSet()
        # Number and files of the version that was tried last, and what became of it.
        self._tried, self._failed = None, None

    async def watch(self, poll_seconds=1.0):
        """Look for new versions every `poll_seconds`, whatever happens."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self.look()
            except Exception:
                logging.exception("Looking for new versions failed.")

    async def look(self):
        """Let the highest version answer, if it is another one than before."""
        if self._leaving:
            # TensorFlow's functions refer to each other.
            gc.collect()
        number, path, files = await asyncio.to_thread(_highest, self._base_path)
        served = self._served and self._served.number
        if number in (None, served) or self._tried == (number, files):
            return
        self._tried, self._failed = (number, files), None
        try:
            model = await asyncio.to_thread(SavedModel, path, number)
        except Exception as error:
            logging.error("%s cannot be served: %s", path, error)
            # Not the error itself, which names folders of this machine.
            why = {"error_code": "UNKNOWN", "error_message": "It cannot be served."}
            self._failed = State(version=number, state=State.END, status=why)
            return
        if self._served:
            self._leaving.add(self._served)
        self._served = model
        logging.info("Serving version %d of %s", number, self.name)

    def find(self, spec):
        """Return the `SavedModel` that a `ModelSpec` asks for."""
        if not self._served or not self._means(spec, self._served.number):
            sentence = f"Servable not found for request: {' '.join(str(spec).split())}"
            raise ServingError(sentence, Code.NOT_FOUND)
        return self._served

    def metadata(self, spec):
        """Return the `GetModelMetadataResponse` for a `ModelSpec`."""
        model = self.find(spec)
        response = metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        response.model_spec.version.value = model.number
        response.metadata["signature_def"].Pack(model.definitions)
        return response

    def status(self, spec):
        """Return the `GetModelStatusResponse` for a `ModelSpec`."""
        known = [self._failed, self._served and self._served.status]
        found = [x for x in known if x and self._means(spec, x.version)]
        if not found:
            raise ServingError(f"Could not find model {spec.name}", Code.NOT_FOUND)
        return status_pb2.GetModelStatusResponse(model_version_status=found)

    def _means(self, spec, number):
        """Return whether a `ModelSpec` may mean this version."""
        if not spec.name:
            raise ServingError("ModelSpec has no name specified.")
        if spec.version_label:
            raise ServingError(
                f"Unrecognized servable version label: {spec.version_label}. Labels "
                "are TensorFlow Serving's alone; ask this server for a version."
            )
        asked = spec.version.value if spec.HasField("version") else number
        return spec.name == self.name and asked == number


class SavedModel:
    """What `keras-mixer export` has written to the folder `path`, ready to answer."""

    def __init__(self, path, number):
        self.number = number
        self.card = json.loads((path / "keras_mixer.json").read_bytes())
        self.status = State(version=number, state=State.AVAILABLE, status={})
        # Its functions need it, and do not keep it.
        self._loaded = tf.saved_model.load(str(path))
        parameters = (path / "batching_params.pbtxt").read_text(encoding="utf-8")
        max_rows = int(re.search(r"max_batch_size { value: (\d+) }", parameters)[1])
        self._signatures = {
            name: Signature(function, max_rows)
            for name, function in self._loaded.signatures.items()
        }
        for record in tf.data.TFRecordDataset(str(path / warm_up.RECORDS)):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            request = log.predict_log.request
            signature = self._signatures[request.model_spec.signature_name]
            signature.run([tf.make_ndarray(request.inputs[signature.input_name])])
        content = (path / "saved_model.pb").read_bytes()
        graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
        self.definitions = metadata_pb2.SignatureDefMap(
            signature_def={name: graph.signature_def[name] for name in self._signatures}
        )

    def signature(self, name):
        """Return the `Signature` of a name; the empty name is the default's."""
        name = name or "serving_default"
        if not isinstance(name, str) or name not in self._signatures:
            sentence = f"Serving signature name: {name!r:.80} not found"
            raise ServingError(sentence, Code.FAILED_PRECONDITION)
        return self._signatures[name]


def _highest(base_path):
    """Return number, path and state of the files of the highest version, or `None`s."""
    found = publishing.versions(base_path)
    if not found:
        return None, None, None
    number, path = max(found.items())
    files = [(str(file), file.stat()) for file in path.rglob("*")]
    return number, path, sorted((name, s.st_size, s.st_mtime_ns) for name, s in files)
