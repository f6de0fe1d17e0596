"""Training: what it writes, resumes, refuses, and that its parts do what they say."""

import dataclasses
import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_child
from training_processes import history_of, start, state_of

from keras_mixer import data, training
from keras_mixer.models import VARIANTS
from keras_mixer.training import RECIPES, TrainConfig, fit, optimizers, steps
from keras_mixer.training.start import open_start

SMALL = training_child.SMALL
B16 = VARIANTS["MlpMixerB16"]
STATEFUL = training_child.STATEFUL


@pytest.fixture(scope="module", autouse=True)
def _policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of three epochs and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    return training_child.run({"label_smoothing": 0.0}, folder), folder


def test_train_writes_what_it_says(trained):
    result, folder = trained
    written = {path.name for path in folder.iterdir()}
    assert written == {
        ".lock",
        "checkpoint.npz",
        "config.json",
        "history.csv",
        "labels.txt",
        "model.keras",
        "report.json",
        "tensorboard",
    }
    assert (folder / "labels.txt").read_text().splitlines() == list("0123456789")
    assert list((folder / "tensorboard").iterdir())
    report = json.loads((folder / "report.json").read_text())
    assert report["test_accuracy"] == result.evaluation.top1
    assert report["test_examples"] == 359
    assert report["steps"] == 15
    rows = history_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["learning_rate"]) == 0
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_train_keeps_the_best_epoch_as_a_float32_softmax_model(trained):
    result, folder = trained
    model = keras.saving.load_model(folder / "model.keras")
    assert type(model).__name__ == "Functional"
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert model.get_layer("preprocessing").crop_ratio == 1.0
    val = training.evaluate(model, result.source.splits["val"])
    best = max(result.history, key=lambda row: (row["val_accuracy"], row["epoch"]))
    assert result.report["kept_epoch"] == best["epoch"]
    assert val.top1 == pytest.approx(best["val_accuracy"], abs=1e-6)
    # The last batch is filled up; that must not show in the loss.
    assert val.loss == pytest.approx(best["val_loss"], rel=1e-5)


def test_train_refuses_another_runs_folder(trained):
    _, folder = trained
    with pytest.raises(ValueError, match=r"batch_size=256 before, batch_size=128 now"):
        training_child.run({"label_smoothing": 0.0, "batch_size": 128}, folder)


def test_train_refuses_other_data_than_the_run_began_with(trained, monkeypatch):
    _, folder = trained
    source = data.open_source("digits")
    fewer = source.splits | {"train": source.splits["train"].take(np.arange(1000))}
    fewer = dataclasses.replace(source, splits=fewer)
    monkeypatch.setattr(data, "open_source", lambda *args, **kwargs: fewer)
    # A thousand examples also make fewer steps in an epoch.
    with pytest.raises(ValueError, match="1295 training examples before, 1000 now"):
        training_child.run({"label_smoothing": 0.0}, folder)


def test_train_of_a_finished_run_reports_it_again(trained, capsys):
    result, folder = trained
    again = training_child.run({"label_smoothing": 0.0}, folder)
    assert again.report["test_accuracy"] == result.report["test_accuracy"]
    assert "Resuming" in capsys.readouterr().out


