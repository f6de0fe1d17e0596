"""What a run starts from: a Mixer of the user's own sizes, as an object or a file."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import training_child
from training_processes import history_of, state_of

import keras_mixer
from keras_mixer import training
from keras_mixer.training import RECIPES, optimizers
from keras_mixer.training.start import check_mixer, open_start

SIZES = (24, 2, 12, 40, 4)
SMALL = dataclasses.replace(training_child.SMALL, batch_size=32, crop_scale=1.0)


@pytest.fixture(scope="module", autouse=True)
def _policy():
    yield
    keras.config.set_dtype_policy("float32")


def own_mixer(seed=3, **arguments):
    """A Mixer of two blocks for images of 16 pixels, with values everywhere."""
    keras.utils.set_random_seed(seed)
    arguments = {"classes": 5, "input_shape": (16, 16, 3), "name": "own"} | arguments
    model = keras_mixer.MlpMixer(*SIZES, **arguments)
    if arguments.get("include_top", True):
        head = model.get_layer("head")
        head.kernel.assign(keras.random.normal(head.kernel.shape, seed=seed))
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a Mixer of one's own, its folder, and the weights before it."""
    folder = tmp_path_factory.mktemp("own")
    model = own_mixer()
    before = model.get_weights()
    config = dataclasses.replace(SMALL, epochs=5, learning_rate=0.01)
    done = training.train(config, folder, model=model)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # is not trained itself
    return done, folder, before


def test_a_model_of_ones_own_learns(trained):
    done, folder, _ = trained
    assert done.evaluation.top1 > 0.8  # chance is 0.1
    model = keras.saving.load_model(folder / "model.keras")
    assert model.name == "own"
    assert model.output_shape == (None, 10)  # five before
    assert model.get_layer("head").activation.__name__ == "softmax"
    assert model.get_layer("stem").kernel.shape == (4, 4, 3, 24)
    assert model.get_layer("block1_token_mixing").fc1.bias.shape == (12,)
    report = json.loads((folder / "report.json").read_text())
    assert report["parameters"] == model.count_params()
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == str(folder / "start.keras")
    assert config["weights"] is None


def test_the_folder_keeps_what_the_run_began_with(trained):
    _, folder, before = trained
    kept = keras.saving.load_model(folder / "start.keras").get_weights()
    for one, other in zip(before, kept, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("start", ["start.keras", "model.keras", ""])
def test_training_starts_from_the_weights_of_a_file(trained, start):
    _, folder, _ = trained
    config = dataclasses.replace(SMALL, model=str(folder / start))
    network = optimizers.build_model(config, open_start(config), 10)
    theirs = keras.saving.load_model(folder / (start or "model.keras"))
    for layer in theirs.layers[:-1]:
        mine = network.get_layer(layer.name).get_weights()
        for one, other in zip(layer.get_weights(), mine, strict=True):
            np.testing.assert_array_equal(one, other)
    head = network.get_layer("head")
    assert head.activation is keras.activations.linear
    if start == "start.keras":  # of five classes
        assert not head.kernel.numpy().any()
    else:
        expected = theirs.get_layer("head").get_weights()
        np.testing.assert_array_equal(head.kernel, expected[0])


def test_fine_tuning_a_runs_folder_goes_on_from_there(trained, tmp_path):
    done, folder, _ = trained
    config = dataclasses.replace(SMALL, model=str(folder), steps=4, learning_rate=1e-9)
    again = training.train(config, tmp_path)
    assert again.evaluation.top1 == pytest.approx(done.evaluation.top1, abs=1e-6)
    assert not (tmp_path / "start.keras").exists()


def test_a_larger_image_starts_with_the_same_features(trained):
    _, folder, _ = trained
    config = dataclasses.replace(SMALL, model=str(folder), image_size=32)
    network = optimizers.build_model(config, open_start(config), 10)
    assert network.input_shape == (None, 32, 32, 3)
    # The paper's block diagonal: 2 x 2 tiles.
    assert network.get_layer("block0_token_mixing").fc1.bias.shape == (12 * 4,)


STATEFUL = {**training_child.STATEFUL, "batch_size": 256}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    config = dataclasses.replace(SMALL, **STATEFUL)
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    training.train(config, whole, model=own_mixer())
    training_child.stop_at(6)
    with pytest.raises(training.Preempted, match="Stopped at step 7 of 15"):
        training.train(config, stopped, model=own_mixer())
    # Another name, and weights that do not matter any more; the folder has moved.
    stopped = stopped.rename(tmp_path / "moved")
    training.train(config, stopped, model=own_mixer(seed=4, classes=2))
    state, expected = state_of(stopped), state_of(whole)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert history_of(stopped) == history_of(whole)


def test_a_run_resumes_by_its_configuration_alone(trained):
    done, folder, _ = trained
    text = (folder / "config.json").read_text()
    again = training.train(training.TrainConfig.from_json(text), folder)
    assert again.report["test_accuracy"] == done.report["test_accuracy"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"approximate_gelu": True}, "approximate_gelu=False before, .*=True now"),
        ({"input_shape": (32, 32, 3)}, "image_size=16 before, image_size=32 now"),
    ],
)
def test_a_run_resumes_with_no_other_architecture(trained, arguments, words):
    _, folder, _ = trained
    before = (folder / "checkpoint.npz").read_bytes()
    config = dataclasses.replace(SMALL, epochs=5, learning_rate=0.01)
    with pytest.raises(ValueError, match=f"resumes with a model of .*{words}"):
        training.train(config, folder, model=own_mixer(**arguments))
    assert (folder / "checkpoint.npz").read_bytes() == before


