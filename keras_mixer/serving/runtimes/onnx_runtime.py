"""ONNX Runtime: `.onnx` files."""

NAME = "ONNX Runtime"
SUFFIX = ".onnx"
PACKAGES = ("onnx", "tf2onnx", "onnxruntime")
WRITERS = {
    "float32": ("onnx", "tf2onnx"),
    "int8": ("onnx", "tf2onnx", "onnxruntime.quantization"),
}
RUNTIME = "onnxruntime"

# The newest that tf2onnx 1.17 writes.
_OPSET = 18


def write(model, path, precision, images):
    """Write a `.onnx` file whose batch is of any size.

    In int8 the weights are, with a scale for each output, and activations are rounded
    when they are computed: nothing has to be measured.

    Args:
        model: A Functional Keras model in portable layers, `images` to `probabilities`.
        path: The file to make.
        precision: `"float32"` or `"int8"`.
        images: Not used.
    """
    import keras
    import numpy as np
    import onnx
    import tensorflow as tf
    import tf2onnx
    from onnx import numpy_helper

    weights = model.weights

    def probabilities_of(images, values):
        with keras.StatelessScope(zip(weights, values, strict=True)):
            return model(images, training=False)

    # Weights are inputs until it is converted: tf2onnx copies constants in each of its
    # passes, those of B/16 to more than 20 GB.
    specs = [
        tf.TensorSpec((None, *model.input_shape[1:]), "float32", "images"),
        [
            tf.TensorSpec(weight.shape, "float32", f"weight{number}")
            for number, weight in enumerate(weights)
        ],
    ]
    function = tf.function(probabilities_of, specs, autograph=False)
    written, _ = tf2onnx.convert.from_function(function, specs, opset=_OPSET)
    graph = written.graph
    _divide_for_gelu(graph)
    given, *inputs = graph.input
    for tensor, weight in zip(inputs, weights, strict=True):
        graph.initializer.append(
            numpy_helper.from_array(np.asarray(weight), tensor.name)
        )
        graph.input.remove(tensor)
    for tensor in (given, *graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(written)
    if precision == "float32":
        onnx.save(written, path)
    else:
        _quantize(written, path)


def _quantize(model, path):
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    # It would advise to fuse operations first, which the runtime does as well later.
    quant_utils.add_pre_process_metadata(model)
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # To 7 bits: without VNNI a CPU adds pairs of products of 8 bits in 16 bits,
        # which overflow. So the numbers are the same on every CPU.
        reduce_range=True,
    )


def _divide_for_gelu(graph):
    """Undo what TensorFlow makes of `x / sqrt(2)`, by which GELU is recognised.

    ONNX Runtime 1.32 fuses `Erf` of a quotient, and not of the product that TensorFlow
    computes in its place.
    """
    import numpy as np
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        scaled = makers.get(node.input[0]) if node.op_type == "Erf" else None
        if scaled is None or scaled.op_type != "Mul":
            continue
        x, factor = sorted(scaled.input, key=constants.__contains__)
        value = numpy_helper.to_array(constants[factor])
        divisor = numpy_helper.from_array(np.float32(1 / value), f"{factor}_inverse")
        if divisor.name not in constants:
            constants[divisor.name] = divisor
            graph.initializer.append(divisor)
        scaled.op_type = "Div"
        scaled.input[:] = [x, divisor.name]
    used = {name for node in graph.node for name in node.input}
    for constant in [c for c in graph.initializer if c.name not in used]:
        graph.initializer.remove(constant)


def load(path, threads=None):
    """Return a function from images to probabilities, computed by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def how_to_load(path):
    """The line of Python that loads it."""
    return f"onnxruntime.InferenceSession({str(path)!r})"