@pytest.mark.slow
def test_train_resumes_to_the_bit_after_sigterm_and_sigkill(tmp_path):
    """The run is stopped in its first epoch, in its second, and between two."""
    folder, reference = tmp_path / "stopped", tmp_path / "reference"
    in_first, in_second, between = (
        ({**STATEFUL, "stop_at": step}, folder) for step in (2, -7, 9)
    )
    child = start([in_first, in_second])
    before = []
    for line in child.stdout:
        if line.strip() == "step 7":
            break
        before.append(line)
    assert "Stopped at step 3 of 15. The same command resumes there.\n" in before
    with pytest.raises(ValueError, match=r"one run at a time.*stopped, where another"):
        training_child.run(STATEFUL, folder)
    child.kill()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors[-2000:]

    child = start([between, (STATEFUL, folder), (STATEFUL, reference)])
    output, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-2000:]
    assert "Stopped at step 10 of 15" in output
    assert [line.split()[-1] for line in output.splitlines() if "Resum" in line] == [
        "6.",
        "10.",
    ]

    state, expected = state_of(folder), state_of(reference)
    assert len(expected) > 100
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert history_of(folder) == history_of(reference)
    mine, theirs = (
        keras.saving.load_model(path / "model.keras").get_weights()
        for path in (folder, reference)
    )
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_train_at_one_step_more_than_an_epoch(tmp_path):
    result = training_child.run({"steps": 6}, tmp_path)
    assert [row["step"] for row in result.history] == [5, 6]
    assert result.history[-1]["learning_rate"] == 0


@pytest.mark.slow
def test_train_resumes_what_several_workers_saved(tmp_path):
    """In the middle of an epoch, without the metrics, which they do not save."""
    training_child.stop_at(6)
    with pytest.raises(training.Preempted):
        training_child.run({}, tmp_path)
    with np.load(tmp_path / "checkpoint.npz") as file:
        arrays = {n: file[n] for n in file.files if not n.startswith("metrics/")}
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    result = training_child.run({}, tmp_path)
    assert [row["step"] for row in result.history] == [5, 10, 15]


def test_train_chooses_batch_and_warm_up_and_keeps_to_them(tmp_path, capsys):
    settings = {"batch_size": 0, "warmup_steps": -1, "steps": 40}
    training_child.stop_at(12)
    with pytest.raises(training.Preempted):
        training_child.run(settings, tmp_path)
    assert "memory: batch_size=64, warmup_steps=2." in capsys.readouterr().out
    # As if another machine went on, which would choose otherwise.
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["batch_size"], config["warmup_steps"]) == (64, 2)
    (tmp_path / "config.json").write_text(json.dumps(config | {"warmup_steps": 3}))
    result = training_child.run(settings, tmp_path)
    assert result.report["config"]["warmup_steps"] == 3


def test_train_by_adamw_without_weight_decay(tmp_path):
    result = training_child.run({"weight_decay": 0.0, "epochs": 1}, tmp_path)
    assert result.report["steps"] == 5


def test_train_without_validation_keeps_the_last_weights(tmp_path):
    result = training_child.run({"val_fraction": 0.0, "epochs": 2}, tmp_path)
    assert "val_accuracy" not in result.history[0]
    assert result.report["kept_epoch"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("policy")  # training sets it for the process
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_train_in_mixed_precision_comes_close(trained, tmp_path, precision):
    result, _ = trained
    mixed = training_child.run(
        {"precision": precision, "label_smoothing": 0.0}, tmp_path
    )
    assert mixed.history[-1]["loss"] == pytest.approx(
        result.history[-1]["loss"], rel=0.02
    )
    assert {v.dtype for v in mixed.model.weights} == {"float32"}


@pytest.mark.slow
def test_train_with_accumulation_equals_the_whole_batch(trained, tmp_path):
    _, folder = trained
    settings = {"accumulation_steps": 2, "label_smoothing": 0.0}
    training_child.run(settings, tmp_path)
    whole, parts = state_of(folder), state_of(tmp_path)
    for name in (n for n in whole if n.startswith("model/")):
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-5)
    for one, other in zip(history_of(folder), history_of(tmp_path), strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-6)


def test_train_stops_at_a_loss_that_is_not_finite(tmp_path):
    settings = {"learning_rate": 1e6, "optimizer": "sgd", "clip_norm": 0.0}
    with pytest.raises(ValueError, match=r"stay finite. .* at step \d+.*learning rate"):
        training_child.run(settings, tmp_path)


def test_train_refuses_more_examples_in_a_batch_than_there_are(tmp_path):
    with pytest.raises(ValueError, match="batch_size=2048, 1295 examples"):
        training_child.run({"batch_size": 2048}, tmp_path)


