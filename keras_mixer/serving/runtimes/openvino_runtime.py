"""OpenVINO: `.xml` files, each with a `.bin` of the weights beside it."""

NAME = "OpenVINO"
SUFFIX = ".xml"
PACKAGES = ("openvino",)
WRITERS = {"float32": ("openvino",), "int8": ("openvino", "nncf")}
RUNTIME = "openvino"


def write(model, path, precision, images):
    """Write a `.xml` and a `.bin` file whose batch is of any size.

    In int8 the products are, with scales that NNCF measures.

    Args:
        model: A Functional Keras model in portable layers, `images` to `probabilities`.
        path: The `.xml` file to make.
        precision: `"float32"` or `"int8"`.
        images: Crops to measure the scales of activations on.
    """
    import openvino

    unnamed = path.with_name(f"unnamed-{path.name}")
    model.export(str(unnamed), format="openvino", verbose=False)
    read = openvino.Core().read_model(unnamed)
    read.output(0).tensor.set_names({"probabilities"})
    if precision == "int8":
        # NNCF wants to know the image's size, which the file leaves open.
        read.reshape([-1, *model.input_shape[1:]])
        read = _quantized(read, images)
    # float32 as it is: OpenVINO would round weights to float16 by default.
    openvino.save_model(read, path, compress_to_fp16=False)
    del read  # holds the files
    for file in (unnamed, unnamed.with_suffix(".bin")):
        file.unlink()


def _quantized(model, images):
    import contextlib
    import logging
    import sys

    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix

    nncf.set_log_level(logging.ERROR)
    # Weights of 7 bits, as ONNX Runtime's, and for the same reason.
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)
    with contextlib.redirect_stdout(sys.stderr):  # its bars
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            advanced_parameters=advanced,
        )


def load(path, threads=None):
    """Return a function from images to probabilities, computed by OpenVINO."""
    import openvino

    # Where a CPU has bfloat16, OpenVINO would compute in it by default.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda images: compiled(images)["probabilities"]


def how_to_load(path):
    """The line of Python that loads it, to compute as was verified."""
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    return f"openvino.Core().compile_model({str(path)!r}, 'CPU', {config})"
