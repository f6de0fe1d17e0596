"""OpenVINO: `.xml` files, each with a `.bin` of the weights beside it."""

NAME = "OpenVINO"
SUFFIX = ".xml"
PACKAGES = ("openvino",)
WRITERS = ("openvino",)
RUNTIME = "openvino"


def write(model, path):
    """Write a `.xml` and a `.bin` file whose batch is of any size.

    Args:
        model: A Functional Keras model in portable layers, `images` to `probabilities`.
        path: The `.xml` file to make.
    """
    import openvino

    unnamed = path.with_name(f"unnamed-{path.name}")
    model.export(str(unnamed), format="openvino", verbose=False)
    read = openvino.Core().read_model(unnamed)
    read.output(0).tensor.set_names({"probabilities"})
    # float32 as it is: OpenVINO would round weights to float16 by default.
    openvino.save_model(read, path, compress_to_fp16=False)
    del read  # holds the files
    for file in (unnamed, unnamed.with_suffix(".bin")):
        file.unlink()


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
    """The line of Python that loads it."""
    return f"openvino.Core().compile_model({str(path)!r}, 'CPU')"
