"""The catalogue, walked end to end against files of the true names and formats."""

import dataclasses
import urllib.parse

import keras
import numpy as np
import pytest
from file_server import Served, serving
from test_porting import google_arrays

import keras_mixer
from keras_mixer import catalog, weights
from keras_mixer.models import Variant, mixer
from keras_mixer.weights import cache, download, formats, names

PUBLISHED = [entry for entry in catalog.list_weights() if entry.url]
SUFFIX = {"pdparams": ".pdparams", "npz": ".npz", "safetensors": ".safetensors"}


def url_path(entry):
    return urllib.parse.urlsplit(entry.url).path


def published_file(entry, folder, seed=0):
    """The bytes of a file as its publisher writes it, for the sizes in VARIANTS."""
    sizes = dataclasses.astuple(mixer.VARIANTS[entry.model])
    arrays = google_arrays(sizes, entry.classes, seed)
    path = folder / f"published{SUFFIX[entry.format]}"
    if entry.format == "npz":
        np.savez(path, **arrays)
    else:
        layout = names.LAYOUTS[names.LAYOUT_OF_FORMAT[entry.format]]
        google = {theirs: ours for ours, theirs in names.pairs(sizes[1], 2)}
        to = dict(names.pairs(sizes[1], layout.column))
        renamed = {}
        for name, array in arrays.items():
            ours = google[name]
            axes = layout.axes(ours)
            if axes is not None:
                array = np.ascontiguousarray(array.transpose(np.argsort(axes)))
            prefix = "head.fc_cls." if entry.format == "pdparams" else "head."
            renamed[to[ours].replace("head.", prefix)] = array
        formats.write_checkpoint(path, renamed)
    return path.read_bytes()


@pytest.fixture
def small(monkeypatch):
    """Stand-ins: every variant at a fraction of its width and depth."""
    for name, v in mixer.VARIANTS.items():
        stand_in = Variant(10, 2, 5, 7, v.image_size // 4, v.image_size)
        monkeypatch.setitem(mixer.VARIANTS, name, stand_in)


@pytest.fixture
def mirror(monkeypatch, home):
    monkeypatch.setattr(download, "RETRY_DELAYS_S", (0.01,))
    with serving({}) as server:
        monkeypatch.setenv("KERAS_MIXER_WEIGHTS_URL", server.url)
        yield server


def test_catalogue_has_every_published_file():
    rows = {(e.model.removeprefix("MlpMixer"), e.tag) for e in catalog.list_weights()}
    assert rows == {
        *[(m, "imagenet") for m in ("B16", "L16")],
        *[(m, "imagenet_google") for m in ("B16", "L16")],
        *[(m, "imagenet21k") for m in ("B16", "L16")],
        *[(m, "imagenet_sam") for m in ("B16", "B32")],
        *[(m, "imagenet_gsam") for m in ("S8", "S16", "S32", "B16", "B32")],
        ("B16", "imagenet_miil"),
        ("B16", "imagenet21k_miil"),
        *[(m, "imagenet_timm") for m in ("B16", "L16")],
        *[(m, "imagenet21k_timm") for m in ("B16", "L16")],
        ("Nano4", "cifar10"),
    }
    assert len({e.url for e in catalog.list_weights()}) == len(rows)


def test_cache_names_do_not_collide():
    assert len(PUBLISHED) == len(catalog.list_weights()) - 1
    paths = {cache.cached_path(entry) for entry in catalog.list_weights()}
    assert len(paths) == len(catalog.list_weights())


def test_a_tag_means_one_transform():
    for entry in catalog.list_weights():
        assert catalog.transform_of(entry.tag) == entry.transform
    with pytest.raises(ValueError, match=r"one of imagenet, .*'imagenet22k'"):
        catalog.transform_of("imagenet22k")
    with pytest.raises(ValueError, match=r"MlpMixerB16.*'MlpMixerH14'"):
        catalog.list_weights("MlpMixerH14")


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda e: f"{e.model}-{e.tag}")
def test_entry_is_fetched_ported_and_cached(entry, small, mirror, tmp_path):
    mirror.files[url_path(entry)] = Served(published_file(entry, tmp_path))
    path = weights.fetch(entry)
    source = weights.open_weights(entry.tag, entry.model)
    assert source.origin == str(path)
    assert source.classes == entry.classes
    assert source.transform == entry.transform
    assert source.approximate_gelu == entry.approximate_gelu
    arrays = google_arrays(
        dataclasses.astuple(mixer.VARIANTS[entry.model]), entry.classes
    )
    google = dict(names.pairs(2, 2))
    assert set(source.tensors) == set(google)
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(tensor.read(), arrays[google[name]])
    assert len(mirror.requests) == 1