def test_train_refuses_a_warm_up_without_an_end(tmp_path):
    with pytest.raises(ValueError, match="warmup_steps=15, 15 steps"):
        training_child.run({"warmup_steps": 15}, tmp_path)


def test_train_says_which_labels_are_out_of_range(tmp_path, monkeypatch):
    source = data.open_source("digits")
    few = dataclasses.replace(source, class_names=tuple("012345678"))
    monkeypatch.setattr(data, "open_source", lambda *args, **kwargs: few)
    with pytest.raises(ValueError, match=r"in \[0, 9\). Received: others in digits"):
        training_child.run({}, tmp_path)


def test_train_names_an_image_that_cannot_be_read(tmp_path, monkeypatch):
    source = data.open_source("digits")
    damaged = np.array([b"\xff\xd8\xff\xe0 cut off"] * 512)
    split = data.IndexedSplit(damaged, np.zeros(512, "int64"))
    broken = dataclasses.replace(source, splits={**source.splits, "train": split})
    monkeypatch.setattr(data, "open_source", lambda *args, **kwargs: broken)
    words = r"(?s)must be whole\. Received: one in digits that cannot be read"
    with pytest.raises(ValueError, match=words):
        training_child.run({}, tmp_path)


def test_train_needs_examples_to_train_on(tmp_path, monkeypatch):
    source = data.open_source("digits")
    bare = dataclasses.replace(source, splits={"test": source.splits["test"]})
    monkeypatch.setattr(data, "open_source", lambda *args, **kwargs: bare)
    with pytest.raises(ValueError, match=r"digits with the splits test alone\. Leave"):
        training_child.run({}, tmp_path)


def test_train_keeps_the_moving_average(tmp_path):
    result = training_child.run({"ema_momentum": 0.8, "epochs": 2}, tmp_path)
    state = state_of(tmp_path)
    kept = result.model.get_layer("stem").kernel.numpy()
    raw = state["model/0"]
    averages = [
        value
        for name, value in state.items()
        if name.startswith("optimizer/") and value.shape == kept.shape
    ]
    assert np.abs(kept - raw).max() > 1e-4
    assert any(np.array_equal(kept, average) for average in averages)
    val = training.evaluate(result.model, result.source.splits["val"])
    assert val.top1 == pytest.approx(result.history[-1]["val_accuracy"], abs=1e-6)


def test_train_frozen_backbone_changes_the_head_alone(tmp_path):
    keras.utils.set_random_seed(0)
    config = dataclasses.replace(SMALL, freeze_backbone=True, epochs=1)
    before = optimizers.build_model(config, open_start(config), 10).get_weights()
    after = training.train(config, tmp_path).model.get_weights()
    changed = [
        not np.array_equal(one, other) for one, other in zip(before, after, strict=True)
    ]
    assert changed == [False] * (len(before) - 2) + [True, True]


def test_train_fine_tunes_from_a_file(trained, tmp_path):
    _, folder = trained
    settings = {"weights": str(folder / "model.keras"), "epochs": 1}
    result = training_child.run(settings, tmp_path)
    first, tuned = history_of(folder)[0], result.history[0]
    assert tuned["val_accuracy"] > float(first["val_accuracy"])


def one_step(config, seed=0):
    """Take one optimizer step by a known gradient; return before, after, model."""
    keras.utils.set_random_seed(seed)
    model = optimizers.build_model(config, open_start(config), 10)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(0, 1, variable.shape))
    optimizer = optimizers.make_optimizer(config, model, total_steps=100)
    before = [v.numpy() for v in model.trainable_variables]
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    after = [v.numpy() for v in model.trainable_variables]
    return before, after, model


