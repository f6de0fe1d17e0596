"""Porting: what Paddle and JAX compute, what a strict check says, and the way back."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny import CLASSES, IMAGE_SIZE, TINY, build_tiny, randomize

import keras_mixer
from keras_mixer import weights
from keras_mixer.models import mixer, port
from keras_mixer.weights import formats, names

SUPPORT = pathlib.Path(__file__).parents[1] / "support"
FORMS = [
    f"{form}_{protocol}"
    for form in ("bare", "prefixed", "nested")
    for protocol in (2, 4)
]


def paddle_writes(folder, sizes):
    subprocess.run(
        [sys.executable, SUPPORT / "paddle_mixer.py", folder, json.dumps(sizes)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def paddle_files(tmp_path_factory):
    sizes = {**TINY, "image_size": IMAGE_SIZE, "classes": CLASSES}
    return paddle_writes(tmp_path_factory.mktemp("paddle"), sizes)


def jax_logits(images, arrays):
    """Google's model in plain JAX: flax's names, tanh GELU, channels last."""
    import jax
    from jax import numpy as jnp

    def dense(x, name):
        return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]

    def mlp(x, name):
        return dense(jax.nn.gelu(dense(x, f"{name}/Dense_0")), f"{name}/Dense_1")

    def norm(x, name):
        mean = x.mean(-1, keepdims=True)
        scale = arrays[f"{name}/scale"] / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return (x - mean) * scale + arrays[f"{name}/bias"]

    patch = arrays["stem/kernel"].shape[0]
    x = jax.lax.conv_general_dilated(
        images / 127.5 - 1,
        arrays["stem/kernel"],
        (patch, patch),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = x.reshape(len(images), -1, x.shape[-1]) + arrays["stem/bias"]
    block = 0
    while (name := f"MixerBlock_{block}") + "/LayerNorm_0/scale" in arrays:
        y = mlp(norm(x, f"{name}/LayerNorm_0").swapaxes(1, 2), f"{name}/token_mixing")
        x = x + y.swapaxes(1, 2)
        x = x + mlp(norm(x, f"{name}/LayerNorm_1"), f"{name}/channel_mixing")
        block += 1
    return np.asarray(dense(norm(x, "pre_head_layer_norm").mean(1), "head"))


def google_arrays(sizes, classes, seed=0):
    """Tensors with Google's names, as its code would write them."""
    *widths, patch_size, image_size = sizes
    hidden_dim, num_blocks, tokens_mlp_dim, channels_mlp_dim = widths
    patches = (image_size // patch_size) ** 2
    shapes = {"stem": (patch_size, patch_size, 3, hidden_dim)}
    for i in range(num_blocks):
        for k, (branch, width, mlp_dim) in enumerate(
            [
                ("token_mixing", patches, tokens_mlp_dim),
                ("channel_mixing", hidden_dim, channels_mlp_dim),
            ]
        ):
            shapes[f"MixerBlock_{i}/LayerNorm_{k}"] = (hidden_dim,)
            shapes[f"MixerBlock_{i}/{branch}/Dense_0"] = (width, mlp_dim)
            shapes[f"MixerBlock_{i}/{branch}/Dense_1"] = (mlp_dim, width)
    shapes["pre_head_layer_norm"] = (hidden_dim,)
    shapes["head"] = (hidden_dim, classes)
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        is_norm = len(shape) == 1
        scale = 0.2 if is_norm else np.prod(shape[:-1]) ** -0.5
        weight = rng.normal(float(is_norm), scale, shape)
        arrays[f"{name}/{'scale' if is_norm else 'kernel'}"] = weight.astype("float32")
        arrays[f"{name}/bias"] = rng.normal(0.1, 0.2, shape[-1:]).astype("float32")
    return arrays


TINY_SIZES = (*TINY.values(), IMAGE_SIZE)


@pytest.mark.parametrize("form", FORMS)
def test_paddles_files_port_to_paddles_logits(paddle_files, form):
    expected = np.load(paddle_files / "expected.npz")
    model = build_tiny(
        classes=None,
        weights=paddle_files / f"{form}.pdparams",
        classifier_activation=None,
    )
    assert model.output_shape == (None, CLASSES)
    np.testing.assert_allclose(
        model(expected["images"]), expected["logits"], atol=1e-4, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MlpMixerS32", "MlpMixerB16"])
def test_paddles_full_size_file_ports_to_paddles_logits(tmp_path, name):
    sizes = {**vars(mixer.VARIANTS[name]), "classes": 1000}
    folder = paddle_writes(tmp_path, sizes)
    expected = np.load(folder / "expected.npz")
    model = getattr(keras_mixer, name)(
        weights=folder / "prefixed_4.pdparams", classifier_activation=None
    )
    np.testing.assert_allclose(
        model(expected["images"]), expected["logits"], atol=1e-4, rtol=0
    )


def squeezable(name, array):
    """The shapes of Google's files before 2021, which its loader squeezes."""
    if "token_mixing" in name:
        return array[None] if array.ndim > 1 else array[None, :, None]
    return array


def legacy(name):
    """Google's names before 2021; flax then numbered all children of a module."""
    name = re.sub(r"LayerNorm_1", "LayerNorm_2", name)
    name = re.sub(r"^stem/", "embedding/", name)
    name = re.sub(r"^pre_head_layer_norm/", "Mixer/encoder_norm/", name)
    name = re.sub(r"^MixerBlock_", "Mixer/encoderblock_", name)
    return re.sub(
        r"_mixing/Dense_(\d)/(\w+)$",
        lambda m: f"_mixing_phase_0/{m[2]}{int(m[1]) + 1}",
        name,
    )


@pytest.mark.parametrize("rename", [str, legacy], ids=["current", "legacy"])
def test_googles_files_port_to_jax_logits(tmp_path, images, rename):
    arrays = google_arrays(TINY_SIZES, CLASSES)
    reshape = squeezable if rename is legacy else lambda name, array: array
    stored = {rename(name): reshape(name, array) for name, array in arrays.items()}
    np.savez(tmp_path / "m.npz", **stored)
    model = build_tiny(weights=tmp_path / "m.npz", classifier_activation=None)
    assert model.get_layer("block0_token_mixing").approximate_gelu
    np.testing.assert_allclose(model(images), jax_logits(images, arrays), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MlpMixerS32", "MlpMixerB16"])
def test_googles_full_size_file_ports_to_jax_logits(tmp_path, name):
    variant = mixer.VARIANTS[name]
    arrays = google_arrays(tuple(vars(variant).values()), 1000)
    np.savez(tmp_path / "m.npz", **arrays)
    images = np.random.default_rng(2).uniform(0, 255, (2, 224, 224, 3))
    images = images.astype("float32")
    model = getattr(keras_mixer, name)(
        weights=tmp_path / "m.npz", classifier_activation=None
    )
    np.testing.assert_allclose(model(images), jax_logits(images, arrays), atol=1e-4)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_keras_files_come_back_with_their_constants(tmp_path, tiny, images, suffix):
    model = build_tiny(approximate_gelu=True, dropout_rate=0.1)
    model.set_weights(tiny.get_weights())
    path = tmp_path / f"m{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    again = build_tiny(classes=None, weights=path)
    assert again.get_layer("block1_channel_mixing").approximate_gelu
    np.testing.assert_array_equal(again(images), model(images))


def test_optimizer_state_in_a_file_is_passed_over(tmp_path, tiny, images):
    tiny.compile("adam", "sparse_categorical_crossentropy")
    tiny.fit(images, np.array([1, 2, 3]), verbose=0)
    tiny.save_weights(tmp_path / "m.weights.h5")
    again = build_tiny(weights=tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(again(images), tiny(images))


def test_normalisation_travels_with_the_weights(tmp_path, tiny):
    transform = keras_mixer.catalog.MIIL
    formats.write_checkpoint(
        tmp_path / "m.safetensors",
        weights.export_arrays(tiny, "timm"),
        weights.constants_header(transform, approximate_gelu=True),
    )
    model, _ = port.port(tmp_path / "m.safetensors")
    model.save_weights(tmp_path / "m.weights.h5")
    again = build_tiny(weights=tmp_path / "m.weights.h5").get_layer("preprocessing")
    assert (again.mean, again.std) == (transform.mean, transform.std)
    assert again.interpolation == "bilinear"
    with pytest.raises(ValueError, match=r"constants they.*mean=\[0.0, 0.0, 0.0\]"):
        build_tiny(approximate_gelu=True).load_weights(tmp_path / "m.weights.h5")
    bare = build_tiny(include_preprocessing=False)
    with pytest.raises(ValueError, match="approximate_gelu=True"):
        bare.load_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="Build the model with weights="):
        keras_mixer.load_weights(build_tiny(), tmp_path / "m.weights.h5")


def test_load_weights_reports_what_went_where(paddle_files):
    report = keras_mixer.load_weights(
        build_tiny(), paddle_files / "prefixed_4.pdparams"
    )
    rows = {row.target: row for row in report.rows}
    assert len(rows) == 2 + 12 * 2 + 2 + 2
    stem = rows["stem/kernel"]
    assert (stem.source, stem.shape) == (
        "backbone.stem.proj.weight",
        (4, 4, 3, 10),
    )
    assert stem.how == "transposed"
    assert rows["block1_token_mixing/fc1/kernel"].how == "copied"
    assert not report.dropped
    again = keras_mixer.load_weights(build_tiny(), paddle_files / "bare_2.pdparams")
    assert [r.checksum for r in again.rows] == [r.checksum for r in report.rows]
    count = build_tiny().count_params()
    assert str(report).splitlines()[-1] == f"30 tensors, {count:,} parameters"


def test_another_number_of_classes_gets_a_new_head(paddle_files, images, capsys):
    path = paddle_files / "bare_4.pdparams"
    whole = build_tiny(weights=path, include_top=False, pooling="avg")
    assert not capsys.readouterr().err
    model = build_tiny(weights=path, classes=4)
    assert capsys.readouterr().err == (
        f"{path} has 11 classes, mlp_mixer 4: loaded the backbone, the head is new.\n"
    )
    assert not model.get_layer("head").kernel.numpy().any()
    features = keras.Model(model.input, model.get_layer("pool").output)
    np.testing.assert_array_equal(features(images), whole(images))


def test_a_file_without_a_head_asks_for_classes(tmp_path, tiny):
    headless = build_tiny(include_top=False)
    headless.set_weights(tiny.get_weights()[:-2])
    headless.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=r"without a head need classes=N"):
        build_tiny(classes=None, weights=tmp_path / "m.weights.h5")
    model = build_tiny(classes=4, weights=tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(model.get_weights()[0], tiny.get_weights()[0])


def test_every_problem_is_in_one_error_and_nothing_is_assigned(tmp_path, tiny):
    arrays = weights.export_arrays(tiny, "passl")
    del arrays["blocks.0.norm1.weight"], arrays["norm.bias"]
    arrays["blocks.7.norm1.weight"] = np.zeros(10, "float32")
    arrays["rubbish"] = np.zeros(1, "float32")
    arrays["stem.proj.bias"] = np.zeros(9, "float32")
    arrays["blocks.1.mlp_tokens.fc1.weight"] = np.zeros((5, 9), "float32")
    arrays["blocks.1.norm2.bias"] = np.full(10, np.nan, "float32")
    formats.write_checkpoint(tmp_path / "m.pdparams", arrays)
    model = build_tiny()
    before = model.get_weights()
    with pytest.raises(ValueError, match="nothing was assigned") as error:
        keras_mixer.load_weights(model, tmp_path / "m.pdparams")
    for problem in [
        "missing: block0_token_norm/gamma (10,)",
        "missing: pre_head_norm/beta (10,)",
        "unexpected: blocks.7.norm1.weight (10,)",
        "unexpected: rubbish",
        "misshapen: stem.proj.bias (9,) for stem/bias (10,)",
        "misshapen: blocks.1.mlp_tokens.fc1.weight (5, 9) for "
        "block1_token_mixing/fc1/kernel (9, 5)",
        "not finite: blocks.1.norm2.bias has NaN or infinity",
        "7 problems",
    ]:
        assert problem in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_two_names_of_one_tensor_are_refused(tmp_path, tiny):
    arrays = weights.export_arrays(tiny, "passl")
    arrays["backbone.norm.bias"] = arrays["norm.bias"] + 1
    formats.write_checkpoint(tmp_path / "m.pdparams", arrays)
    with pytest.raises(ValueError, match=r"unexpected: backbone\.norm\.bias"):
        build_tiny(weights=tmp_path / "m.pdparams")


def test_weights_of_another_model_are_refused(paddle_files):
    with pytest.raises(ValueError, match=r"hidden_dim=10, num_blocks=2.*MlpMixerNano4"):
        keras_mixer.MlpMixerNano4(weights=paddle_files / "bare_4.pdparams")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must be an MLP-Mixer of keras_mixer"):
        keras_mixer.load_weights(other, paddle_files / "bare_4.pdparams")


def test_unknown_tags_are_answered_with_the_valid_ones():
    with pytest.raises(
        ValueError, match=r"tags of MlpMixerB32: imagenet_sam, imagen.*"
    ):
        keras_mixer.MlpMixerB32(weights="imagenet")
    with pytest.raises(ValueError, match=r"a named variant: none.*'imagnet'"):
        build_tiny(weights="imagnet")


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\nrubbish", b"PK\3\4rubbish"]
)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".pdparams"])
def test_damaged_files_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        build_tiny(weights=path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pdparams"):
        build_tiny(weights=tmp_path / "nowhere.pdparams")


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_cut_keras_files_are_refused(tmp_path, tiny, cut):
    path = tmp_path / "m.weights.h5"
    tiny.save_weights(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ValueError, match="must be whole"):
        build_tiny(weights=path)


def test_keras_file_that_points_elsewhere_is_refused(tmp_path, tiny):
    import h5py

    path, other = tmp_path / "m.weights.h5", tmp_path / "other.h5"
    tiny.save_weights(path)
    with h5py.File(other, "w") as file:
        file["secret"] = np.zeros(10, "float32")
    with h5py.File(path, "r+") as file:
        del file["layers/patch_embedding/vars/1"]
        file["layers/patch_embedding/vars/1"] = h5py.ExternalLink(str(other), "secret")
    with pytest.raises(ValueError, match="points to another place or file"):
        build_tiny(weights=path)


@pytest.mark.parametrize("layout", ["passl", "timm", "google"])
def test_weights_go_home_and_come_back_bit_by_bit(tmp_path, tiny, layout):
    suffix = {"passl": ".pdparams", "timm": ".safetensors", "google": ".npz"}[layout]
    path = tmp_path / f"m{suffix}"
    formats.write_checkpoint(path, weights.export_arrays(tiny, layout))
    again, _ = port.port(path)
    for old, new in zip(tiny.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert names.LAYOUTS[layout].approximate_gelu == (layout == "google")


def test_port_finds_the_model_from_the_files_shapes(paddle_files):
    model, report = port.port(paddle_files / "bare_4.pdparams")
    assert model.input_shape == (None, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert weights.model_sizes(model) == (10, 2, 7, 4)
    assert len(report.rows) == 30
    with pytest.raises(ValueError, match=r"must be one of MlpMixerS32.*'MlpMixer'"):
        port.port(paddle_files / "bare_4.pdparams", "MlpMixer")


def test_half_precision_files_are_widened(tmp_path, tiny):
    arrays = weights.export_arrays(tiny, "passl")
    half = {name: array.astype("float16") for name, array in arrays.items()}
    formats.write_checkpoint(tmp_path / "m.pdparams", half)
    model = build_tiny(weights=tmp_path / "m.pdparams")
    for old, new in zip(tiny.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(old.astype("float16").astype("float32"), new)


def test_full_precision_weights_are_not_touched_by_the_policy(tmp_path, policy):
    model = randomize(build_tiny())
    model.save_weights(tmp_path / "m.weights.h5")
    policy("mixed_float16")
    mixed = build_tiny(weights=tmp_path / "m.weights.h5")
    for old, new in zip(model.get_weights(), mixed.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
