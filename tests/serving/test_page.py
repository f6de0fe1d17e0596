"""The server's page in a browser."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import psutil
import pytest
import requests
import skimage.data
from browser import LOW_CONTRASTS, READ_CROP, chrome, needs_chromium, opened
from conformance_servers import newest_version
from image_rack import KINDS, STORED, encode
from PIL import Image
from program import keras_mixer_main
from selenium.webdriver import Keys
from serving_support import encoded, random_model, running_server, wait_for

import keras_mixer
from keras_mixer.catalog import ImageTransform
from keras_mixer.images.decode import MAX_PIXELS

__all__ = ["chrome"]
pytestmark = [pytest.mark.slow, needs_chromium]

TIMES = "\N{MULTIPLICATION SIGN}"
MODEL = ("--model=MlpMixerNano4", "--weights=cifar10")


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    directory = tmp_path_factory.mktemp("nano")
    model = keras_mixer.MlpMixerNano4(weights="cifar10")
    keras_mixer.export_saved_model(model, directory / "mixer", labels="cifar10")
    with running_server(directory, directory / "mixer") as server:
        yield server


@pytest.fixture
def page(chrome, nano):
    with opened(chrome, nano) as page:
        yield page


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """Photographs as a user has them, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    exif = Image.Exif()
    exif[274] = 6
    lying = Image.fromarray(
        np.ascontiguousarray(STORED[6](np.asarray(photos["china"])))
    )
    kinds = {
        "it's a cat.jpg": encoded(photos["cat"]),
        "phone.jpg": encoded(lying, exif=exif),
        "rocket.png": encoded(photos["rocket"], "PNG"),
        "moving.gif": KINDS["animated_gif"][0],
        "moving.webp": KINDS["animated_webp"][0],
        "scan.tif": KINDS["tiff_pages"][0],
        "cut off.jpg": encoded(photos["cat"])[:5000],
        "notes.txt": b"No picture.",
        "empty.png": b"",
    }
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def predicted(folder):
    """What `keras-mixer predict` says: label to percentage, for each good file."""
    names = ["it's a cat.jpg", "phone.jpg", "rocket.png", "moving.gif"]
    paths = [folder / name for name in names]
    result = keras_mixer_main("predict", *paths, *MODEL, "--top_k=10", "--json")
    assert result.returncode == 0, result.stderr
    return {
        pathlib.Path(answer["image"]).name: {
            guess["label"]: 100 * guess["score"] for guess in answer["predictions"]
        }
        for answer in json.loads(result.stdout)
    }


def assert_labelled(item, scores):
    assert item["note"] == ""
    assert item["guesses"][0][0] == max(scores, key=scores.get)
    assert len(item["guesses"]) == 5
    for label, shown, width in item["guesses"]:
        assert abs(shown - scores[label]) < 0.5
        assert abs(width - shown) < 0.06


def test_chosen_pictures_are_labelled_as_predict_labels_them(page, folder, predicted):
    assert page.text("h1") == page.chrome.title == "mixer"
    assert page.text("#about") == (
        f"MlpMixerNano4 · version 1 · 10 classes · sees 32 {TIMES} 32 pixels"
    )
    assert f"and {MAX_PIXELS / 1e6:g} megapixels" in page.text("#takes")
    items = page.choose(*(folder / name for name in predicted))
    assert [item["name"] for item in items] == list(predicted)
    for item in items:
        assert_labelled(item, predicted[item["name"]])
        assert re.search(r"\d+ ms · \d+ kB · version 1", item["text"])
    assert page.text("#status") == "4 files: 4 labelled, 0 not."


def test_it_may_run_what_it_holds_and_ask_its_server_alone(nano):
    headers = requests.get(nano.url).headers
    policy = dict(
        rule.strip().split(" ", 1)
        for rule in headers["Content-Security-Policy"].split(";")
    )
    assert policy.pop("script-src").startswith("'sha256-")
    assert policy.pop("style-src").startswith("'sha256-")
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "data:"
    assert set(policy.values()) == {"'none'"} and "default-src" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_dropped_and_pasted_pictures_are_labelled(page, folder, predicted):
    name = "<img src=x onerror=alert(1)>.png"
    items = page.hand_over("drop", name, (folder / "rocket.png").read_bytes())
    assert items[0]["name"] == name
    assert_labelled(items[0], predicted["rocket.png"])
    cat = (folder / "it's a cat.jpg").read_bytes()
    items = page.hand_over("paste", "image.jpg", cat, "image/jpeg")
    assert [item["name"] for item in items] == ["image.jpg", name]
    assert_labelled(items[0], predicted["it's a cat.jpg"])
    assert re.fullmatch(r"image.jpg: cat\s+\d+\.\d %", page.text("#status"))
    assert len(page.hand_over("paste")) == len(page.hand_over("drop")) == 2
    assert "is not a file" in page.text("#status")


