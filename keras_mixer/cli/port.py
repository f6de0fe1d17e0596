"""Convert a weights file, and say where each tensor went.

    keras-mixer port mlp-mixer_b16_224.pdparams b16.weights.h5 --model=MlpMixerB16
    keras-mixer port Mixer-B_16.npz b16.keras --verify
    keras-mixer port b16.weights.h5 b16.safetensors

IN is a .pdparams, .npz, .safetensors, .weights.h5 or .keras file; OUT is one of the
same, for Paddle (PASSL's names), JAX (Google's), PyTorch (timm's) or Keras. OUT appears
whole or not at all; one that is there is only replaced with --overwrite.
"""

import hashlib
import pathlib

import numpy as np
from absl import flags

ARGUMENTS = "IN OUT"
MODEL = flags.DEFINE_string(
    "model",
    None,
    "Name of the model that the file must fit, such as MlpMixerB16. Without it: the "
    "sizes that the file's tensors have.",
)
VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Run the model in float32 on a fixed image and print its logits' digest, so that "
    "two machines can compare.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace OUT where there is one.")


def main(argv):
    """Port the file named first in `argv` to the one named second."""
    if len(argv) != 3:
        raise ValueError(
            "port takes two files: keras-mixer port IN OUT [--model=NAME]. "
            f"Received: {len(argv) - 1}."
        )
    from keras_mixer import weights
    from keras_mixer.images import preprocess
    from keras_mixer.models import port
    from keras_mixer.weights import written_whole

    source_path, target_path = argv[1], pathlib.Path(argv[2])
    if not target_path.name.endswith(weights.SUFFIXES):
        raise ValueError(
            f"OUT must end in one of {', '.join(weights.SUFFIXES)}. "
            f"Received: {target_path}."
        )
    if target_path.exists() and not OVERWRITE.value:
        raise ValueError(
            f"OUT must be a new file. Received: {target_path}, which is there. "
            "Name another, or replace it by --overwrite."
        )
    model, report = port.port(source_path, MODEL.value)
    print(report)
    target_path.parent.mkdir(parents=True, exist_ok=True)
    if target_path.name.endswith(".keras"):
        with written_whole(target_path) as temporary:
            model.save(temporary)
    elif target_path.name.endswith(".weights.h5"):
        with written_whole(target_path) as temporary:
            model.save_weights(temporary)
    else:
        layout = weights.LAYOUT_OF_FORMAT[target_path.suffix[1:]]
        transform = preprocess.transform_for(model)
        gelu = model.get_layer("block0_token_mixing").approximate_gelu
        weights.write_checkpoint(
            target_path,
            weights.export_arrays(model, layout),
            metadata=weights.constants_header(transform, gelu),
        )
        print(_what_to_know_there(weights.LAYOUTS[layout], transform, gelu))
    print(f"Wrote {target_path}")
    if VERIFY.value:
        print(_logits_digest(model))


def _what_to_know_there(layout, transform, approximate_gelu):
    usual = layout.approximate_gelu
    lines = [
        f"These weights go with pixels normalised by mean {transform.mean}, deviation "
        f"{transform.std}, and with GELU {_GELU[approximate_gelu]}."
    ]
    if approximate_gelu != usual:
        lines.append(
            f"The models that read this format have it {_GELU[usual]}: their logits "
            "differ a little, unless you set theirs."
        )
    return " ".join(lines)


_GELU = {True: "in its tanh form", False: "in its exact form"}


def _logits_digest(model):
    _, height, width, channels = model.input_shape
    count = height * width * channels
    # An image that every machine makes alike, without a random number generator.
    pixels = np.arange(count, dtype=np.float64) * 0.7548776662466927 % 1 * 255
    image = pixels.astype("float32").reshape(1, height, width, channels)
    logits = np.asarray(model(image, training=False))[0]
    digest = hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()[:16]
    first = ", ".join(f"{value:.4f}" for value in logits[:4])
    return (
        f"Logits on the fixed image: digest {digest}; mean {logits.mean():.5f}, "
        f"deviation {logits.std():.5f}, largest at {logits.argmax()}, first {first}. "
        "The digest is that of every bit: machines of another kind agree in the "
        "figures to about 4 digits."
    )
