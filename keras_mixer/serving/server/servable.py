"""One version of a model: its session, its signatures and their batches."""

import math
import os
import pathlib

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_mixer.serving.server import batching, config
from keras_mixer.serving.server.errors import (
    ServingError,
    failed_precondition,
    invalid_argument,
)

# TensorFlow's error codes are gRPC's.
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_CLASSIFY = "tensorflow/serving/classify"

# What one request may ask to hold, as the sizes of messages are limited.
_MAX_ELEMENTS = 2**26
_MAX_EXAMPLES_BYTES = 64 * 2**20


class Servable:
    """A SavedModel, loaded as TensorFlow Serving loads it: a graph and a session.

    Args:
        name: Name of the model.
        version: Number of the version.
        path: Directory of the version.
        metrics: `Metrics` that count its batches.

    Raises:
        ValueError: If the directory holds no SavedModel that can be loaded, or a
            warm-up request fails.
    """

    def __init__(self, name, version, path, metrics):
        self.name = name
        self.version = version
        self._metrics = metrics
        self._batchers = {}
        path = pathlib.Path(path)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(
                    self._session, ["serve"], os.fspath(path)
                )
            self.signatures = {
                name: signature
                for name, signature in meta_graph.signature_def.items()
                if not name.startswith("__")
            }
            self._callables = {
                name: self._callable(signature)
                for name, signature in self.signatures.items()
            }
            if meta_graph.saver_def.restore_op_name:
                _check_variables(path)
            parameters = _batching_parameters(path)
            self._limit = parameters.max_batch_size.value
            self._warm_up(path)
            for name in self.signatures:
                self._batchers[name] = batching.Batcher(
                    self._runner(name), parameters, f"{self.name}-{version}-{name}"
                )
        except Exception as error:
            self.close()
            raise ValueError(f"{path} cannot be served: {error}") from error

    def signature(self, name):
        """Return the `SignatureDef` of a name; the empty name is the default's.

        Raises:
            ServingError: If there is none.
        """
        name = name or "serving_default"
        if name not in self.signatures:
            raise failed_precondition(f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def check(self, signature_name, described):
        """Check a request before it joins a batch, where it could fail others.

        Args:
            signature_name: Name of the signature; empty for the default.
            described: Dict of `(dtype, shape)` by input name, as they are or are only
                declared to be: nothing of that size is made before this.

        Returns:
            The length of the batch.

        Raises:
            ServingError: If they do not fit the signature.
        """
        size = _check_inputs(self.signature(signature_name), described)
        self._check_size(size)
        for name, (_, shape) in described.items():
            if math.prod(shape) > _MAX_ELEMENTS:
                raise invalid_argument(
                    f"Input {name} must have at most {_MAX_ELEMENTS} elements. "
                    f"Received: the shape {_text(shape)}."
                )
        return size

    def submit(self, signature_name, inputs):
        """Queue a request.

        Args:
            signature_name: Name of the signature; empty for the default.
            inputs: Dict of arrays by the signature's input names, the batch first.

        Returns:
            A future of the list of outputs, in the order of `output_names`.

        Raises:
            ServingError: If the signature or the inputs do not fit, or the queue is
                full.
        """
        size = self.check(signature_name, _described(inputs))
        return self._batchers[signature_name or "serving_default"].submit(inputs, size)

    def classify(self, signature_name, examples, context):
        """Queue a request of the Classify API.

        Args:
            signature_name: Name of the signature; empty for the default.
            examples: List of `tf.train.Example`s.
            context: `tf.train.Example` of the features that all of them share.

        Returns:
            A future of `[classes, scores]`, each of shape `(batch, top_k)`.

        Raises:
            ServingError: If the signature is not one for Classify, there is no example
                or too much of them, or the queue is full.
        """
        signature = self.signature(signature_name)
        if signature.method_name != _CLASSIFY:
            raise invalid_argument(
                f"Expected classification signature method_name to be {_CLASSIFY}. "
                f"Was: {signature.method_name}"
            )
        if not examples:
            raise invalid_argument("Input is empty.")
        self._check_size(len(examples))
        # The context is copied for each of them.
        size_bytes = context.ByteSize() * len(examples)
        size_bytes += sum(example.ByteSize() for example in examples)
        if size_bytes > _MAX_EXAMPLES_BYTES:
            raise invalid_argument(
                f"The examples, each with the context, must be at most "
                f"{_MAX_EXAMPLES_BYTES} bytes. Received: {size_bytes}."
            )
        serialized = []
        for example in examples:
            merged = tf.train.Example()
            merged.CopyFrom(context)
            merged.MergeFrom(example)
            serialized.append(merged.SerializeToString())
        return self.submit(signature_name, {"inputs": np.array(serialized, object)})

    def _check_size(self, size):
        if size > self._limit:
            raise invalid_argument(
                f"Task size {size} is larger than maximum input batch size "
                f"{self._limit}"
            )

    def output_names(self, signature_name):
        """Return the names of a signature's outputs, in order."""
        return sorted(self.signature(signature_name).outputs)

    def close(self):
        """Answer what is queued, and release the model's memory."""
        for batcher in self._batchers.values():
            batcher.close()
        self._session.close()

    def _callable(self, signature):
        outputs = [signature.outputs[name].name for name in sorted(signature.outputs)]
        inputs = [signature.inputs[name].name for name in sorted(signature.inputs)]
        return self._session.make_callable(outputs, inputs)

    def _runner(self, signature_name):
        def run(inputs):
            self._metrics.batch(self.name, len(next(iter(inputs.values()))))
            try:
                return self._callables[signature_name](
                    *(inputs[name] for name in sorted(inputs))
                )
            except tf.errors.OpError as error:
                raise ServingError(_CODES[error.error_code], error.message) from error

        return run

    def _warm_up(self, path):
        records = path / "assets.extra" / "tf_serving_warmup_requests"
        if not records.exists():
            return
        for record in tf.data.TFRecordDataset(os.fspath(records)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = log.predict_log.request
            inputs = {
                name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()
            }
            signature_name = request.model_spec.signature_name or "serving_default"
            _check_inputs(self.signature(signature_name), _described(inputs))
            self._callables[signature_name](*(inputs[name] for name in sorted(inputs)))


def _batching_parameters(path):
    """Read the parameters that the version brings, or take the defaults."""
    file = path / "batching_params.pbtxt"
    if file.exists():
        return config.read_parameters(file)
    return config.complete(config.BatchingParameters())


def _check_variables(path):
    # A directory that is still being copied has its graph before its weights.
    if not (path / "variables" / "variables.index").exists():
        raise ValueError("The model's variables are missing.")


def _described(inputs):
    return {
        name: (
            tf.string if value.dtype.kind in "OSU" else tf.dtypes.as_dtype(value.dtype),
            value.shape,
        )
        for name, value in inputs.items()
    }


def _check_inputs(signature, inputs):
    """Check `(dtype, shape)` of each input; return the length of the batch."""
    if set(inputs) != set(signature.inputs):
        extra = ",".join(sorted(set(inputs) - set(signature.inputs)))
        missing = ",".join(sorted(set(signature.inputs) - set(inputs)))
        raise invalid_argument(
            f"input size does not match signature: {len(inputs)}!="
            f"{len(signature.inputs)}. Sent extra: {{{extra}}}. "
            f"Missing but required: {{{missing}}}."
        )
    sizes = set()
    for name, info in signature.inputs.items():
        received, received_shape = inputs[name]
        dtype = tf.dtypes.as_dtype(info.dtype)
        if received != dtype:
            raise invalid_argument(
                f"Input {name} must be {dtype.name}. Received: {received.name}."
            )
        shape = [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
        if not tf.TensorShape(shape).is_compatible_with(received_shape):
            raise invalid_argument(
                f"Input {name} must have the shape {_text(shape)}. Received: "
                f"{_text(received_shape)}."
            )
        sizes.add(received_shape[0])
    if len(sizes) != 1:
        raise invalid_argument(
            "Batching input tensors must have equal 0th-dimension size. Received: "
            f"{sorted(sizes)}."
        )
    return sizes.pop()


def _text(shape):
    return f"[{','.join('?' if n is None else str(n) for n in shape)}]"