def test_what_is_broken_is_said_to_be_beside_the_others(page, folder, predicted):
    names = ["rocket.png", "cut off.jpg", "it's a cat.jpg", "notes.txt", "scan.tif"]
    names += ["moving.webp", "empty.png"]
    items = {item["name"]: item for item in page.choose(*(folder / n for n in names))}
    for name in ("rocket.png", "it's a cat.jpg"):
        assert_labelled(items[name], predicted[name])
    assert "cut off" in items["cut off.jpg"]["note"]
    for name in ("notes.txt", "scan.tif"):
        assert items[name]["note"] == "It is not a JPEG, PNG, GIF, BMP or WebP picture."
    assert "an animated WebP" in items["moving.webp"]["note"]
    assert items["empty.png"]["note"] == "It is empty, or was moved meanwhile."
    assert page.text("#status") == "7 files: 2 labelled, 5 not."
    # To ask for these again would not help.
    assert not any("Try again" in item["text"] for item in items.values())


@pytest.mark.parametrize("name", ["it's a cat.jpg", "phone.jpg", "moving.gif"])
def test_the_crop_is_load_images(page, folder, name):
    page.choose(folder / name)
    size, pixels = page.run(READ_CROP)
    shown = np.array(pixels).reshape(size, size, 4)
    # One pixel of the model is an even square on the screen.
    assert page.find(".seen").value_of_css_property("image-rendering") == "pixelated"
    transform = ImageTransform(crop_ratio=1.0)
    expected = keras_mixer.load_image(folder / name, 32, weights=transform)
    assert np.abs(shown[..., :3] - expected).mean() < 0.5
    assert shown[..., 3].min() == 255


def test_the_curl_line_gives_the_same_answer(page, folder):
    (item,) = page.choose(folder / "it's a cat.jpg")
    line = page.find("code").get_attribute("textContent")
    result = subprocess.run(
        ["sh", "-c", line], cwd=folder, capture_output=True, text=True
    )
    (answer,) = json.loads(result.stdout)["predictions"]
    assert answer["top_k_labels"] == [label for label, *_ in item["guesses"]]
    for score, (_, shown, _) in zip(
        answer["top_k_scores"], item["guesses"], strict=True
    ):
        assert abs(100 * score - shown) <= 0.0501


