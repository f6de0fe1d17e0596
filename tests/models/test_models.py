"""The models: counts, values, names, shapes, serialisation; on TensorFlow and JAX."""

import inspect
import json

import keras
import numpy as np
import pytest
import reference
from tiny import CLASSES, IMAGE_SIZE, PARAMETERS, TINY, build_tiny, randomize

import keras_mixer
from keras_mixer.models import mixer
from keras_mixer.weights import model_variables


def test_every_variant_has_a_count():
    public = {name for name in keras_mixer.__all__ if name.startswith("MlpMixer")}
    assert set(PARAMETERS) == public - {"MlpMixer"}
    assert set(PARAMETERS) <= set(mixer.VARIANTS)


def variants():
    for name, count in PARAMETERS.items():
        yield pytest.param(name, marks=[pytest.mark.slow] * (count > 1e8))


@pytest.mark.parametrize("name", list(variants()))
def test_variant_has_the_published_number_of_parameters(name):
    model = getattr(keras_mixer, name)()
    assert model.count_params() == PARAMETERS[name]
    assert model.name == name
    size = mixer.VARIANTS[name].image_size
    assert model.input_shape == (None, size, size, 3)
    keras.backend.clear_session()


def test_variants_take_top_and_weights_by_position_as_keras_applications_do():
    model = keras_mixer.MlpMixerNano4(False, "cifar10", pooling="avg")
    named = keras_mixer.MlpMixerNano4(
        include_top=False, weights="cifar10", pooling="avg"
    )
    assert model.output_shape == (None, 128)
    for found, expected in zip(model.get_weights(), named.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(TypeError):
        keras_mixer.MlpMixerNano4(True, "cifar10", None)


@pytest.mark.parametrize("name", PARAMETERS)
def test_variants_take_the_arguments_of_mlp_mixer(name):
    shared = inspect.signature(keras_mixer.MlpMixer).parameters
    own = inspect.signature(getattr(keras_mixer, name)).parameters
    assert list(own) == [n for n, p in shared.items() if p.kind is p.KEYWORD_ONLY]
    assert own["name"].default == name
    by_position = ("include_top", "weights")
    assert tuple(own)[:2] == by_position
    for n in by_position:
        assert own[n].replace(kind=shared[n].kind) == shared[n]
    same = set(own) - {"name", *by_position}
    assert {n: own[n] for n in same} == {n: shared[n] for n in same}
    with pytest.raises(TypeError, match="unexpected keyword argument 'drop_rate'"):
        getattr(keras_mixer, name)(drop_rate=0.1)


@pytest.mark.parametrize("approximate", [False, True])
def test_model_computes_the_papers_equations(images, approximate):
    model = randomize(
        build_tiny(classifier_activation=None, approximate_gelu=approximate)
    )
    arrays = {
        name: keras.ops.convert_to_numpy(variable)
        for name, variable in model_variables(model).items()
    }
    expected = reference.logits(images / 127.5 - 1, arrays, approximate)
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4)


def test_model_without_preprocessing_takes_what_preprocess_input_returns(tiny, images):
    bare = build_tiny(include_preprocessing=False)
    bare.set_weights(tiny.get_weights())
    np.testing.assert_allclose(
        bare(keras_mixer.preprocess_input(images, weights="imagenet")),
        tiny(images),
        atol=1e-6,
    )
    assert "preprocessing" not in [layer.name for layer in bare.layers]


def test_layers_have_the_designs_names(tiny):
    names = [layer.name for layer in tiny.layers]
    block = "token_norm token_mixing token_residual channel_norm channel_mixing"
    expected = ["images", "preprocessing", "stem", "tokens"]
    for i in range(TINY["num_blocks"]):
        expected += [
            f"block{i}_{name}" for name in [*block.split(), "channel_residual"]
        ]
    assert names == [*expected, "pre_head_norm", "pool", "head"]


def test_norms_use_the_epsilon_of_the_published_weights(tiny):
    norms = [n for n in tiny.layers if isinstance(n, keras.layers.LayerNormalization)]
    assert len(norms) == 2 * TINY["num_blocks"] + 1
    assert {norm.epsilon for norm in norms} == {1e-6}


def test_new_head_predicts_every_class_alike(images):
    predictions = np.asarray(build_tiny()(images))
    np.testing.assert_allclose(predictions, 1 / CLASSES, rtol=1e-6)


def test_features_are_the_pooled_tokens(tiny, images):
    def features(pooling):
        model = build_tiny(include_top=False, pooling=pooling)
        model.set_weights(tiny.get_weights()[:-2])
        return np.asarray(model(images))

    tokens = features(None)
    assert tokens.shape == (3, 9, TINY["hidden_dim"])
    np.testing.assert_allclose(features("avg"), tokens.mean(1), atol=1e-6)
    np.testing.assert_allclose(features("max"), tokens.max(1), atol=1e-6)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kwargs", [{}, {"include_top": False}])
