"""Run a SavedModel by TensorFlow's C API, as TensorFlow Serving does: no Python of it.

    python saved_model_c_api.py LIBRARY MODEL_DIR TENSORS.json PROBES.npz

`LIBRARY` is `libtensorflow_cc.so.2`. `TENSORS.json` maps each signature to `input` and
`outputs`, names of tensors. `PROBES.npz` has arrays `SIGNATURE/input`, of which
prefixes of every length are run, and `SIGNATURE/OUTPUT`; strings are in hexadecimal.
Prints the largest difference of a float as JSON.
"""

import concurrent.futures
import ctypes
import json
import sys

import numpy as np

FLOAT, INT32, STRING, BOOL = 1, 3, 7, 10
_DTYPES = {FLOAT: np.float32, INT32: np.int32, BOOL: np.bool_}
# Functions that return pointers, which ctypes takes for ints unless it is told.
_RETURN_POINTERS = (
    "TF_NewStatus",
    "TF_NewGraph",
    "TF_NewSessionOptions",
    "TF_LoadSessionFromSavedModel",
    "TF_GraphOperationByName",
    "TF_AllocateTensor",
    "TF_TensorData",
    "TF_StringGetDataPointer",
)
# sizeof(TF_TString), the cell of a string tensor.
_STRING_BYTES = 24


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class CModel:
    """A SavedModel in a session of the C API.

    Args:
        library: Path of `libtensorflow_cc.so.2`.
        model_dir: Path of the SavedModel.
    """

    def __init__(self, library, model_dir):
        self._tf = tf = ctypes.CDLL(library)
        for function in _RETURN_POINTERS:
            getattr(tf, function).restype = ctypes.c_void_p
        tf.TF_Message.restype = ctypes.c_char_p
        tf.TF_StringGetSize.restype = ctypes.c_size_t
        tf.TF_TensorByteSize.restype = ctypes.c_size_t
        tf.TF_Dim.restype = ctypes.c_int64
        self._graph = ctypes.c_void_p(tf.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        status = self._status()
        self._session = ctypes.c_void_p(
            tf.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(tf.TF_NewSessionOptions()),
                None,
                model_dir.encode(),
                tags,
                1,
                self._graph,
                None,
                status,
            )
        )
        self._check(status)

    def run(self, input_name, value, output_names):
        """Return the outputs, as arrays, for one input array."""
        tf = self._tf
        inputs = (_Output * 1)(self._output(input_name))
        outputs = (_Output * len(output_names))(*map(self._output, output_names))
        input_tensors = (ctypes.c_void_p * 1)(self._to_tensor(value))
        output_tensors = (ctypes.c_void_p * len(output_names))()
        status = self._status()
        tf.TF_SessionRun(
            self._session,
            None,
            inputs,
            input_tensors,
            1,
            outputs,
            output_tensors,
            len(output_names),
            None,
            0,
            None,
            status,
        )
        self._check(status)
        arrays = [self._to_array(ctypes.c_void_p(t)) for t in output_tensors]
        for tensor in (*input_tensors, *output_tensors):
            tf.TF_DeleteTensor(ctypes.c_void_p(tensor))
        return arrays

    def _output(self, name):
        operation, index = name.split(":")
        found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
        assert found, f"The graph has no operation {operation}."
        return _Output(found, int(index))

    def _to_tensor(self, value):
        tf = self._tf
        is_string = value.dtype.kind == "O"
        dims = (ctypes.c_int64 * value.ndim)(*value.shape)
        size_bytes = value.size * _STRING_BYTES if is_string else value.nbytes
        tensor = ctypes.c_void_p(
            tf.TF_AllocateTensor(
                STRING if is_string else FLOAT,
                dims,
                value.ndim,
                ctypes.c_size_t(size_bytes),
            )
        )
        data = tf.TF_TensorData(tensor)
        if is_string:
            for i, item in enumerate(value.flat):
                cell = ctypes.c_void_p(data + i * _STRING_BYTES)
                tf.TF_StringInit(cell)
                tf.TF_StringCopy(cell, item, ctypes.c_size_t(len(item)))
        elif value.size:
            ctypes.memmove(data, np.ascontiguousarray(value).ctypes.data, size_bytes)
        return tensor.value

    def _to_array(self, tensor):
        tf = self._tf
        shape = [tf.TF_Dim(tensor, i) for i in range(tf.TF_NumDims(tensor))]
        kind = tf.TF_TensorType(tensor)
        data = tf.TF_TensorData(tensor)
        if kind == STRING:
            items = []
            for i in range(int(np.prod(shape))):
                cell = ctypes.c_void_p(data + i * _STRING_BYTES)
                pointer = tf.TF_StringGetDataPointer(cell)
                items.append(ctypes.string_at(pointer, tf.TF_StringGetSize(cell)))
            return np.array(items, object).reshape(shape)
        raw = ctypes.string_at(data, tf.TF_TensorByteSize(tensor)) if data else b""
        return np.frombuffer(raw, _DTYPES[kind]).reshape(shape).copy()

    def _status(self):
        return ctypes.c_void_p(self._tf.TF_NewStatus())

    def _check(self, status):
        assert self._tf.TF_GetCode(status) == 0, self._tf.TF_Message(status).decode()
        self._tf.TF_DeleteStatus(status)


def _bytes(array):
    if array.dtype.kind != "U":
        return array
    items = [bytes.fromhex(item) for item in array.flat]
    return np.array(items, object).reshape(array.shape)


def main(library, model_dir, tensors_path, probes_path):
    with open(tensors_path, encoding="utf-8") as file:
        tensors = json.load(file)
    probes = {key: _bytes(value) for key, value in np.load(probes_path).items()}
    model = CModel(library, model_dir)

    def check(signature, size):
        names = tensors[signature]
        outputs = sorted(names["outputs"])
        arrays = model.run(
            names["input"],
            probes[f"{signature}/input"][:size],
            [names["outputs"][output] for output in outputs],
        )
        largest = 0.0
        for output, array in zip(outputs, arrays, strict=True):
            expected = probes[f"{signature}/{output}"][:size]
            assert array.shape == expected.shape, (signature, size, output)
            if array.dtype.kind == "f":
                difference = np.max(np.abs(array - expected), initial=0.0)
                largest = max(largest, float(difference))
            else:
                assert np.array_equal(array, expected), (signature, size, output)
        return largest

    runs = [
        (signature, size)
        for signature in tensors
        for size in range(len(probes[f"{signature}/input"]) + 1)
    ]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        largest = max(pool.map(lambda run: check(*run), runs))
    imported = [m for m in ("tensorflow", "keras", "keras_mixer") if m in sys.modules]
    print(json.dumps({"runs": len(runs), "largest": largest, "imported": imported}))


if __name__ == "__main__":
    main(*sys.argv[1:])