def test_a_run_of_a_named_model_resumes_with_no_object(trained, tmp_path):
    _, folder, _ = trained
    config = dataclasses.replace(SMALL, epochs=5, learning_rate=0.01)
    with pytest.raises(ValueError, match=r"model=.*start\.keras before, .*Tiny now"):
        training.train(config, folder)


def test_the_object_stands_in_place_of_a_recipes_model(tmp_path):
    config = dataclasses.replace(
        RECIPES["finetune"], dataset="digits", steps=2, warmup_steps=1, batch_size=8
    )
    backbone = own_mixer(include_top=False)
    done = training.train(config, tmp_path, model=backbone)
    assert done.model.get_layer("stem").kernel.shape == (4, 4, 3, 24)
    assert done.model.output_shape == (None, 10)


def frozen():
    model = own_mixer()
    model.get_layer("stem").trainable = False
    return model


def nested():
    images = keras.Input((16, 16, 3))
    return keras.Model(images, own_mixer()(images))


def longer():
    model = own_mixer()
    return keras.Model(model.input, keras.layers.Softmax(name="again")(model.output))


def rewired():
    """Without the first block's token mixing in its residual sum."""
    model = own_mixer()
    get = model.get_layer
    x = get("tokens")(get("stem")(get("preprocessing")(model.input)))
    y = get("block0_token_mixing")(get("block0_token_norm")(x))
    for i, branch in [(0, "channel"), (1, "token"), (1, "channel")]:
        z = get(f"block{i}_{branch}_mixing")(get(f"block{i}_{branch}_norm")(y))
        y = get(f"block{i}_{branch}_residual")([y, z])
    return keras.Model(model.input, get("head")(get("pool")(get("pre_head_norm")(y))))


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: "MlpMixerB16", "built by keras_mixer.MlpMixer.*'MlpMixerB16'"),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
            "an MLP-Mixer of keras_mixer",
        ),
        (nested, "an MLP-Mixer of keras_mixer.*pass the Mixer in it"),
        (longer, "layers differ: again"),
        (rewired, "layers differ: .*block0_token_residual"),
        (frozen, "trainable as a whole.*own with frozen layers: stem"),
        (lambda: own_mixer(include_preprocessing=False), "include_preprocessing=True"),
        (lambda: own_mixer(input_shape=(16, 32, 3)), "square images"),
        (lambda: own_mixer(include_top=False, pooling="max"), "layers differ: pool"),
    ],
    ids=[
        *("name", "dense", "nested", "longer", "rewired", "frozen", "normalised"),
        *("oblong", "max"),
    ],
)
def test_other_models_are_refused_before_anything_is_written(tmp_path, build, words):
    with pytest.raises(ValueError, match=words):
        training.train(SMALL, tmp_path / "run", model=build())
    assert not (tmp_path / "run").exists()


def test_another_policy_is_refused_before_anything_is_written(tmp_path, policy):
    policy("mixed_bfloat16")
    model = own_mixer()
    policy("float32")
    with pytest.raises(ValueError, match=r"policy float32 or .*, float32.*bfloat16"):
        training.train(SMALL, tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()
    assert check_mixer(model, "mixed_bfloat16")["num_blocks"] == 2


def test_a_model_that_is_not_there_is_refused_in_words(tmp_path):
    config = dataclasses.replace(SMALL, model="MlpMixerB17")
    with pytest.raises(ValueError, match=r"one of .*MlpMixerB16.*Received: 'MlpMixerB"):
        training.train(config, tmp_path)
    assert not (tmp_path / "config.json").exists()
