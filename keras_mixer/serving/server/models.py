"""The versions of a model: loaded as they appear, gone when the next one answers."""

import asyncio
import gc
import json
import re
import weakref

import tensorflow as tf
from absl import logging
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    prediction_log_pb2,
)

from keras_mixer.serving import publishing, warm_up
from keras_mixer.serving.server.batching import Batcher
from keras_mixer.serving.server.errors import Code, ServingError, invalid_argument

State = get_model_status_pb2.ModelVersionStatus


class Versions:
    """The versions of a model, of which the highest answers. Belongs to an event loop.

    A new version is loaded and warmed up before it takes over. The old one is gone when
    its last request is answered, as nothing refers to it any more. One that cannot be
    loaded changes nothing, and is tried again when its files change.

    Args:
        name: Name of the model in requests.
        base_path: Directory of its versions.
    """

    def __init__(self, name, base_path):
        self.name = name
        self._base_path = base_path
        self._served = None
        self._leaving = weakref.WeakSet()
        # Status and files of the version that is being loaded, or could not be.
        self._next, self._next_files = None, None

    async def watch(self, poll_seconds):
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
        if number is None or (self._served and self._served.number == number):
            return
        if self._next and (self._next.version, self._next_files) == (number, files):
            return
        self._next, self._next_files = State(version=number, state=State.LOADING), files
        try:
            model = await asyncio.to_thread(SavedModel, path, number)
        except Exception as error:
            logging.error("%s cannot be served: %s", path, error)
            self._next.state = State.END
            self._next.status.error_code = Code.UNKNOWN.value[0]
            # Not the error itself, which names folders of this machine.
            self._next.status.error_message = (
                "It cannot be served: see the server's log."
            )
            return
        if self._served:
            self._leaving.add(self._served)
        self._served, self._next = model, None
        logging.info("Serving version %d of %s", number, self.name)

    def find(self, spec):
        """Return the `SavedModel` that a `ModelSpec` asks for."""
        if not self._served or not self._means(spec, self._served.number):
            asked = text_format.MessageToString(spec, as_one_line=True)
            sentence = f"Servable not found for request: {asked}"
            raise ServingError(Code.NOT_FOUND, sentence)
        return self._served

    def metadata(self, spec):
        """Return the `GetModelMetadataResponse` for a `ModelSpec`."""
        model = self.find(spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        response.model_spec.version.value = model.number
        response.metadata["signature_def"].Pack(model.definitions)
        return response

    def status(self, spec):
        """Return the `GetModelStatusResponse` for a `ModelSpec`."""
        known = [self._next] if self._next else []
        if self._served:
            known.append(State(version=self._served.number, state=State.AVAILABLE))
            known[-1].status.SetInParent()
        found = [status for status in known if self._means(spec, status.version)]
        if not found:
            raise ServingError(Code.NOT_FOUND, f"Could not find model {spec.name}")
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=found)

    def _means(self, spec, number):
        """Return whether a `ModelSpec` may mean this version."""
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.version_label:
            raise invalid_argument(
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
            signature.run(tf.make_ndarray(request.inputs[signature.input_name]))
        content = (path / "saved_model.pb").read_bytes()
        graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
        self.definitions = get_model_metadata_pb2.SignatureDefMap(
            signature_def={name: graph.signature_def[name] for name in self._signatures}
        )

    def signature(self, name):
        """Return the `Signature` of a name; the empty name is the default's."""
        name = name or "serving_default"
        if name not in self._signatures:
            sentence = f"Serving signature name: {name!r} not found in signature def"
            raise ServingError(Code.FAILED_PRECONDITION, sentence)
        return self._signatures[name]


class Signature:
    """A function of a SavedModel, from one tensor, the batch first."""

    def __init__(self, function, max_rows):
        ((self.input_name, self.spec),) = function.structured_input_signature[1].items()
        self._function = function
        self._max_rows = max_rows
        self._batcher = Batcher(self.run, max_rows)

    def run(self, rows):
        """Return the dict of output arrays for an array."""
        outputs = self._function(**{self.input_name: tf.constant(rows)})
        return {name: outputs[name].numpy() for name in sorted(outputs)}

    def check(self, received):
        """Refuse what would fail the others of its batch.

        Args:
            received: `tf.TensorSpec` of an input, as it is or is only declared to be:
                nothing of that size is made before this.
        """
        rows = received.shape[0] if received.shape.rank else None
        if rows is not None and rows > self._max_rows:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size "
                f"{self._max_rows}"
            )
        if rows is None or not self.spec.is_compatible_with(received):
            expected, received = (
                f"{x.dtype.name} {x.shape}" for x in (self.spec, received)
            )
            raise invalid_argument(
                f"{self.input_name} must be {expected}. Received: {received}."
            )

    async def predict(self, rows, timeout_seconds):
        """Return the dict of output arrays for an array, run among others."""
        self.check(tf.TensorSpec(rows.shape, rows.dtype))
        try:
            return await asyncio.wait_for(self._batcher.submit(rows), timeout_seconds)
        except asyncio.TimeoutError:
            sentence = f"No answer of the model within {timeout_seconds} seconds."
            raise ServingError(Code.DEADLINE_EXCEEDED, sentence) from None


def _highest(base_path):
    """Return number, path and state of the files of the highest version, or `None`s."""
    found = publishing.versions(base_path)
    if not found:
        return None, None, None
    number, path = max(found.items())
    stats = [(file.name, file.stat()) for file in sorted(path.rglob("*"))]
    return number, path, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