def test_optimizer_decays_kernels_only():
    config = dataclasses.replace(
        SMALL, optimizer="sgd", weight_decay=0.5, learning_rate=0.1, clip_norm=0.0
    )
    config = dataclasses.replace(config, warmup_steps=0)
    before, after, model = one_step(config)
    for variable, old, new in zip(
        model.trainable_variables, before, after, strict=True
    ):
        shrunk = old * (1 - 0.05) if variable.name == "kernel" else old
        np.testing.assert_allclose(new, shrunk - 0.1, rtol=1e-5, atol=1e-6)


def test_optimizer_clips_the_norm_of_the_whole_gradient():
    config = dataclasses.replace(
        SMALL, optimizer="sgd", learning_rate=1.0, clip_norm=0.5, warmup_steps=0
    )
    config = dataclasses.replace(config, weight_decay=0.0)
    before, after, _ = one_step(config)
    squares = [np.sum((b - a) ** 2) for b, a in zip(before, after, strict=True)]
    assert np.sqrt(np.sum(squares)) == pytest.approx(0.5, rel=1e-3)


def test_optimizer_lowers_the_rate_layer_by_layer():
    config = dataclasses.replace(
        SMALL, optimizer="sgd", learning_rate=1.0, clip_norm=0.0, layer_decay=0.5
    )
    config = dataclasses.replace(config, weight_decay=0.0, warmup_steps=0)
    before, after, model = one_step(config)
    rates = {}
    for variable, old, new in zip(
        model.trainable_variables, before, after, strict=True
    ):
        rates[variable.path.split("/")[0]] = float((old - new).mean())
    assert rates["head"] == rates["pre_head_norm"] == pytest.approx(1)
    assert rates["block1_token_mixing"] == pytest.approx(1 / 2, rel=1e-4)
    assert rates["block0_channel_norm"] == pytest.approx(1 / 4, rel=1e-4)
    assert rates["stem"] == pytest.approx(1 / 8, rel=1e-4)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_learning_rate_warms_up_and_decays(decay):
    config = dataclasses.replace(
        SMALL,
        decay=decay,
        learning_rate=1.0,
        end_learning_rate=0.1,
        warmup_steps=10,
    )
    model = optimizers.build_model(config, open_start(config), 10)
    optimizer = optimizers.make_optimizer(config, model, total_steps=110)
    rates = []
    for step in (0, 4, 9, 10, 35, 60, 110, 200):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    quarter = {"cosine": 0.5 * (1 + np.cos(np.pi / 4)), "linear": 0.75}[decay]
    expected = [0.1, 0.5, 1.0, 1.0, 0.1 + 0.9 * quarter, 0.55, 0.1, 0.1]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_sam_steps_by_the_gradient_at_the_worst_point_nearby():
    class Model(steps.SharpnessAwareStep, keras.Model):
        sam_rho = 0.5

    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(1, use_bias=False, name="w")(inputs)
    model = Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    w = np.array([[1.0], [-2.0]], "float32")
    model.set_weights([w])
    x, y = np.array([[1.0, 3.0], [2.0, 1.0]], "float32"), np.zeros((2, 1), "float32")

    def gradient(at):
        return 2 * x.T @ (x @ at - y) / len(x)

    here = gradient(w)
    there = gradient(w + 0.5 * here / np.linalg.norm(here))
    logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(model.get_weights()[0], w - 0.1 * there, rtol=1e-5)
    assert logs["loss"] == pytest.approx(float(np.mean((x @ w) ** 2)), rel=1e-5)


def test_sigmoid_loss_starts_at_the_bias(tmp_path):
    settings = {
        "loss": "sigmoid",
        "head_bias": -2.2,
        "epochs": 1,
        "learning_rate": 1e-9,
    }
    result = training_child.run(settings | {"label_smoothing": 0.0}, tmp_path)
    # The head is zero but for its bias: each class has the probability sigmoid(-2.2).
    p = 1 / (1 + np.exp(2.2))
    expected = -np.log(p) - 9 * np.log(1 - p)
    assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    head = result.model.get_layer("head")
    assert head.activation.__name__ == "sigmoid"


