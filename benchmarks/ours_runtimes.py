"""Ours: an exported file in its runtime, as `keras-mixer predict` loads it.

python benchmarks/ours_runtimes.py FOLDER float32.onnx
"""

import pathlib
import sys

import contender

from keras_mixer.serving import runtimes


class File(contender.Inference):
    def load(self, folder, name):
        self.run = runtimes.load(folder / "exports" / name, contender.THREADS)


class DefaultOpenVino(contender.Inference):
    """OpenVINO left to choose its precision: bfloat16 where a CPU has it."""

    def load(self, folder, name):
        import openvino

        path = folder / "exports" / "float32.xml"
        threads = {"INFERENCE_NUM_THREADS": contender.THREADS}
        self.compiled = openvino.Core().compile_model(path, "CPU", threads)

    def run(self, images):
        return self.compiled(images)["probabilities"]


if __name__ == "__main__":
    kind = DefaultOpenVino if sys.argv[2] == "default.xml" else File
    contender.answer(kind(pathlib.Path(sys.argv[1]), sys.argv[2]))
