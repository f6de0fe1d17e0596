"""The torch.nn Mixer's ONNX file in OpenVINO.

python benchmarks/openvino_contender.py FOLDER PRECISION
"""

import pathlib
import sys

import contender
import openvino

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(contender.Inference):
    def load(self, folder, precision):
        self.core = openvino.Core()
        self.path = str(folder / "mixer.onnx")
        self.precision = precision
        self.batch = None

    def prepare(self, batch):
        # Compiled for each batch size alone, which is what suits OpenVINO best.
        if batch == self.batch:
            return
        self.request = None
        model = self.core.read_model(self.path)
        model.reshape([batch, *self.images.shape[1:]])
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "INFERENCE_NUM_THREADS": contender.THREADS,
            "NUM_STREAMS": 1,
        }
        compiled = self.core.compile_model(model, "CPU", options)
        self.request = compiled.create_infer_request()
        self.batch = batch

    def run(self, images):
        return self.request.infer([images], share_inputs=True)[0]


if __name__ == "__main__":
    contender.answer(OpenVino(pathlib.Path(sys.argv[1]), sys.argv[2]))
