"""Sources, splits, and the batches made of them."""

import gc
import io
import itertools
import math
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.eager import context as tf_context

from keras_mixer.catalog import ImageTransform
from keras_mixer.data import Augmentation, batches, sources, tfds_sources
from keras_mixer.data.splits import IndexedSplit
from keras_mixer.images import graph, load_image

WHOLE = ImageTransform(crop_ratio=1.0)
AUGMENTED = Augmentation(
    crop_scale=0.5,
    flip=True,
    shift=0.1,
    rotation=10,
    rand_augment_layers=1,
    mixup=0.2,
    cutmix=1.0,
    label_smoothing=0.1,
)


def write_images(folder, count, *, value, suffix=".png", size=(24, 18)):
    """Write images of noise around a grey value; each differs from the others."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    for number in range(count):
        pixels = rng.integers(value - 20, value + 20, (size[1], size[0], 3))
        Image.fromarray(pixels.astype("uint8")).save(folder / f"{number:03}{suffix}")


@pytest.fixture
def folder(tmp_path):
    """Twenty dark and forty bright images, in class folders."""
    write_images(tmp_path / "pictures/dark", 20, value=50)
    write_images(tmp_path / "pictures/bright", 40, value=200, suffix=".jpg")
    return tmp_path / "pictures"


def training_batches(split, config=AUGMENTED, *, first_step=0, count=6, **kwargs):
    stream = batches.training_batches(
        split,
        config,
        transform=WHOLE,
        image_size=(8, 12),
        classes=2,
        batch_size=8,
        epoch_steps=split.size // 8,
        first_step=first_step,
        **{"seed": 7} | kwargs,
    )
    return list(itertools.islice(stream.as_numpy_iterator(), count))


def evaluation_batches(split, classes, batch_size, **kwargs):
    return batches.evaluation_batches(
        split,
        transform=WHOLE,
        image_size=(8, 8),
        classes=classes,
        batch_size=batch_size,
        **kwargs,
    )


def assert_same(these, those):
    for mine, other in zip(these, those, strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_digits_are_scikit_learns_scans_split_by_class():
    source = sources.open_source("digits")
    sizes = {name: split.size for name, split in source.splits.items()}
    assert sum(sizes.values()) == 1797
    assert sizes == {"train": 1295, "val": 143, "test": 359}
    assert source.class_names == tuple("0123456789")
    for split in source.splits.values():
        counts = np.bincount(split.labels)
        assert counts.max() - counts.min() <= 7
        assert split.images.dtype == "uint8"
        assert split.images.max() == 255
        np.testing.assert_array_equal(split.images[..., 0], split.images[..., 2])


def test_folder_is_split_by_class_the_same_way_each_time(folder):
    first, second = (sources.open_source(f"folder:{folder}") for _ in range(2))
    assert first.class_names == ("bright", "dark")
    paths = [set(split.images) for split in first.splits.values()]
    assert sum(len(part) for part in paths) == len(set.union(*paths)) == 60
    assert np.bincount(first.splits["test"].labels).tolist() == [4, 2]
    assert np.bincount(first.splits["val"].labels).tolist() == [4, 2]
    for name, split in first.splits.items():
        np.testing.assert_array_equal(split.images, second.splits[name].images)
        for path, label in zip(split.images, split.labels, strict=True):
            assert f"/{first.class_names[label]}/".encode() in path


def test_folder_with_splits_keeps_them(folder, tmp_path):
    for name, count in [("train", 10), ("validation", 3), ("test", 4)]:
        for label, value in [("a", 60), ("b", 190)]:
            write_images(tmp_path / "split" / name / label, count, value=value)
    source = sources.open_source(f"folder:{tmp_path / 'split'}")
    sizes = {name: split.size for name, split in source.splits.items()}
    assert sizes == {"train": 20, "val": 6, "test": 8}
    assert all(b"/test/" in path for path in source.splits["test"].images)


def test_folder_holds_out_nothing_at_val_fraction_zero(folder):
    source = sources.open_source(f"folder:{folder}", val_fraction=0)
    assert set(source.splits) == {"train", "test"}
    assert source.splits["train"].size == 54


def test_folder_skips_and_lists_unreadable_images(tmp_path):
    write_images(tmp_path / "a", 150, value=60)
    write_images(tmp_path / "b", 150, value=190)
    (tmp_path / "a/000.png").write_bytes(b"not an image")
    whole = (tmp_path / "b/001.png").read_bytes()
    (tmp_path / "b/001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b/notes.txt").write_text("no image, and not meant to be one")
    source = sources.open_source(f"folder:{tmp_path}")
    assert sum(split.size for split in source.splits.values()) == 298
    note, other = source.notes
    assert note.startswith("Skipped 2 of 300 images")
    assert "cut off or damaged" in note
    assert other == "Passed over 1 files that are no images by name: 1 of .txt."
    assert "a/000.png" in note
    assert "b/001.png" in note


def test_folder_refuses_over_one_percent_unreadable(folder):
    (folder / "dark/new.webp").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"At most 1%.*Received: 1 of 61: .*new\.webp"):
        sources.open_source(f"folder:{folder}")


def test_folder_reads_every_name_of_an_image(tmp_path):
    for number, suffix in enumerate([".jfif", ".jpe", ".JPG", ".webp", ".dib", ".png"]):
        for label in "ab":
            file_format = {".webp": "WEBP", ".dib": "BMP", ".png": "PNG"}.get(suffix)
            pixels = np.full((9, 9, 3), 20 * number + 10 * (label == "b"), "uint8")
            (tmp_path / label).mkdir(exist_ok=True)
            name = os.fsencode(tmp_path / label) + b"/caf\xe9" + suffix.encode()
            with open(name, "wb") as file:
                Image.fromarray(pixels).save(file, file_format or "JPEG")
    source = sources.open_source(f"folder:{tmp_path}")
    assert sum(split.size for split in source.splits.values()) == 12
    assert source.notes == ()
    images, *_ = next(iter(evaluation_batches(source.splits["train"], 2, 8)))
    assert np.ptp(images) > 50


def test_folder_refuses_to_hold_out_what_is_not_there(tmp_path):
    for count in (1, 2):
        write_images(tmp_path / f"{count}/a", count, value=60)
        write_images(tmp_path / f"{count}/b", count, value=190)
        with pytest.raises(
            ValueError, match=r"hold out as (test|val).*--val_fraction=0"
        ):
            sources.open_source(f"folder:{tmp_path}/{count}")
    splits = sources.open_source(f"folder:{tmp_path}/2", val_fraction=0).splits
    assert {name: split.size for name, split in splits.items()} == {
        "train": 2,
        "test": 2,
    }


def test_folder_says_that_test_has_images_of_train(tmp_path):
    for split in ("train", "test"):
        for label, value in [("a", 60), ("b", 190)]:
            write_images(tmp_path / split / label, 5, value=value)
    (tmp_path / "test/a/000.png").unlink()
    notes = sources.open_source(f"folder:{tmp_path}", val_fraction=0).notes
    assert len(notes) == 1
    assert notes[0].startswith("9 of 9 images of test are in train as well")


def test_folder_does_not_decode_a_bomb(tmp_path, folder):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    (folder / "dark/bomb.png").write_bytes(bomb.getvalue())
    with pytest.raises(
        ValueError, match=r"1 of 61.*bomb\.png.*at most 50,000,000 pixels"
    ):
        sources.open_source(f"folder:{folder}")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "There must be a folder"),
        (lambda path: path.mkdir(), "at least two classes.*Received: 0 folders"),
        (
            lambda path: write_images(path / "only", 3, value=60),
            "at least two classes.*Received: 1 folder",
        ),
        (
            lambda path: [(path / name).mkdir(parents=True) for name in "ab"],
            "must have images in it. Received: none",
        ),
        (
            lambda path: [write_images(path / "a", 9, value=60), (path / "b").mkdir()],
            "Every class must have an image. Received: none in .*b",
        ),
        (
            lambda path: [
                write_images(path / split / label, 3, value=60)
                for split, label in zip(
                    ["train", "train", "test", "test"], "abac", strict=True
                )
            ],
            "Every class must have a folder in .*train. Received: c",
        ),
    ],
    ids=["missing", "empty", "one class", "no images", "an empty class", "new class"],
)
def test_folder_refuses_what_cannot_be_trained_on(tmp_path, make, words):
    path = tmp_path / "pictures"
    make(path)
    with pytest.raises(ValueError, match=words):
        sources.open_source(f"folder:{path}")


def test_tfds_splits_a_builder_of_image_folders(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    for name, count in [("train", 10), ("test", 4)]:
        for label, value in [("a", 60), ("b", 190)]:
            write_images(tmp_path / name / label, count, value=value, suffix=".jpg")
    builder = tfds.folder_dataset.ImageFolder(str(tmp_path))
    source = tfds_sources.source_of(builder, "mine", 0, {})
    sizes = {name: split.size for name, split in source.splits.items()}
    assert sizes == {"train": 20, "test": 8}
    assert source.class_names == ("a", "b")
    stream = evaluation_batches(source.splits["test"], 2, 8)
    ((images, one_hot, _),) = stream.as_numpy_iterator()
    bright = images.mean((1, 2, 3)) > 128
    np.testing.assert_array_equal(one_hot.argmax(-1), bright)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TensorFlow Dataset prepared from arrays: its name and folder."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class GreySquares(tfds.core.GeneratorBasedBuilder):
        """Squares of three greys."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["black", "grey", "white"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._examples(60), "validation": self._examples(9)}

        def _examples(self, count):
            for number in range(count):
                grey = [10, 120, 240][number % 3] + number % 10
                image = np.full((12 + number % 5, 12, 3), grey, "uint8")
                yield number, {"image": image, "label": number % 3}

        _generate_examples = _examples

    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.builder("grey_squares", data_dir=folder).download_and_prepare()
    return "grey_squares", folder