def test_packaged_weights_need_no_network(monkeypatch, home):
    monkeypatch.setattr(cache, "download", None)
    entry = catalog.ENTRIES["MlpMixerNano4", "cifar10"]
    source = weights.open_weights("cifar10", "MlpMixerNano4")
    assert source.classes == entry.classes == 10
    assert source.transform == entry.transform
    assert source.approximate_gelu == entry.approximate_gelu
    assert weights.fetch(entry).is_file()
    assert not home.exists()


def test_predictions_are_named_by_the_weights(home):
    scores = np.eye(10, dtype="float32")[[3, 8]]
    named = keras_mixer.decode_predictions(scores, top=1, weights="cifar10")
    assert named == [[("cat", "cat", 1.0)], [("ship", "ship", 1.0)]]
    with pytest.raises(ValueError, match=r"classes of 'imagenet'.*\(2, 10\).*1000"):
        keras_mixer.decode_predictions(scores, weights="imagenet")
    with pytest.raises(ValueError, match="exclude each other"):
        keras_mixer.decode_predictions(scores, weights="cifar10", class_names=["a"])


@pytest.mark.slow
def test_b16_from_the_published_name_to_predictions(mirror, home, tmp_path, capsys):
    entry = catalog.ENTRIES["MlpMixerB16", "imagenet"]
    mirror.files[url_path(entry)] = Served(published_file(entry, tmp_path))
    image = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3))
    model = keras_mixer.MlpMixerB16(weights="imagenet")
    expected = np.asarray(model(image))
    assert expected.std() > 1e-4
    mirror.files.clear()  # the second call asks for nothing
    again = keras_mixer.MlpMixerB16(weights="imagenet", classes=5)
    assert "has 1000 classes, MlpMixerB16 5: loaded the backbone" in (
        capsys.readouterr().err
    )
    features = keras_mixer.MlpMixerB16(
        weights="imagenet", include_top=False, pooling="avg"
    )
    np.testing.assert_array_equal(
        features(image), keras.Model(again.input, again.get_layer("pool").output)(image)
    )
    assert keras_mixer.decode_predictions(expected, top=1)[0][0][2] > 1e-3


def test_second_publisher_serves_when_the_first_fails(small, mirror, tmp_path, capsys):
    second = catalog.ENTRIES["MlpMixerB16", "imagenet_timm"]
    mirror.files[url_path(second)] = Served(published_file(second, tmp_path))
    source = weights.open_weights("imagenet", "MlpMixerB16")
    assert source.origin.endswith("MlpMixerB16-imagenet_timm.safetensors")
    assert "Trying 'imagenet_timm', the same weights." in capsys.readouterr().err
    asked = len(mirror.requests)
    again = weights.open_weights("imagenet", "MlpMixerB16")
    assert again.origin == source.origin
    assert len(mirror.requests) == asked


def test_both_publishers_failing_names_both(small, mirror):
    with pytest.raises(download.DownloadError) as error:
        weights.open_weights("imagenet", "MlpMixerL16")
    assert "mlp-mixer_l16_224.pdparams" in str(error.value)
    assert "mixer_l16_224.goog_in21k_ft_in1k" in str(error.value)
    # What to do about it is said once, and where the first file goes.
    assert str(error.value).count("KERAS_MIXER_WEIGHTS_URL") == 1
    assert "MlpMixerL16-imagenet.pdparams" in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>Please log in</html>", "web page"),
        (b"", "empty"),
        (b"\x80\x04cos\nsystem\n", "os"),
    ],
    ids=["html", "empty", "hostile"],
)
def test_wrong_file_is_refused_and_the_cache_unspoiled(
    small, mirror, home, tmp_path, content, words
):
    entry = catalog.ENTRIES["MlpMixerB32", "imagenet_sam"]
    mirror.files[url_path(entry)] = Served(content)
    with pytest.raises(ValueError, match=words):
        weights.open_weights("imagenet_sam", "MlpMixerB32")
    left = {path.suffix for path in (home / "models/keras_mixer").iterdir()}
    assert left <= {".lock"}
    mirror.files[url_path(entry)] = Served(published_file(entry, tmp_path))
    assert weights.open_weights("imagenet_sam", "MlpMixerB32").classes == 1000