def test_checkpoint_is_read_whole_or_refused(tmp_path):
    variables = [keras.Variable(np.arange(6.0).reshape(2, 3), name="a")]
    path = tmp_path / "checkpoint.npz"
    fit.save_state(path, {"model": variables}, {"step": 3})
    variables[0].assign(np.zeros((2, 3)))
    assert fit.load_state(path, {"model": variables}) == {"step": 3}
    np.testing.assert_array_equal(variables[0], np.arange(6.0).reshape(2, 3))

    other = [keras.Variable(np.ones((3, 2)), name="b")]
    with pytest.raises(ValueError, match=r"\(2, 3\) instead of float64 \(3, 2\)"):
        fit.load_state(path, {"model": other})
    np.testing.assert_array_equal(other[0], 1)
    with pytest.raises(ValueError, match="model/1 missing"):
        fit.load_state(path, {"model": variables + other})

    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="must be one that training wrote"):
            fit.load_state(path, {"model": variables})


def test_checkpoint_of_any_damage_is_refused_or_read_right(tmp_path):
    """Every byte is changed in turn."""
    variables = [keras.Variable(np.arange(6.0, dtype="float32"), name="a")]
    path = tmp_path / "checkpoint.npz"
    fit.save_state(path, {"model": variables}, {"step": 3})
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert fit.load_state(path, {"model": variables}) == {"step": 3}
        except ValueError:
            refused += 1
        np.testing.assert_array_equal(variables[0], np.arange(6.0))
    assert refused > len(content) / 3
    with open(path, "wb") as file:
        np.save(file, np.arange(6.0))
    with pytest.raises(ValueError, match="must be one that training wrote"):
        fit.load_state(path, {"model": variables})


def test_checkpoint_may_lack_metrics_on_either_side(tmp_path):
    weights, metric = keras.Variable(1.0, name="a"), keras.Variable(2.0, name="b")
    path = tmp_path / "checkpoint.npz"
    for saved, loaded in [([], [metric]), ([metric], [])]:
        fit.save_state(path, {"model": [weights], "metrics": saved}, {})
        groups = {"model": [weights], "metrics": loaded}
        fit.load_state(path, groups, optional=["metrics"])
        with pytest.raises(ValueError, match=r"metrics/0 (missing|unexpected)"):
            fit.load_state(path, groups)


