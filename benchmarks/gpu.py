"""Our model on JAX beside a plain torch.nn Mixer under torch.compile, on a GPU.

    python benchmarks/gpu.py --model=MlpMixerB16 --batch=256
    python benchmarks/gpu.py --model=MlpMixerL16 --batch=128

Both in bfloat16: inference with weights stored so, training with float32 weights and
AdamW. Each runs in a process of its own, and they are asked in turn. Prints images/s,
our ratio to torch, and the utilisation: the FLOP/s of the model's matrix products (a
training step counts three times an inference) over those of a large bfloat16 product,
measured by the same library. Needs jax[cuda13] and a CUDA build of torch in one
environment, or a CPU and patience.
"""

import dataclasses
import functools
import pathlib
import sys
import tempfile
import time

import contender
import numpy as np
from absl import app, flags

HERE = pathlib.Path(__file__).parent

MODEL = flags.DEFINE_string("model", "MlpMixerB16", "Name of the model.")
BATCH = flags.DEFINE_integer("batch", 256, "Images in a step.")
STEPS = flags.DEFINE_integer("steps", 20, "Steps in a turn.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns.")
PRODUCT = flags.DEFINE_integer("product", 8192, "Side of the product's matrices.")
ROLE = flags.DEFINE_enum("role", "driver", ["driver", "jax", "torch"], "Internal.")

CLASSES = 1000


class Jax:
    def __init__(self, model_name, batch):
        import jax
        import keras

        import keras_mixer

        self.jax = jax
        numpy = jax.numpy
        side = keras_mixer.models.VARIANTS[model_name].image_size
        rng = np.random.default_rng(0)
        self.images = numpy.asarray(rng.uniform(0, 255, (batch, side, side, 3)), "f4")
        labels = numpy.arange(batch) % CLASSES

        def build(policy):
            keras.config.set_dtype_policy(policy)
            return getattr(keras_mixer, model_name)(
                classes=CLASSES, classifier_activation=None
            )

        served = build("bfloat16")
        weights = [v.value for v in served.variables]

        @jax.jit
        def infer(weights, images):
            logits, _ = served.stateless_call(weights, [], images, training=False)
            return jax.nn.softmax(logits.astype("float32"))

        self._infer = lambda: infer(weights, self.images)

        model = build("mixed_bfloat16")
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0)
        optimizer.build(model.trainable_variables)

        def loss_of(weights, images):
            logits, _ = model.stateless_call(weights, [], images, training=True)
            scores = jax.nn.log_softmax(logits.astype("float32"))
            return -scores[numpy.arange(batch), labels].mean()

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def train(weights, slots, images):
            loss, gradients = jax.value_and_grad(loss_of)(weights, images)
            weights, slots = optimizer.stateless_apply(slots, gradients, weights)
            return weights, slots, loss

        # Copies: the step gives their memory away.
        self._state = jax.tree.map(
            numpy.copy,
            (
                [v.value for v in model.trainable_variables],
                [v.value for v in optimizer.variables],
            ),
        )
        self._train = train

    def _step(self):
        weights, slots, loss = self._train(*self._state, self.images)
        self._state = weights, slots
        return loss

    def _seconds(self, step, steps):
        self.jax.block_until_ready(step())  # compiled, at the latest
        start = time.perf_counter()
        for _ in range(steps):
            last = step()
        self.jax.block_until_ready(last)
        return [(time.perf_counter() - start) / steps]

    def infer(self, steps):
        return self._seconds(self._infer, steps)

    def train(self, steps):
        return self._seconds(self._step, steps)

    def product(self, side, steps):
        a = self.jax.numpy.ones((side, side), "bfloat16")
        multiply = self.jax.jit(lambda a: a @ a)
        return self._seconds(lambda: multiply(a), steps)

    def device(self):
        return str(self.jax.devices()[0])


