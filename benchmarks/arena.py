"""Whom the benchmark measures, how much, and how they take turns."""

import dataclasses
import pathlib
import statistics
import subprocess
import sys
import time

import contender
import numpy as np

HERE = pathlib.Path(__file__).parent

# libgomp and Intel's runtime let idle threads spin for up to 200 ms.
PAUSE_SECONDS = 0.25

FLOATS = ("float32", "bfloat16")
# One of these a processor has to have.
_INSTRUCTIONS = {
    "bfloat16": {"AVX512-BF16", "AMX-BF16"},
    "int8_compiled": {"AVX512-VNNI"},
}
# Whose programs they are, in which precisions they compute, and what is said to the
# program beside the precision.
PEERS = {
    "torch": ("torch_contender.py", (*FLOATS, "int8", "int8_compiled"), ""),
    "torch.compile": ("torch_contender.py", FLOATS, "_compiled"),
    "OpenVINO": ("openvino_contender.py", FLOATS, ""),
    "ONNX Runtime": ("onnxruntime_contender.py", ("float32",), ""),
    "Paddle": ("paddle_contender.py", ("float32",), ""),
    "Keras' own layers": ("keras_contender.py", FLOATS, ""),
    "zeromodels": ("keras_contender.py", FLOATS, "_zeromodels"),
}
# What is compared in training.
TRAINED = ("torch", "torch.compile", "Keras' own layers")