def test_checkpoint_with_nan_is_not_written(tmp_path):
    path = tmp_path / "checkpoint.npz"
    variables = [keras.Variable([1.0, float("nan")], name="a")]
    with pytest.raises(FloatingPointError, match="a"):
        fit.save_state(path, {"model": variables}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_recipe_reads_back_from_json(recipe):
    assert TrainConfig.from_json(recipe.to_json()) == recipe
    assert TrainConfig.from_json(recipe.to_json(), epochs=7).epochs == 7


@pytest.mark.parametrize(
    ("examples", "gigabytes", "shares", "expected"),
    [
        (2642, 64, 1, (128, 20)),  # tf_flowers
        (2642, 16, 1, (32, 82)),
        (2642, 16, 3, (48, 55)),  # a multiple of three replicas
        (45000, 64, 1, (128, 351)),
        (45000, 4, 1, (8, 5625)),
        (130, 64, 1, (32, 4)),
        (12, 64, 1, (8, 1)),
    ],
)
def test_finetune_fits_the_data_and_the_memory(examples, gigabytes, shares, expected):
    config = RECIPES["finetune"].fitted(examples, shares, gigabytes * 1e9, B16)
    assert (config.batch_size, config.warmup_steps) == expected
    steps = config.epochs * (examples // config.batch_size)
    assert config.warmup_steps == steps // 20
    assert config.fitted(1, 1, 0, B16) == config


def test_the_papers_fine_tuning_can_be_asked_for_by_name():
    config = RECIPES["paper_cifar10"]
    chosen = config.batch_size, config.steps, config.warmup_steps
    assert chosen == (512, 10_000, 500)
    assert config.fitted(45_000, 1, 1e9, B16) == config


def test_config_explains_every_field():
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"].endswith(".")


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            {"model": "runs/a", "weights": "imagenet"},
            "weights go with a named model.*B16.*'runs/a', weights='imagenet'",
        ),
        ({"epochs": 0}, r"epochs must be in \[1, .*epochs=0"),
        ({"precision": "half"}, "precision must be one of float32, mixed_bfloat16"),
        ({"strategy": "all"}, "strategy must be one of auto, single"),
        ({"sam_rho": 0.1, "accumulation_steps": 2}, "exclude each other"),
        ({"crop_scale": 0.0}, "crop_scale must be in"),
        ({"epochs": "3"}, "epochs must be int. Received: epochs='3'"),
        ({"flip": 1}, "flip must be bool. Received: flip=1"),
        ({"learning_rate": None}, "learning_rate must be int | float. Received"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_config_refuses_what_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **settings)


@pytest.mark.parametrize("text", ["", "[1]", '{"epoch": 3}', "{"])
def test_config_refuses_other_json(text):
    with pytest.raises(ValueError, match="A configuration must"):
        TrainConfig.from_json(text)


def test_evaluate_counts_right(tiny):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (10, 12, 12, 3), "uint8")
    source = data.open_source("digits")
    split = type(source.splits["test"])(images, np.arange(10))
    model = keras.Model(tiny.inputs, tiny.outputs)
    model.get_layer("preprocessing").crop_ratio = 1.0
    result = training.evaluate(model, split, batch_size=4)
    scores = model.predict(images.astype("float32"), verbose=0)
    order = scores.argsort(-1)[:, ::-1]
    assert result.examples == 10
    assert result.top1 == np.mean(order[:, 0] == np.arange(10))
    assert result.top5 == np.mean((order[:, :5] == np.arange(10)[:, None]).any(-1))
    picked = scores[np.arange(10), np.arange(10)]
    assert result.loss == pytest.approx(-np.log(picked).mean(), rel=1e-5)
    np.testing.assert_array_equal(result.predictions, order[:, 0])
    assert len(result.shown) == 10
    np.testing.assert_array_equal(result.shown[3].image, images[3])


@pytest.mark.parametrize("one_hot", [False, True])
def test_evaluate_takes_pixels_as_a_dataset_or_arrays(tiny, one_hot):
    images = np.random.default_rng(0).integers(0, 255, (10, 12, 12, 3), "uint8")
    labels = np.arange(10)
    split = type(data.open_source("digits").splits["test"])(images, labels)
    model = keras.Model(tiny.inputs, tiny.outputs)
    model.get_layer("preprocessing").crop_ratio = 1.0
    expected = training.evaluate(model, split, batch_size=4)
    given = np.eye(model.output_shape[-1])[labels] if one_hot else labels
    batches = tf.data.Dataset.from_tensor_slices((images, given)).batch(3)
    for examples in ((images, given), batches):
        found = training.evaluate(model, examples, batch_size=4)
        assert (found.top1, found.top5) == (expected.top1, expected.top5)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        np.testing.assert_array_equal(found.predictions, expected.predictions)
        np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ((np.zeros((2, 12, 12, 3)), np.zeros(3)), "a label"),
        ((np.zeros((2, 16, 16, 3)), np.zeros(2)), "as the model takes them"),
        ((np.zeros((2, 12, 12, 3)), np.array([0, 11])), "class numbers"),
        ((np.zeros((2, 12, 12, 3)), np.zeros((2, 5))), "class numbers"),
        ((np.zeros((0, 12, 12, 3)), np.zeros(0)), "none"),
        (tf.data.Dataset.from_tensors(np.zeros((1, 12, 12, 3))), "pair"),
        (np.zeros((2, 12, 12, 3)), "Examples must be"),
    ],
)
def test_evaluate_says_which_examples_do_not_fit(tiny, examples, words):
    with pytest.raises(ValueError, match=words):
        training.evaluate(tiny, examples)