def test_tfds_names_a_package_that_preparing_needs(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def prepare(self):
        raise ModuleNotFoundError("No module named 'importlib_resources'")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
    with pytest.raises(ValueError, match=r"another package.*importlib_resources") as e:
        tfds_sources.open_tfds("mnist", None, 0.1, {})
    assert "data_dir" not in str(e.value)


def test_tfds_uses_validation_to_test_on_and_cuts_val_off_train(prepared):
    name, folder = prepared
    source = sources.open_source(name, data_dir=folder)
    names = {name: (split.name, split.size) for name, split in source.splits.items()}
    assert names == {
        "train": ("train[:54]", 54),
        "val": ("train[54:60]", 6),
        "test": ("validation", 9),
    }
    assert source.class_names == ("black", "grey", "white")


def test_tfds_batches_can_start_at_any_step(prepared, caplog):
    name, folder = prepared
    split = sources.open_source(name, data_dir=folder).splits["train"]

    def some(first_step, count, process_seed=0):
        tf.random.set_seed(process_seed)
        stream = batches.training_batches(
            split,
            AUGMENTED,
            transform=WHOLE,
            image_size=(8, 8),
            classes=3,
            batch_size=10,
            epoch_steps=5,
            seed=7,
            first_step=first_step,
        )
        return list(itertools.islice(stream.as_numpy_iterator(), count))

    uninterrupted = some(0, 12)
    assert_same(some(7, 5, process_seed=3), uninterrupted[7:])
    assert "AutoGraph" not in caplog.text
    first, second = (
        [label.tobytes() for _, labels in half for label in labels]
        for half in (uninterrupted[:5], uninterrupted[5:10])
    )
    assert first != second


def test_tfds_takes_splits_in_its_own_syntax(prepared):
    name, folder = prepared
    splits = {"train": "train[:50%]", "val": "train[50%:60%]", "test": "train[60%:]"}
    source = sources.open_source(name, data_dir=folder, splits=splits)
    sizes = {name: split.size for name, split in source.splits.items()}
    assert sizes == {"train": 30, "val": 6, "test": 24}
    for spec, size in [("train[:10%]", 6), ("train[:5]+validation", 14)]:
        _, split = sources.open_split(name, spec, data_dir=folder)
        assert split.size == size
    with pytest.raises(ValueError, match="of grey_squares's splits train, validation"):
        sources.open_source(name, data_dir=folder, splits={"test": "nowhere"})


@pytest.mark.parametrize(
    "asked, expected",
    [
        (
            {"test": "train[90%:]"},
            {"train": "train[:54]", "val": "validation", "test": "train[54:60]"},
        ),
        (
            {"val": "train[50%:60%]"},
            {
                "train": "train[:30]+train[36:60]",
                "val": "train[30:36]",
                "test": "validation",
            },
        ),
        (
            {"train": "train[:50%]"},
            {"train": "train[:27]", "val": "train[27:30]", "test": "validation"},
        ),
        (
            {"test": "validation[:5]"},
            {"train": "train[:54]", "val": "train[54:60]", "test": "validation[:5]"},
        ),
    ],
)
def test_tfds_splits_share_no_example(prepared, asked, expected):
    name, folder = prepared
    source = sources.open_source(name, data_dir=folder, splits=asked)
    assert {split: part.name for split, part in source.splits.items()} == expected
    # What is given anew, with the run's own settings, is the same split.
    _, val = sources.open_split(name, "val", data_dir=folder, splits=asked)
    assert val.name == expected["val"]


def test_tfds_refuses_splits_that_overlap(prepared):
    name, folder = prepared
    splits = {"train": "train[:60%]", "val": "train[50%:70%]"}
    with pytest.raises(ValueError, match=r"no example in common.*train\[30:36\]"):
        sources.open_source(name, data_dir=folder, splits=splits)


@pytest.mark.parametrize("global_seed", [None, 0, 5])
def test_tfds_order_depends_on_seed_and_epoch_alone(prepared, global_seed):
    name, folder = prepared
    split = sources.open_source(name, data_dir=folder).splits["train"]

    def order(seed, epoch):
        # The epoch is a tensor in the pipeline of training.
        epochs = tf.data.Dataset.from_tensors(tf.constant(epoch, tf.int64))
        stream = epochs.flat_map(
            lambda e: split.shuffled(seed, e, tf.constant(0, "int64"))
        )
        return [image for image, _ in stream.as_numpy_iterator()]

    before = tf_context.global_seed()
    try:
        tf.random.set_seed(3)
        expected = order(0, 0), order(0, 1), order(1, 0)
        tf.random.set_seed(global_seed)
        assert (order(0, 0), order(0, 1), order(1, 0)) == expected
    finally:
        tf.random.set_seed(before)
    first, *others = expected
    assert all(other != first and sorted(other) == sorted(first) for other in others)


def builder_of(folder, image, label, values):
    """A TensorFlow Dataset prepared with other features."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Six examples."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            keys = ("image", "label")
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=keys
            )

        def _split_generators(self, dl_manager):
            return {"train": self._examples()}

        def _examples(self):
            for number, (pixels, name) in enumerate(values):
                yield number, {"image": pixels, "label": name}

        _generate_examples = _examples

    builder = Other(data_dir=str(folder))
    builder.download_and_prepare()
    return builder


def test_tfds_refuses_labels_without_names_and_reads_grey_tensors(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    grey = np.full((6, 5, 1), 90, "uint8")
    image = tfds.features.Tensor(shape=(6, 5, 1), dtype=np.uint8)
    for label, value in [
        (tfds.features.Text(), "cat"),
        (tfds.features.Scalar(dtype=np.int64), 3),
    ]:
        builder = builder_of(tmp_path / str(value), image, label, [(grey, value)] * 6)
        with pytest.raises(ValueError, match="labels must have names"):
            tfds_sources.source_of(builder, "other", 0.1, {})
    floats = tfds.features.Tensor(shape=(6, 5, 1), dtype=np.float32)
    names = tfds.features.ClassLabel(names=["a", "b"])
    builder = builder_of(
        tmp_path / "floats", floats, names, [(np.float32(grey), 1)] * 6
    )
    with pytest.raises(ValueError, match="images must have 1 or 3 channels"):
        tfds_sources.source_of(builder, "other", 0.1, {})
    builder = builder_of(tmp_path / "named", image, names, [(grey, 1)] * 6)
    split = tfds_sources.source_of(builder, "other", 0.1, {}).splits["train"]
    images, *_ = next(iter(evaluation_batches(split, 2, 2)))
    np.testing.assert_array_equal(images, 90)


def test_tfds_mock_gives_batches(prepared):
    tfds = pytest.importorskip("tensorflow_datasets")
    name, folder = prepared
    with tfds.testing.mock_data(num_examples=9, data_dir=folder):
        split = sources.open_source(name, data_dir=folder).splits["test"]
        stream = evaluation_batches(split, 3, 9)
        images, one_hot, _ = next(stream.as_numpy_iterator())
    assert images.shape == (9, 8, 8, 3)
    np.testing.assert_array_equal(one_hot.sum(-1), 1)


def test_tfds_names_what_is_not_a_data_set():
    with pytest.raises(ValueError, match=r"digits, folder:PATH.*'no_such_data_set'"):
        sources.open_source("no_such_data_set")


def test_source_refuses_tfds_arguments_for_other_data():
    with pytest.raises(ValueError, match="are for TensorFlow Datasets"):
        sources.open_source("digits", splits={"train": "train[:50%]"})
    with pytest.raises(ValueError, match=r"val_fraction must be in \[0, 1\)"):
        sources.open_source("digits", val_fraction=1.5)


def test_open_split_names_the_splits_there_are(folder):
    source, split = sources.open_split(f"folder:{folder}", "val")
    assert split is source.splits["val"]
    with pytest.raises(ValueError, match=r"train, test, val. Received: split=valid"):
        sources.open_split("digits", "valid")


def test_training_batches_are_images_and_label_shares(folder):
    split = sources.open_source(f"folder:{folder}").splits["train"]
    for images, labels in training_batches(split):
        assert images.shape == (8, 8, 12, 3)
        assert labels.shape == (8, 2)
        assert images.dtype == labels.dtype == "float32"
        assert images.min() >= 0
        assert images.max() <= 255
        np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-5)


def test_training_batches_can_start_at_any_step(folder):
    split = sources.open_source(f"folder:{folder}").splits["train"]
    assert split.size // 8 == 6
    uninterrupted = training_batches(split, count=16)
    for first_step in (1, 6, 11):
        resumed = training_batches(split, first_step=first_step, count=5)
        assert_same(resumed, uninterrupted[first_step : first_step + 5])


def test_training_batches_go_through_all_examples_in_a_new_order_each_epoch(folder):
    split = sources.open_source(f"folder:{folder}").splits["train"].take(np.arange(48))
    plain = Augmentation()
    stream = training_batches(split, plain, count=12)
    epochs = [
        [image.tobytes() for images, _ in half for image in images]
        for half in (stream[:6], stream[6:])
    ]
    assert len(set(epochs[0])) == 48
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_training_batches_of_workers_make_up_the_global_batch(folder):
    split = sources.open_source(f"folder:{folder}").splits["train"]
    config = Augmentation(crop_scale=0.5, flip=True, rand_augment_layers=1)
    whole = training_batches(split, config)
    parts = [
        training_batches(split, config, worker=worker, num_workers=2)
        for worker in range(2)
    ]
    joined = [
        tuple(np.concatenate(pair) for pair in zip(*shares, strict=True))
        for shares in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_training_batches_differ_by_seed(folder):
    split = sources.open_source(f"folder:{folder}").splits["train"]
    (one,), (other,) = (training_batches(split, count=1, seed=n) for n in (1, 2))
    assert np.abs(one[0] - other[0]).mean() > 1


@pytest.mark.parametrize("num_workers", [1, 3])
def test_evaluation_batches_have_each_example_once(num_workers):
    split = sources.open_source("digits").splits["test"]
    parts = [
        list(
            evaluation_batches(
                split, 10, 63, worker=worker, num_workers=num_workers
            ).as_numpy_iterator()
        )
        for worker in range(num_workers)
    ]
    assert {len(part) for part in parts} == {math.ceil(359 / 63)}
    counted = np.zeros(10)
    for images, one_hot, weights in itertools.chain(*parts):
        assert images.shape == (63 // num_workers, 8, 8, 3)
        counted += one_hot[weights > 0].sum(0)
        # The mean over the rows of all batches is the mean over the examples.
        assert set(np.unique(weights)) <= {0, np.float32(6 * 63 / 359)}
    np.testing.assert_array_equal(counted, np.bincount(split.labels))


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (40, 30)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_crop_agrees_with_load_image(tmp_path, size, interpolation):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (size[1] // 8, size[0] // 8, 3), "uint8")
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.png")
    transform = ImageTransform(interpolation=interpolation)
    expected = load_image(tmp_path / "image.png", 64, weights=transform)
    crop = graph.evaluation_crop(np.asarray(image), (64, 64), transform).numpy()
    np.testing.assert_array_equal(crop, expected)


def test_evaluation_crop_covers_a_model_that_is_not_square():
    image = np.zeros((40, 60, 3), "uint8")
    image[:, 20:40] = 255
    crop = graph.evaluation_crop(image, (20, 10), WHOLE).numpy()
    assert crop.shape == (20, 10, 3)
    # The filter reaches into the black beside the middle third.
    np.testing.assert_array_equal(crop[:, 1:-1], 255)
    assert crop.min() > 230


def test_passes_on_one_iterator_are_the_same_and_begin_when_asked_for():
    read = []

    def note(number):
        read.append(int(number))
        return number

    def prepare(number):
        return tf.py_function(note, [number], tf.int64)

    numbers = tf.data.Dataset.range(12).map(prepare, num_parallel_calls=2).batch(2)
    numbers = batches.on_one_iterator(batches._finish(numbers))
    assert numbers.cardinality() == 6
    gc.collect()  # nothing but the data set holds the iterator
    for count in range(1, 5):
        values = [batch.numpy().tolist() for batch in numbers]
        assert values == [[n, n + 1] for n in range(0, 12, 2)]
        # Its batches would lie in memory all through the epoch.
        assert len(read) == 12 * count, "the next pass has begun"


def test_labels_out_of_range_are_refused():
    split = IndexedSplit(np.zeros((4, 8, 8, 3), "uint8"), np.arange(4))
    stream = evaluation_batches(split, 3, 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0, 3\)"):
        list(stream)