def test_all_of_it_can_be_done_by_keyboard(page, folder):
    def focused():
        node = page.chrome.switch_to.active_element
        name = node.get_attribute("id") or node.text
        shown = page.find("#files + label") if name == "files" else node
        assert shown.value_of_css_property("outline-style") == "solid"
        assert shown.value_of_css_property("outline-width") == "3px"
        return name

    page.command("Page.setInterceptFileChooserDialog", enabled=True)
    page.press(Keys.TAB)
    for key in (Keys.ENTER, Keys.SPACE):
        assert focused() == "files"
        page.events()
        page.press(key)
        opened = wait_for(
            lambda: [p for m, p in page.events() if m == "Page.fileChooserOpened"]
        )
        assert opened[0]["mode"] == "selectMultiple"
    page.command("Page.setInterceptFileChooserDialog", enabled=False)
    page.choose(folder / "rocket.png")
    page.press(Keys.TAB)
    assert focused() == "The same with curl"
    page.press(Keys.ENTER, Keys.TAB)
    assert focused() == "Copy"
    assert "curl -d @- " in page.text("code")
    page.command("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    page.press(Keys.SPACE)
    wait_for(lambda: page.text("#status") == "The command is copied.")
    copied = page.chrome.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0])"
    )
    assert copied == page.text("code")
    # The page asked for the chooser, which the browser keeps to itself.
    page.chrome.get(page.server.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(page, folder, scheme):
    page.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.choose(folder / "it's a cat.jpg", folder / "cut off.jpg")
    page.find("summary").click()
    backgrounds = {"light": "rgb(252, 251, 248)", "dark": "rgb(23, 22, 20)"}
    body = page.run("return getComputedStyle(document.body).backgroundColor")
    assert body == backgrounds[scheme]
    assert page.run(LOW_CONTRASTS) == []
    bar = page.find(".bar")
    assert bar.value_of_css_property("animation-name") == "none"
    page.emulate(prefers_color_scheme=scheme)
    assert bar.value_of_css_property("animation-name") == "grow"


def test_a_screen_reader_finds_names_for_all_of_it(page, folder):
    page.choose(folder / "it's a cat.jpg")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    assert all(name for role, name in named if role in ("image", "button", "heading"))
    assert ("image", "The picture it's a cat.jpg") in named
    crop = f"The part of it's a cat.jpg that the model sees, 32 {TIMES} 32 pixels"
    assert ("image", crop) in named
    assert any("Choose pictures" in name for _, name in named)
    assert ("list", "Best classes") in named
    assert "status" in [role for role, _ in named]


def test_it_fits_a_phone(page, folder, tmp_path):
    page.resize(360, 740)
    long = tmp_path / f"{'a_long_name_without_spaces' * 6}.jpg"
    shutil.copy(folder / "phone.jpg", long)
    page.choose(long, folder / "notes.txt")
    page.find("summary").click()
    width = "return document.documentElement.scrollWidth"
    assert page.run(width) == 360


LABELS = ["<script>document.title = 'run'</script>", "Löwe_or_" * 20]


def test_two_classes_then_a_thousand_then_no_server(chrome, folder, tmp_path):
    """A small server lets a user down in every way, and the page says so each time."""
    models = tmp_path / "a model"
    keras_mixer.export_saved_model(
        random_model(classes=2), models, labels=LABELS, batch_sizes=[1]
    )
    flags = [models, "--model_name=a model", "--max_body_bytes=100000"]
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), "uint8")
    large.write_bytes(encode(noise, "PNG"))
    picture = folder / "it's a cat.jpg"
    with running_server(tmp_path, *flags) as server:
        server = dataclasses.replace(server, model="a%20model")
        with opened(chrome, server) as page:
            page.resize(360, 740)
            (item,) = page.choose(picture)
            assert sorted(label for label, *_ in item["guesses"]) == sorted(LABELS)
            assert page.chrome.title == "a model"
            assert page.run("return document.documentElement.scrollWidth") == 360
            # Too large is said before anything is sent, and by the server if it is.
            page.events()
            item = page.choose(large)[0]
            assert item["note"] == (
                f"It has {-(-large.stat().st_size // 1000)} kB, and was not sent: the "
                "server takes up to 75 kB."
            )
            sent = [p["request"] for m, p in page.events() if m.endswith("WillBeSent")]
            assert [request["method"] for request in sent] == ["GET"]
            page.run("Math.floor = () => 1e6")
            page.find("#files").send_keys(str(large))
            note = page.items(3)[0]["note"]
            assert note.startswith("The server says: The body must be at most 100000")
            assert [m for m in page.console() if " 413 " not in m] == []
        with opened(chrome, server) as page:
            page.choose(picture)
            larger = random_model(classes=1000, size=48)
            keras_mixer.export_saved_model(larger, models, batch_sizes=[1])
            wait_for(lambda: newest_version(server) == 2)
            item = page.choose(picture)[0]
            assert "version 2" in item["text"] and len(item["guesses"]) == 5
            assert page.run(READ_CROP)[0] == 48
            assert f"1,000 classes · sees 48 {TIMES} 48" in page.text("#about")
            server.process.terminate()
            server.process.wait(60)
            host = server.url.removeprefix("http://")
            item = page.choose(picture)[0]
            assert item["note"] == f"{host} does not answer: has the server stopped?"
            assert all("ERR_CONNECTION_REFUSED" in m for m in page.console())
            port = host.rpartition(":")[2]
            with running_server(tmp_path, *flags, f"--port={port}"):
                page.find(".again").click()
                item = page.items(3)[0]
                assert item["note"] == "" and len(item["guesses"]) == 5


CONNECT_AHEAD = """
const link = document.createElement("link");
link.rel = "preconnect";
link.href = location.origin;
document.head.append(link);
"""


def clients(server):
    connections = psutil.Process(server.process.pid).net_connections()
    return {x.raddr.port for x in connections if x.status == psutil.CONN_ESTABLISHED}


def test_it_answers_after_a_pause(chrome, folder, tmp_path):
    """The server leaves a browser that connects ahead of time and does not ask."""
    models = tmp_path / "mixer"
    keras_mixer.export_saved_model(random_model(), models, batch_sizes=[1])
    flags = [models, "--timeout_seconds=10"]
    with running_server(tmp_path, *flags) as server, opened(chrome, server) as page:
        wait_for(lambda: not clients(server))
        page.run(CONNECT_AHEAD)
        wait_for(lambda: clients(server))
        wait_for(lambda: not clients(server))
        (item,) = page.choose(folder / "rocket.png")
        assert item["note"] == "" and len(item["guesses"]) == 5


def test_a_picture_of_it(request, page, tmp_path):
    """And the README's, if `--screenshot=export/page.png` asks for it."""
    for name in ("chelsea", "rocket"):
        photograph = Image.fromarray(getattr(skimage.data, name)())
        (tmp_path / f"{name}.jpg").write_bytes(encoded(photograph))
    cut_off = (tmp_path / "rocket.jpg").read_bytes()[:9999]
    (tmp_path / "holiday.jpg").write_bytes(cut_off)
    page.resize(960, 600, scale=1.5)
    names = ["chelsea.jpg", "rocket.jpg", "holiday.jpg"]
    cat, rocket, holiday = page.choose(*(tmp_path / name for name in names))
    # docs/export.md says what it makes of each.
    assert [seen["guesses"][0][0] for seen in (cat, rocket)] == ["cat", "ship"]
    assert rocket["guesses"][0][1] > 80 and "broken" in holiday["note"]
    page.find("summary").click()
    image = page.screenshot()
    assert image.width == 1440
    if path := request.config.getoption("--screenshot"):
        image.convert("RGB").quantize(256).save(path, optimize=True)
