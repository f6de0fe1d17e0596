"""Learning from a teacher: the loss, worked out by hand, and who may teach."""

import json

import keras
import numpy as np
import pytest
from tiny import CLASSES, IMAGE_SIZE, build_tiny, randomize

import keras_mixer.images
from keras_mixer import training
from keras_mixer.training import devices, distillation, optimizers

NAMES = tuple(f"class {n}" for n in range(CLASSES))
SIDE = (IMAGE_SIZE, IMAGE_SIZE)


@pytest.fixture(autouse=True)
def _policy(policy):
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (6, *SIDE, 3)).astype("float32")
    return images, np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, 6)]


def saved(folder, seed=1, **kwargs):
    model = randomize(build_tiny(**kwargs), seed)
    model.save(folder / "teacher.keras")
    return model, str(folder / "teacher.keras")


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_loss_is_hintons(tmp_path, batch, activation):
    weight, temperature = 0.3, 4.0
    teacher, path = saved(tmp_path, classifier_activation=activation)
    student = randomize(build_tiny(classifier_activation=None), seed=2)
    config = training.TrainConfig(
        teacher=path, teacher_weight=weight, temperature=temperature
    )
    teach = distillation.open_teacher(path, "float32", SIDE, NAMES)
    where = devices.make_distribution("single")
    trainer, _, _ = optimizers.make_trainer(config, where, student, 10, teach)
    images, labels = batch
    out = student(images, training=True)
    found = trainer.compute_loss(images, labels, out, training=True)

    z = np.asarray(out, "float64")
    told = np.asarray(teacher(images), "float64")
    told = np.log(told) if activation else told
    hard = -np.mean(np.sum(labels * np.log(softmax(z)), -1))
    p, q = softmax(told / temperature), softmax(z / temperature)
    soft = np.mean(np.sum(p * np.log(p / q), -1))
    expected = (1 - weight) * hard + weight * temperature**2 * soft
    assert abs(soft) > 1e-3
    np.testing.assert_allclose(float(found), expected, rtol=1e-4)
    # Validation is by the labels alone.
    alone = trainer.compute_loss(images, labels, out, training=False)
    np.testing.assert_allclose(float(alone), hard, rtol=1e-4)


def test_a_teacher_is_no_part_of_the_model_that_it_teaches(tmp_path, batch):
    _, path = saved(tmp_path)
    student = build_tiny(classifier_activation=None)
    config = training.TrainConfig(teacher=path, learning_rate=1e-2)
    where = devices.make_distribution("single")
    teach = distillation.open_teacher(path, "float32", SIDE, NAMES)
    before = np.asarray(teach(batch[0]))
    trainer, _, _ = optimizers.make_trainer(config, where, student, 50, teach)
    assert len(trainer.weights) == len(student.weights)
    start = trainer.train_on_batch(*batch, return_dict=True)["loss"]
    for _ in range(30):
        end = trainer.train_on_batch(*batch, return_dict=True)["loss"]
    assert end < start
    np.testing.assert_array_equal(np.asarray(teach(batch[0])), before)


def test_a_teacher_computes_by_the_precision_of_the_run(tmp_path, batch):
    _, path = saved(tmp_path)
    exact, rounded = (
        np.asarray(distillation.open_teacher(path, precision, SIDE, NAMES)(batch[0]))
        for precision in ("float32", "mixed_bfloat16")
    )
    assert exact.dtype == rounded.dtype == "float32"
    assert 0 < np.abs(rounded - exact).max() < 0.1 * exact.std()


def test_any_teacher_that_takes_the_same_pixels(tmp_path, batch):
    inputs = keras.Input((*SIDE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, "sigmoid")(x))
    model.save(tmp_path / "convolutions.keras")
    teach = distillation.open_teacher(
        str(tmp_path / "convolutions.keras"), "float32", SIDE, NAMES
    )
    scores = 1 / (1 + np.exp(-np.asarray(teach(batch[0]))))
    np.testing.assert_allclose(scores, np.asarray(model(batch[0])), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"side": (16, 16)}, "same input"),
        ({"names": NAMES[:-1]}, "same classes"),
        ({"names": NAMES[::-1]}, "same order"),
        ({"teacher": "MlpMixerB16"}, "random"),
        ({"teacher": "MlpMixerB16:imagenot"}, "model must be one of"),
        ({"teacher": "nowhere.keras"}, "model must be one of"),
        ({"teacher": "MlpMixerNano4:cifar10"}, "same input"),
        (
            {
                "teacher": "MlpMixerNano4:cifar10",
                "side": (32, 32),
                "names": "0123456789",
            },
            "same order",
        ),
    ],
)
def test_who_may_not_teach(tmp_path, arguments, words):
    _, path = saved(tmp_path)
    (tmp_path / "labels.txt").write_text("".join(f"{n}\n" for n in NAMES))
    distillation.open_teacher(path, "float32", SIDE, NAMES)  # may
    cifar10 = [label for _, label in keras_mixer.images.weights_labels("cifar10")]
    distillation.open_teacher("MlpMixerNano4:cifar10", "float32", (32, 32), cifar10)
    with pytest.raises(ValueError, match=words):
        distillation.open_teacher(
            arguments.get("teacher", path),
            "float32",
            arguments.get("side", SIDE),
            arguments.get("names", NAMES),
        )


def test_features_do_not_teach(tmp_path):
    model = randomize(build_tiny(include_top=False, pooling="avg", classes=None))
    model.save(tmp_path / "backbone.keras")
    names = [str(n) for n in range(model.output_shape[-1])]
    with pytest.raises(ValueError, match="classifier"):
        distillation.open_teacher(
            str(tmp_path / "backbone.keras"), "float32", SIDE, names
        )


def test_sigmoid_losses_have_no_teacher():
    with pytest.raises(ValueError, match="loss=softmax alone"):
        training.TrainConfig(teacher="a.keras", loss="sigmoid")


def test_a_run_learns_from_a_run(tmp_path):
    common = {"steps": 6, "batch_size": 16, "val_fraction": 0.02, "eval_crop": 1.0}
    training.train(training.TrainConfig(**common), tmp_path / "first")
    config = training.TrainConfig(
        **common, teacher=str(tmp_path / "first"), teacher_weight=1.0
    )
    taught = training.train(config, tmp_path / "second")
    report = json.loads((tmp_path / "second" / "report.json").read_text())
    assert report["config"]["teacher"] == str(tmp_path / "first")
    # Without a teacher the labels decide: another model comes of it.
    first = keras.models.load_model(tmp_path / "first" / "model.keras")
    assert taught.model.count_params() == first.count_params()
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(taught.model.get_weights(), first.get_weights(), strict=True)
    )