def test_mixed_precision_keeps_outputs_and_variables_in_float32(
    policy, images, name, kwargs
):
    full = randomize(build_tiny(**kwargs))
    policy(name)
    mixed = build_tiny(**kwargs)
    mixed.set_weights(full.get_weights())
    compute = mixed.get_layer("block0_token_mixing").fc1.compute_dtype
    assert compute == name.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(v.dtype) for v in mixed.weights} == {
        "float32"
    }
    output = mixed(images)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    np.testing.assert_allclose(output, full(images), atol=0.2)


def test_saved_model_comes_back_without_custom_objects(tiny, images, tmp_path):
    tiny.save(tmp_path / "tiny.keras")
    again = keras.models.load_model(tmp_path / "tiny.keras")
    np.testing.assert_array_equal(again(images), tiny(images))
    assert json.loads(again.to_json()) == json.loads(tiny.to_json())


def test_frozen_model_comes_back_frozen(tiny, tmp_path):
    for layer in tiny.layers[:-1]:
        layer.trainable = False
    tiny.save(tmp_path / "tiny.keras")
    again = keras.models.load_model(tmp_path / "tiny.keras")
    assert [v.path for v in again.trainable_variables] == ["head/kernel", "head/bias"]
    mixing = again.get_layer("block0_token_mixing")
    mixing.trainable = True
    assert len(mixing.trainable_variables) == 4


def test_model_clones_and_rebuilds_from_its_config(tiny, images):
    for again in (
        keras.models.clone_model(tiny),
        keras.Model.from_config(tiny.get_config()),
    ):
        again.set_weights(tiny.get_weights())
        np.testing.assert_array_equal(again(images), tiny(images))


def test_model_builds_on_a_given_tensor(tiny, images):
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    mirrored = keras.layers.Lambda(lambda x: x[:, :, ::-1])(inputs)
    model = build_tiny(input_tensor=mirrored)
    model.set_weights(tiny.get_weights())
    np.testing.assert_allclose(model(images), tiny(images[:, :, ::-1]), atol=1e-6)


def test_stochastic_depth_grows_linearly_to_the_rate():
    sizes = TINY | {"num_blocks": 3}
    model = keras_mixer.MlpMixer(
        **sizes, input_shape=(12, 12, 3), stochastic_depth_rate=0.2
    )
    rates = {
        layer.name: layer.rate
        for layer in model.layers
        if isinstance(layer, keras_mixer.StochasticDepth)
    }
    assert rates == {
        "block1_token_drop": 0.1,
        "block1_channel_drop": 0.1,
        "block2_token_drop": 0.2,
        "block2_channel_drop": 0.2,
    }


def test_rectangular_images_work(images):
    model = build_tiny(input_shape=(8, 12, 3))
    assert model(images[:, :8]).shape == (3, CLASSES)


def test_model_learns(images):
    model = build_tiny()
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy")
    history = model.fit(images, np.array([1, 2, 3]), epochs=40, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0] / 10


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (
            {"input_shape": (225, 224, 3), "patch_size": 16},
            "image_size must be a multiple of patch_size. Received: image_size=225, "
            "patch_size=16. The nearest that work: 224 and 240.",
        ),
        ({"input_shape": (2, 4, 3)}, "image_size=2, patch_size=4.*that work: 4."),
        ({"input_shape": (12, 12, 1)}, "3 channels, RGB.*repeat"),
        (
            {"input_shape": (None, None, 3)},
            r"known, positive numbers.*\(None, None, 3\)",
        ),
        ({"hidden_dim": 0}, "hidden_dim must be a positive integer.*hidden_dim=0"),
        ({"num_blocks": 1.5}, "num_blocks must be a positive integer.*1.5"),
        ({"classes": 0}, "classes must be a positive integer.*classes=0"),
        ({"pooling": "mean"}, "pooling must be one of None, avg, max.*'mean'"),
        ({"resize": "bilinear"}, "resize must be one of None, interpolate.*'bilinear'"),
        ({"input_tensor": np.zeros((1, 12, 12, 3))}, "Keras tensor.*ndarray"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_explained(kwargs, words):
    with pytest.raises(ValueError, match=f"(?is){words}"):
        keras_mixer.MlpMixer(**TINY | {"input_shape": (12, 12, 3)} | kwargs)


def test_input_tensor_and_shape_must_agree():
    with pytest.raises(ValueError, match="must agree"):
        build_tiny(input_tensor=keras.Input((16, 16, 3)))
