import functools
import io

import keras
import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_mixer.catalog import ImageTransform
from keras_mixer.images import (
    decode_predictions,
    imagenet_labels,
    load_image,
    preprocess_input,
)
from keras_mixer.models.mixer import MlpMixer

# Mean difference in grey levels that rounding leaves. Pillow rounds to 8 bits between
# the axes, and from version 13 on the proportions decide which of them comes first.
ROUNDING = 0.15


@functools.cache
def photo(name):
    """A real photograph, uint8 RGB; "tall" and "odd" have other proportions."""
    if name in ("china", "flower"):
        return load_sample_image(f"{name}.jpg")
    if name == "tall":
        return np.ascontiguousarray(skimage.data.rocket()[:, 200:401])
    if name == "odd":
        return np.ascontiguousarray(skimage.data.coffee()[:301, :299])
    return getattr(skimage.data, name)()


def encode(pixels, file_format, **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def crop_of(image, size=64, crop_ratio=0.875, resampling=Image.Resampling.BICUBIC):
    """The evaluation crop as torchvision writes it: resize all, then cut."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    width, height = image.size
    short = int(size / crop_ratio)
    if width < height:
        image = image.resize((short, int(short * height / width)), resampling)
    else:
        image = image.resize((int(short * width / height), short), resampling)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), "float32")


def mean_difference(a, b):
    assert a.shape == b.shape
    return np.abs(a - b).mean()


@pytest.mark.parametrize("size", [32, 97, 224, 225, 384])
@pytest.mark.parametrize(
    "name",
    ["astronaut", "chelsea", "coffee", "rocket", "china", "flower", "tall", "odd"],
)
def test_load_image_is_the_evaluation_crop_of_photographs(name, size):
    data = encode(photo(name), "JPEG", quality=90)
    image = load_image(data, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.float32
    expected = crop_of(Image.open(io.BytesIO(data)), size)
    assert mean_difference(image, expected) < ROUNDING
    assert np.abs(image - expected).max() <= 2


def test_load_image_follows_the_transform_of_the_weights():
    data = encode(photo("chelsea"), "PNG")
    bilinear = ImageTransform(interpolation="bilinear", crop_ratio=0.95)
    expected = crop_of(photo("chelsea"), 96, 0.95, Image.Resampling.BILINEAR)
    assert mean_difference(load_image(data, 96, weights=bilinear), expected) < ROUNDING
    assert mean_difference(load_image(data, 96), expected) > 1
    np.testing.assert_array_equal(
        load_image(data, 96, weights="imagenet"), load_image(data, 96)
    )


def test_load_image_follows_a_model_also_inside_another():
    inputs = keras.Input((48, 48, 3))
    transform = ImageTransform((0, 0, 0), (1, 1, 1), "bilinear", 0.95)
    mixer = MlpMixer(8, 1, 5, 7, 16, include_top=False, input_shape=(48, 48, 3))
    layer = mixer.get_layer("preprocessing")
    layer.interpolation, layer.crop_ratio = "bilinear", 0.95
    wrapped = keras.Model(inputs, mixer(inputs))
    data = encode(photo("chelsea"), "PNG")
    expected = load_image(data, 48, weights=transform)
    for model in (mixer, wrapped):
        np.testing.assert_array_equal(load_image(data, weights=model), expected)
    assert load_image(data, 40, weights=mixer).shape == (40, 40, 3)
    assert load_image(data).shape == (224, 224, 3)


def test_load_image_refuses_a_model_that_does_not_say_its_transform():
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"layer named `preprocessing`.*name the tag"):
        load_image(b"", weights=model)
    with pytest.raises(
        ValueError, match=r"None, a tag of the catalogue.*Received: int"
    ):
        load_image(b"", weights=3)
    wide = MlpMixer(8, 1, 5, 7, 16, input_shape=(32, 48, 3), classes=3)
    with pytest.raises(ValueError, match=r"squares.*32 x 48"):
        load_image(b"", weights=wide)
    with pytest.raises(ValueError, match=r"'bicubic', 'bilinear'.*Received: 'cubist'"):
        load_image(b"", weights=ImageTransform(interpolation="cubist"))


@pytest.mark.parametrize("size", [0, -1, True, 22.5, "224", 7_072])
def test_load_image_refuses_a_size_that_is_no_size(size):
    with pytest.raises(ValueError, match=f"size must be.*1 to 7071.*size={size!r}"):
        load_image(encode(photo("odd"), "PNG"), size)


class OnlyRead:
    """A stream without seek, as a pipe or an HTTP answer is."""

    def __init__(self, data):
        self.read = lambda: data


def test_load_image_takes_paths_bytes_and_file_objects(tmp_path):
    data = encode(photo("coffee"), "JPEG")
    path = tmp_path / "coffee without suffix"
    path.write_bytes(data)
    expected = load_image(data, 64)
    with open(path, "rb") as file:
        sources = [path, str(path), bytearray(data), memoryview(data), file]
        for source in [*sources, io.BytesIO(data), OnlyRead(data)]:
            np.testing.assert_array_equal(load_image(source, 64), expected)
        assert not file.closed


@pytest.mark.parametrize(
    "shape",
    [(4, 4000), (4000, 4), (31, 2000), (1, 700), (5, 3), (40_001, 8), (8, 40_002)],
)
def test_load_image_of_extreme_proportions_is_the_same_crop(shape):
    strip = np.asarray(Image.fromarray(photo("astronaut")).resize(shape))
    image = load_image(encode(strip, "PNG"), 32)
    assert mean_difference(image, crop_of(strip, 32)) < ROUNDING
    assert np.abs(image - crop_of(strip, 32)).max() <= 2


def test_load_image_of_a_hair_is_the_crop_of_its_middle():
    # Resized as a whole it would be 256 x 1,024,000,000 pixels, and the crop would lie
    # where float32 counts in quarters of a source pixel.
    hair = np.resize(photo("china")[::9, 300, 0], (4_000_000, 1))
    middle = hair[2_000_000 - 50 : 2_000_000 + 50]
    image = load_image(encode(hair, "PNG", compress_level=1))
    assert np.abs(image - crop_of(np.dstack([middle] * 3), 224)).max() <= 1
    assert np.ptp(image) > 30


def test_preprocess_input_normalises_as_the_weights_were_trained():
    pixels = np.array([[[0, 127.5, 255]]])
    before = pixels.copy()
    x = preprocess_input(pixels, weights="imagenet")
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [[[-1, 0, 1]]], atol=1e-7)
    imagenet = ImageTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(
        preprocess_input(pixels.astype("uint8"), weights=imagenet),
        [[[-0.485 / 0.229, (127 / 255 - 0.456) / 0.224, 0.594 / 0.225]]],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(preprocess_input(pixels, weights=ImageTransform()), x)
    np.testing.assert_array_equal(pixels, before)


def test_preprocess_input_keeps_tensors_tensors():
    pixels = photo("chelsea")[:8, :6]
    transform = ImageTransform((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    expected = preprocess_input(pixels, weights=transform)
    tensor = preprocess_input(keras.ops.convert_to_tensor(pixels), weights=transform)
    assert keras.ops.is_tensor(tensor)
    assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(tensor), expected, rtol=1e-6, atol=1e-6
    )
    inputs = keras.Input((8, 6, 3))
    model = keras.Model(inputs, preprocess_input(inputs, weights=transform))
    outputs = model.predict(pixels[None].astype("float32"), verbose=0)
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-6, atol=1e-6)


def test_preprocess_input_is_what_the_preprocessing_layer_does():
    mixer = MlpMixer(8, 1, 5, 7, 16, input_shape=(48, 48, 3), classes=3)
    pixels = load_image(encode(photo("coffee"), "PNG"), 48)
    inside = mixer.get_layer("preprocessing")(pixels[None])
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(inside)[0],
        preprocess_input(pixels, weights="imagenet"),
        atol=1e-6,
    )


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 4), (8, 8, 1), ()])
def test_preprocess_input_refuses_another_channel_axis(shape):
    with pytest.raises(ValueError, match=r"on the last axis.*shape \(.*np.moveaxis"):
        preprocess_input(np.zeros(shape), weights="imagenet")


def test_preprocess_input_refuses_a_model_that_normalises_itself():
    mixer = MlpMixer(8, 1, 5, 7, 16, input_shape=(48, 48, 3), classes=3, name="mine")
    with pytest.raises(ValueError, match=r"'mine'.*normalises its own input"):
        preprocess_input(np.zeros((48, 48, 3)), weights=mixer)


def test_preprocess_input_is_no_trap_for_models_that_normalise_inside():
    pixels = photo("coffee")[None, :48, :48]
    with pytest.raises(ValueError, match=r"normalise their own input.*as they are"):
        preprocess_input(pixels)
    once = preprocess_input(pixels, weights="imagenet")
    with pytest.raises(ValueError, match=r"in \[0, 255\].*normalised already"):
        preprocess_input(once, weights="imagenet")


@pytest.mark.parametrize("classes", [21843, 11221])
def test_larger_class_lists_agree_with_the_1000(classes):
    labels = imagenet_labels(classes)
    assert len({synset for synset, _ in labels}) == classes
    names = dict(labels)
    shared = [(s, name) for s, name in imagenet_labels() if s in names]
    assert len(shared) > 980
    assert all(names[synset] == name for synset, name in shared)
    predictions = np.zeros((1, classes), "float32")
    predictions[0, 5] = 1
    assert decode_predictions(predictions, top=1) == [[(*labels[5], 1.0)]]


def test_imagenet_has_no_list_of_other_lengths():
    with pytest.raises(ValueError, match=r"1000, 21843, 11221 classes\. Received: 10"):
        imagenet_labels(10)


def test_imagenet_labels_are_those_of_keras_applications_in_order():
    labels = imagenet_labels()
    known = {0: "tench", 1: "goldfish", 207: "golden_retriever", 281: "tabby"}
    known |= {285: "Egyptian_cat", 134: "crane", 517: "crane", 999: "toilet_tissue"}
    assert {index: labels[index][1] for index in known} == known
    synsets = [synset for synset, _ in labels]
    assert (synsets[0], synsets[285], synsets[999]) == (
        "n01440764",
        "n02124075",
        "n15075141",
    )
    # ImageNet's classes are in the order of their WordNet offsets.
    assert synsets == sorted(set(synsets))
    assert len(synsets) == 1000
    names = [name for _, name in labels]
    assert {name for name in names if names.count(name) > 1} == {"crane", "maillot"}
    assert not any(" " in name or not name for name in names)


def test_decode_predictions_names_the_best_classes():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [285, 281, 282]] = 0.75, 0.125, 0.0625
    scores[1, 999] = 1
    cat, paper = decode_predictions(scores, top=3)
    assert cat == [
        ("n02124075", "Egyptian_cat", 0.75),
        ("n02123045", "tabby", 0.125),
        ("n02123159", "tiger_cat", 0.0625),
    ]
    # Equal scores in the order of the classes.
    assert [label for _, label, _ in paper] == ["toilet_tissue", "tench", "goldfish"]
    assert type(cat[0][2]) is float
    assert decode_predictions(keras.ops.convert_to_tensor(scores), top=3) == [
        cat,
        paper,
    ]
    assert [len(image) for image in decode_predictions(scores)] == [5, 5]
    assert decode_predictions(scores[:0]) == []


def test_decode_predictions_takes_bfloat16_and_logits():
    scores = keras.ops.cast(np.eye(1, 1000, 7) * 2.5 - 1, "bfloat16")
    assert decode_predictions(scores, 1) == [[("n01514668", "cock", 1.5)]]


def test_decode_predictions_names_the_classes_of_a_fine_tuned_model():
    digits = [[0.25, 0.5, 0.25]]
    names = ["zero", "one", "two"]
    assert decode_predictions(digits, class_names=names) == [
        [("one", "one", 0.5), ("zero", "zero", 0.25), ("two", "two", 0.25)]
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"predictions": np.zeros(1000)}, r"\(1000,\).*predictions\[None\]"),
        ({"predictions": np.zeros((1, 10))}, r"1000.*\(1, 10\).*class_names=\["),
        (
            {"predictions": np.zeros((1, 3)), "class_names": ["a", "b"]},
            r"one column for each name.*\(1, 3\).*2 names",
        ),
        (
            {"predictions": np.zeros((1, 3)), "class_names": "abc"},
            "a sequence of names.*'abc'.*list",
        ),
        ({"predictions": np.full((2, 1000), np.nan)}, r"NaN for image\(s\) \[0, 1\]"),
        ({"predictions": np.zeros((1, 1000)), "top": 0}, "positive integer.*top=0"),
        ({"predictions": np.zeros((1, 1000)), "top": 2.5}, "positive integer.*top=2.5"),
    ],
)
def test_decode_predictions_refuses_in_a_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        decode_predictions(**arguments)
