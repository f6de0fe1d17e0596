"""A Mixer in paddle.nn with PASSL's names, as a program for inference.

python benchmarks/paddle_contender.py FOLDER float32
"""

import json
import pathlib
import sys

import contender
import numpy as np
import paddle

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))

from paddle_mixer import Classifier


def _name(name):
    layer, parameter = name.rsplit(".", 1)
    return f"head.fc_cls.{parameter}" if layer == "head" else f"backbone.{name}"


class Served(paddle.nn.Layer):
    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, images):
        pixels = images.transpose([0, 3, 1, 2]) / 127.5 - 1
        return paddle.nn.functional.softmax(self.mixer(pixels))


class Paddle(contender.Inference):
    def load(self, folder, precision):
        assert precision == "float32"
        sizes = json.loads((folder / "sizes.json").read_text())
        mixer = Classifier(**sizes)
        arrays = np.load(folder / "passl.npz")
        state = {_name(name): array for name, array in arrays.items()}
        missing, unexpected = mixer.set_state_dict(state)
        assert not missing and not unexpected, (missing, unexpected)
        mixer.eval()
        shape = [None, *self.images.shape[1:]]
        path = str(folder / "paddle" / "mixer")
        paddle.jit.save(
            Served(mixer), path, input_spec=[paddle.static.InputSpec(shape)]
        )
        config = paddle.inference.Config(f"{path}.json", f"{path}.pdiparams")
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(contender.THREADS)
        config.enable_mkldnn()
        self.predictor = paddle.inference.create_predictor(config)

    def run(self, images):
        given = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        given.copy_from_cpu(images)
        self.predictor.run()
        (name,) = self.predictor.get_output_names()
        return self.predictor.get_output_handle(name).copy_to_cpu()


if __name__ == "__main__":
    contender.answer(Paddle(pathlib.Path(sys.argv[1]), sys.argv[2]))
