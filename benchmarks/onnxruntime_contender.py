"""The torch.nn Mixer's ONNX file in ONNX Runtime, which has no bfloat16 on the CPU.

python benchmarks/onnxruntime_contender.py FOLDER float32
"""

import pathlib
import sys

import contender
import onnxruntime


class OnnxRuntime(contender.Inference):
    def load(self, folder, precision):
        assert precision == "float32"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = contender.THREADS
        self.session = onnxruntime.InferenceSession(
            str(folder / "mixer.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def run(self, images):
        return self.session.run(["probabilities"], {"images": images})[0]


if __name__ == "__main__":
    contender.answer(OnnxRuntime(pathlib.Path(sys.argv[1]), sys.argv[2]))
