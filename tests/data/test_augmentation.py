"""Augmentation is a function of the image and the seed, and does what it says."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data import Augmentation, augmentation
from keras_mixer.data.augmentation import (
    augment_image,
    crop_window,
    mix_batch,
)

pytest.importorskip("keras_cv")

IMAGE = np.random.default_rng(0).uniform(0, 255, (16, 20, 3)).astype("float32")
IMAGES = np.random.default_rng(1).uniform(0, 255, (8, 6, 10, 3)).astype("float32")
LABELS = np.eye(8, dtype="float32")

CONFIGS = {
    "flip": Augmentation(flip=True),
    "shift": Augmentation(shift=0.2),
    "rotation": Augmentation(rotation=20.0),
    "rand_augment": Augmentation(rand_augment_layers=2),
    "all": Augmentation(flip=True, shift=0.1, rotation=9.0, rand_augment_layers=1),
}


def mixed(config, seed):
    batch = mix_batch(
        config, tf.constant(IMAGES), tf.constant(LABELS), tf.constant([0, seed])
    )
    return tuple(np.asarray(x) for x in batch)


def augmented(config, seed, image=IMAGE):
    return augment_image(config, tf.constant(image), tf.constant([3, seed])).numpy()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_augment_image_is_decided_by_the_seed(config):
    first = [augmented(config, seed) for seed in range(8)]
    again = [augmented(config, seed) for seed in reversed(range(8))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({image.tobytes() for image in first}) > 1
    for image in first:
        assert image.shape == IMAGE.shape
        assert image.dtype == "float32"
        assert image.min() >= 0
        assert image.max() <= 255


def test_augment_image_is_the_same_in_every_graph():
    config = CONFIGS["all"]
    image = tf.constant(IMAGE)
    # Traced anew, as in the process that resumes a run.
    one, other = (
        tf.function(lambda seed: augment_image(config, image, seed)) for _ in range(2)
    )
    for seed in range(6):
        seed = tf.constant([3, seed])
        np.testing.assert_array_equal(one(seed), other(seed))


def test_augment_image_does_nothing_by_default():
    np.testing.assert_array_equal(augmented(Augmentation(), 0), IMAGE)


def test_augment_image_flips_half():
    flipped = [
        np.array_equal(augmented(CONFIGS["flip"], seed), IMAGE[:, ::-1])
        for seed in range(200)
    ]
    assert 70 < sum(flipped) < 130


def test_augment_image_keeps_float32_under_mixed_precision(policy):
    expected = augmented(CONFIGS["all"], 5)
    policy("mixed_bfloat16")
    np.testing.assert_array_equal(augmented(CONFIGS["all"], 5), expected)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_augment_image_leaves_the_random_functions_in_place():
    before = tf.random.uniform, tf.random.get_global_generator, tf.random.shuffle
    augmented(CONFIGS["all"], 0)
    after = tf.random.uniform, tf.random.get_global_generator, tf.random.shuffle
    assert before == after


def test_crop_window_keeps_area_and_stretch():
    config = Augmentation(crop_scale=0.25, crop_stretch=1.5)
    windows = np.array(
        [crop_window(config, 300, 400, tf.constant([1, n])).numpy() for n in range(300)]
    )
    top, left, height, width = windows.T
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= 300
    assert (left + width).max() <= 400
    areas, stretches = height * width / 120_000, width / height
    assert 0.24 < areas.min() < 0.35
    assert 0.85 < areas.max() <= 1
    # A crop of nearly the whole image has the image's shape.
    drawn = stretches[areas < 0.9]
    assert 0.66 < drawn.min() < 0.75
    assert 1.35 < drawn.max() < 1.51


def test_mix_batch_smooths_labels():
    config = Augmentation(label_smoothing=0.16)
    images, labels = mixed(config, 0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_allclose(labels, LABELS * 0.84 + 0.02, rtol=1e-6)


def test_mixup_mixes_labels_as_it_mixes_images():
    config = Augmentation(mixup=0.5)
    images, labels = mixed(config, 4)
    # With one-hot labels of distinct classes, the labels are the shares.
    expected = np.tensordot(labels, IMAGES, axes=1)
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-2)
    assert np.abs(images - IMAGES).max() > 1


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_labels_are_the_shares_of_the_pixels(seed):
    images, labels = mixed(Augmentation(cutmix=1.0), seed)
    own = (images == IMAGES).all(-1).mean((1, 2))
    # Also of a patch that sticks out of the image, of which a part is pasted.
    np.testing.assert_allclose(np.diag(labels), own, atol=1e-6)
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
    for n in range(8):
        pasted = ~(images[n] == IMAGES[n]).all(-1)
        others = np.where(np.arange(8) == n, -1, labels[n])
        source = others.argmax()
        np.testing.assert_array_equal(images[n][pasted], IMAGES[source][pasted])


def test_mix_batch_mixes_the_share_of_batches_asked_for():
    config = Augmentation(mixup=0.5, cutmix=1.0, mix_probability=0.5)
    batch = tf.constant(IMAGES), tf.constant(LABELS)
    mix = tf.function(lambda seed: mix_batch(config, *batch, seed)[0])
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(120):
        images = mix(tf.constant([0, seed])).numpy()
        np.testing.assert_array_equal(images, mix(tf.constant([0, seed])))
        if np.array_equal(images, IMAGES):
            kinds["none"] += 1
        elif np.isin(images, IMAGES).all():
            kinds["cutmix"] += 1
        else:
            kinds["mixup"] += 1
    assert 40 < kinds["none"] < 80
    assert 12 < kinds["mixup"] < 48
    assert 12 < kinds["cutmix"] < 48


@pytest.mark.parametrize(
    "field, value",
    [
        ("crop_scale", 0),
        ("crop_stretch", 0.5),
        ("shift", 1),
        ("rotation", -3),
        ("rand_augment_magnitude", 31),
        ("mixup", -0.1),
        ("label_smoothing", 1),
    ],
)
def test_augmentation_refuses_what_is_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be in .*{field}={value}"):
        Augmentation(**{field: value})


def test_augmentation_explains_every_field():
    for field in dataclasses.fields(Augmentation):
        assert field.metadata["help"].endswith(".")


def test_augmentation_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keras_cv", None)
    with pytest.raises(ValueError, match=r"keras-cv.*pip install keras-mixer\[train\]"):
        augmentation.augment_image(CONFIGS["shift"], IMAGE, tf.constant([0, 0]))
