"""LiteRT, once TensorFlow Lite: `.tflite` files."""

import os

NAME = "LiteRT"
SUFFIX = ".tflite"
PACKAGES = ("tensorflow", "ai-edge-litert")
WRITERS = {"float32": (), "int8": ()}
RUNTIME = "ai_edge_litert"


def write(model, path, precision, images):
    """Write a `.tflite` file; who runs it may resize the batch.

    In int8 the weights are, with a scale for each output, and activations are rounded
    when they are computed, with a scale for each row: nothing has to be measured.

    Args:
        model: A Functional Keras model in portable layers, `images` to `probabilities`.
        path: The file to make.
        precision: `"float32"` or `"int8"`.
        images: Not used.
    """
    import tensorflow as tf

    options = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if precision == "int8":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    model.export(str(path), format="litert", verbose=False, **options)


def load(path, threads=None):
    """Return a function from images to probabilities, computed by LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    threads = threads or os.cpu_count() or 1
    interpreter = Interpreter(os.fspath(path), num_threads=threads)
    interpreter.allocate_tensors()
    (images_,), (probabilities_,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )

    def probabilities_of(images):
        if interpreter.get_input_details()[0]["shape"].tolist() != [*images.shape]:
            interpreter.resize_tensor_input(images_["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(images_["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities_["index"])

    return probabilities_of


def how_to_load(path):
    """The line of Python that loads it."""
    return f"ai_edge_litert.interpreter.Interpreter({str(path)!r})"