class Torch:
    def __init__(self, model_name, batch):
        import torch

        sys.path.insert(0, str(HERE.parent / "tests" / "support"))
        from torch_mixer import Mixer

        from keras_mixer.models import mixer

        self.torch = torch
        self.where = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_default_device(self.where)
        self.variant = mixer.VARIANTS[model_name]
        sizes = dataclasses.asdict(self.variant)
        side = sizes["image_size"]
        self.images = 255 * torch.rand(batch, side, side, 3)
        labels = torch.arange(batch) % CLASSES

        def logits_of(model, images, dtype):
            pixels = images.permute(0, 3, 1, 2) / 127.5 - 1
            return model(pixels.to(dtype)).float()

        served = Mixer(**sizes, classes=CLASSES).to(torch.bfloat16).eval()

        @torch.compile(mode="max-autotune-no-cudagraphs")
        def infer(images):
            return logits_of(served, images, torch.bfloat16).softmax(-1)

        self._infer = torch.inference_mode()(lambda: infer(self.images))

        model = Mixer(**sizes, classes=CLASSES)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-3, weight_decay=0.1, fused=True
        )

        @torch.compile(mode="max-autotune-no-cudagraphs")
        def loss_of(images):
            with torch.autocast(self.where, torch.bfloat16):
                logits = logits_of(model, images, torch.float32)
            return torch.nn.functional.cross_entropy(logits, labels)

        def train():
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(self.images)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        self._train = train

    def _seconds(self, step, steps):
        for _ in range(2):
            step()
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        self._wait()
        return [(time.perf_counter() - start) / steps]

    def _wait(self):
        if self.where == "cuda":
            self.torch.cuda.synchronize()

    def infer(self, steps):
        return self._seconds(self._infer, steps)

    def train(self, steps):
        return self._seconds(self._train, steps)

    def product(self, side, steps):
        a = self.torch.ones(side, side, dtype=self.torch.bfloat16)
        return self._seconds(lambda: a @ a, steps)

    def flop(self):
        """Floating-point operations of an image's matrix products, in inference."""
        v = self.variant
        patches = (v.image_size // v.patch_size) ** 2
        block = 2 * patches * v.hidden_dim * (v.tokens_mlp_dim + v.channels_mlp_dim)
        stem = patches * v.hidden_dim * 3 * v.patch_size**2
        return 2 * (v.num_blocks * block + stem + v.hidden_dim * CLASSES)

    def device(self):
        is_gpu = self.where == "cuda"
        return self.torch.cuda.get_device_name() if is_gpu else self.where


def _drive():
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for role in ("jax", "torch"):
            command = [sys.executable, __file__, f"--role={role}"]
            command += [f"--model={MODEL.value}", f"--batch={BATCH.value}"]
            log = pathlib.Path(folder, f"{role}.log")
            environment = {
                "KERAS_BACKEND": "jax",
                # The one that does not compute keeps no more than it uses.
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                # There it only imports Keras, for the sizes.
                **({"JAX_PLATFORMS": "cpu"} if role == "torch" else {}),
            }
            contenders.append(contender.Contender(role, command, log, **environment))
        limits = {
            one.name: 2
            * PRODUCT.value**3
            / min(one.ask("product", side=PRODUCT.value, steps=STEPS.value))
            for one in contenders
        }
        flop = contenders[-1].ask("flop")
        for one in contenders:
            print(
                f"{one.name:6} {one.ask('device')}, "
                f"product limit {limits[one.name] / 1e12:.1f} TFLOP/s"
            )
        print(f"{MODEL.value}, batch {BATCH.value}, bfloat16")
        print(f"{'':10} {'':6} {'images/s':>9} {'utilisation':>12} {'ours / it':>10}")
        for method, times in (("infer", 1), ("train", 3)):
            seconds = {one.name: [] for one in contenders}
            for _ in range(ROUNDS.value):
                for one in contenders:
                    seconds[one.name] += one.ask(method, steps=STEPS.value)
            speeds = {
                name: BATCH.value / np.median(values)
                for name, values in seconds.items()
            }
            for name, speed in speeds.items():
                used = times * flop * speed / limits[name]
                ratio = speeds["jax"] / speed
                print(f"{method:10} {name:6} {speed:9.1f} {used:12.1%} {ratio:10.2f}")
        for one in contenders:
            one.close()


def main(argv):
    del argv
    if ROLE.value == "driver":
        _drive()
    else:
        role = {"jax": Jax, "torch": Torch}[ROLE.value]
        contender.answer(role(MODEL.value, BATCH.value))


if __name__ == "__main__":
    app.run(main)