# Largest difference of a logarithm of a probability from ours in float32.
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.5}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        model: Name of the model.
        images: How many photographs there are.
        rounds: Rounds, and calls in a turn, for each batch size of inference.
        file_rounds: Rounds of files against pixels.
        training_batch: Images in a training step.
        training_rounds: Rounds of two steps.
        crops: Photographs on which bfloat16 is compared.
        ported_model: Name of the model that is ported.
        process_rounds: How often a process is started to measure its start.
        photographs: How many photographs `bulk` labels.
        bulk: Precisions, photographs in a turn and rounds, for each model of `bulk`.
        small_images: Over how many images `bulk` measures memory.
        finished: How many finished paths a resumed run looks through.
        batches: Batch sizes over which `growth` measures.
        sides: Sides of the image, in pixels, likewise.
        models: Names of the models, likewise.
        growth_batch: Images in a batch where it is not the batch that grows.
    """

    model: str = "MlpMixerB16"
    images: int = 32
    rounds: dict = dataclasses.field(
        default_factory=lambda: {1: (12, 5), 8: (10, 2), 32: (5, 1)}
    )
    file_rounds: int = 5
    training_batch: int = 8
    training_rounds: int = 6
    crops: int = 500
    ported_model: str = "MlpMixerL16"
    process_rounds: int = 5
    photographs: int = 1000
    bulk: dict = dataclasses.field(
        default_factory=lambda: {
            "MlpMixerB16": (("float32", "bfloat16"), 125, 4),
            "MlpMixerNano4": (("float32",), 250, 4),
        }
    )
    small_images: tuple = (1000, 100_000)
    finished: int = 1_000_000
    batches: tuple = (1, 2, 4, 8, 16, 32, 64)
    sides: tuple = (224, 320, 384, 448, 512)
    models: tuple = tuple(
        f"MlpMixer{size}" for size in ("S32", "S16", "B32", "B16", "L32", "L16")
    )
    growth_batch: int = 8


FULL = Scale()
QUICK = Scale(
    model="MlpMixerNano4",
    images=4,
    rounds={1: (2, 2), 4: (2, 1)},
    file_rounds=2,
    training_batch=4,
    training_rounds=2,
    crops=40,
    ported_model="MlpMixerNano4",
    process_rounds=1,
    photographs=60,
    bulk={"MlpMixerNano4": (("float32",), 20, 2)},
    small_images=(200, 400),
    finished=2000,
    batches=(1, 2),
    sides=(32,),
    models=("MlpMixerNano4",),
    growth_batch=2,
)


class Arena:
    """The contenders, and the folder that they read.

    Args:
        folder: Empty `pathlib.Path` for what they read and print.
        peers_python: Python of the environment with the peers.
        scale: A `Scale`.
        cifar10: Name of CIFAR-10 as a data set, or None.
        say: Function that tells a line to whoever waits.
    """

    def __init__(self, folder, peers_python, scale, cifar10, say):
        self.folder = folder
        self.peers_python = peers_python
        self.scale = scale
        self.cifar10 = cifar10
        self.say = say
        self._is_written = False

    def write(self, trained=None):
        """Write the weights, exports and images, once.

        Args:
            trained: Tag of the weights; None for random ones.
        """
        if self._is_written:
            return
        ours = self.ours("ours_keras.py")
        ours.ask(
            "write",
            model=self.scale.model,
            images=self.scale.images,
            trained=trained,
        )
        ours.close()
        torch = self.peer("torch", "float32")
        if torch is not None:
            torch.ask("export_onnx")
            torch.close()
        self._is_written = True

    def ours(self, program, precision="float32", name="ours", **settings):
        """Start a program of ours, with environment variables that are set for it."""
        return self._start(name, sys.executable, program, precision, settings)

    def peer(self, name, precision, **settings):
        """Start a peer; None if it has not that precision, or is not installed."""
        program, able, said = PEERS[name]
        if precision not in able or not self.has(name):
            return None
        return self._start(name, self.peers_python, program, precision + said, settings)

    def has(self, name):
        """Whether the module of a peer is installed."""
        program, _, said = PEERS[name]
        module = program.removesuffix("_contender.py")
        if said == "_zeromodels":
            module = "tensorflow, zeromodels"
        elif module == "keras":
            module = "tensorflow, keras"
        command = [self.peers_python, "-c", f"import {module}"]
        found = subprocess.run(command, capture_output=True).returncode == 0
        if not found:
            self.say(f"{module} is not installed: left out.")
        return found

    def _start(self, name, python, program, precision, settings):
        log = self.folder / f"{pathlib.Path(program).stem}-{precision}.log"
        command = [python, HERE / program, self.folder, precision]
        # As `keras-mixer serve` and the other verbs choose them.
        serves = program == "ours_inference.py"
        chosen = contender.PROCESSOR.fastest_settings(serves)
        return contender.Contender(name, command, log, **{**chosen, **settings})


class ProductLimit:
    """The model's largest product alone, at whichever library is fastest: a contender.

    It is asked in the same rounds as the others, since the machine's speed moves. Its
    seconds for a batch are those of the product at eight images, over what that product
    is of the batch's arithmetic.

    Args:
        contenders: Those that have `product`.
        sizes: Dict of the model's sizes.
    """

    name = "product limit"

    def __init__(self, contenders, sizes):
        self._contenders = contenders
        rows = 8 * (sizes["image_size"] // sizes["patch_size"]) ** 2
        inner, columns = sizes["hidden_dim"], sizes["channels_mlp_dim"]
        self._shape = {"rows": rows, "inner": inner, "columns": columns}
        self._images = 2 * rows * inner * columns / flop_of_image(sizes)

    def ask(self, method, batch, repeats, warm_up):
        """Return the seconds of a batch by each of nine products, whatever is asked."""
        assert method == "infer"
        asked = [
            one.ask("product", repeats=9, **self._shape) for one in self._contenders
        ]
        best = min(asked, key=statistics.median)
        return [seconds * batch / self._images for seconds in best]


def alternate(contenders, rounds, method, **arguments):
    """Ask contenders in turn.

    Returns:
        A dict from each one's name to the seconds of its calls, a list for each round.
    """
    seconds = {one.name: [] for one in contenders}
    for number in range(rounds):
        # Nobody always comes after the same one.
        start = number % len(contenders)
        for one in contenders[start:] + contenders[:start]:
            time.sleep(PAUSE_SECONDS)
            seconds[one.name].append(one.ask(method, **arguments))
    return seconds


def infer_in_turns(contenders, batch, rounds, repeats):
    """Ask for answers in turn, when each has compiled, packed and cached what it does.

    Returns:
        What `alternate` returns.
    """
    for one in contenders:
        one.ask("infer", batch=batch, repeats=0, warm_up=2)
    # A turn of one large batch is long enough without a call to warm up.
    timing = {"repeats": repeats, "warm_up": int(repeats > 1)}
    return alternate(contenders, rounds, "infer", batch=batch, **timing)


def spread(rounds, images):
    """Images per second: the median, the quartiles around it, that of each round.

    Args:
        rounds: Seconds of the calls of each round, a list of lists.
        images: Images in a call.
    """
    calls = images / np.concatenate(rounds)
    low, middle, high = np.percentile(calls, [25, 50, 75])
    medians = [images / statistics.median(seconds) for seconds in rounds]
    quartiles = {"median": middle, "low": low, "high": high}
    return {**quartiles, "calls": len(calls), "rounds": medians}


def is_measured(precision):
    """Whether the processor multiplies in a precision; elsewhere it is emulated.

    PyTorch then takes seconds for an image in bfloat16, and minutes by torchao in int8.
    """
    needed = _INSTRUCTIONS.get(precision)
    return needed is None or not needed.isdisjoint(contender.PROCESSOR.cpu_features())


def precisions():
    """The floating-point types that are measured."""
    return tuple(filter(is_measured, FLOATS))


def flop_of_image(sizes):
    """Floating-point operations of a model's products for one image."""
    patches = (sizes["image_size"] // sizes["patch_size"]) ** 2
    hidden = sizes["hidden_dim"]
    mlps = patches * hidden * (sizes["channels_mlp_dim"] + sizes["tokens_mlp_dim"])
    stem = patches * hidden * sizes["patch_size"] ** 2 * 3
    return 2 * (2 * mlps * sizes["num_blocks"] + stem + hidden * sizes["classes"])
