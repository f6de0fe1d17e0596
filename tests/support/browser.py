"""A page in a browser, driven as a user does it: chromium, headless."""

import base64
import contextlib
import io
import json
import shutil

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from serving_support import wait_for

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="chromium and chromedriver are not on the PATH (CONTRIBUTING.md).",
)

FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-sync "
    "disable-background-networking disable-component-update hide-scrollbars "
    # Containers give little of that memory.
    "disable-dev-shm-usage"
)

READ_ITEMS = """
return [...document.querySelectorAll("#items > li")].map(item => ({
  name: item.querySelector("h2").innerText,
  note: item.querySelector(".note").innerText,
  text: item.innerText,
  guesses: [...item.querySelectorAll(".bars li")].map(row => [
    row.querySelector(".label").innerText,
    parseFloat(row.querySelector(".score").innerText),
    parseFloat(row.querySelector(".bar").style.width),
  ]),
}));
"""

READ_CROP = """
const canvas = document.querySelector("#items .seen");
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return [canvas.width, Array.from(data)];
"""

# Hand the page a file as the browser would: `kind` is drop or paste.
HAND_OVER = """
const [kind, name, type, base64] = arguments, transfer = new DataTransfer();
if (name) {
  const content = Uint8Array.from(atob(base64), byte => byte.charCodeAt(0));
  transfer.items.add(new File([content], name, {type}));
}
const event = kind === "drop"
  ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true})
  : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true});
document.querySelector("main").dispatchEvent(event);
"""

# The contrast of each piece of text with what is behind it, by WCAG 2.
LOW_CONTRASTS = """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(value => value / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
const behind = node => {
  const colour = node ? getComputedStyle(node).backgroundColor : "rgb(255, 255, 255)";
  return numbers(colour)[3] === 0 ? behind(node.parentElement) : colour;
};
return [...document.querySelectorAll("body *")]
  .filter(node => node.checkVisibility() && [...node.childNodes].some(
    child => child.nodeType === Node.TEXT_NODE && child.data.trim()))
  .map(node => {
    const levels = [getComputedStyle(node).color, behind(node)].map(light);
    const [dark, bright] = levels.sort((a, b) => a - b);
    return [(bright + 0.05) / (dark + 0.05), node.innerText];
  }).filter(([contrast]) => contrast < 4.5);
"""


class Page:
    def __init__(self, chrome, server):
        self.chrome, self.server = chrome, server
        self.run = chrome.execute_script

    def find(self, selector):
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def choose(self, *paths):
        """Choose files, and return the items of the page once it has looked at all."""
        count = len(self.run(READ_ITEMS)) + len(paths)
        self.find("#files").send_keys("\n".join(map(str, paths)))
        return self.items(count)

    def hand_over(self, kind, name=None, content=b"", media_type="image/png"):
        count = len(self.run(READ_ITEMS)) + (name is not None)
        content = base64.b64encode(content).decode()
        self.run(HAND_OVER, kind, name, media_type, content)
        return self.items(count)

    def items(self, count):
        wait_for(lambda: "…" not in self.text("#status") and self._are_ready(count))
        return self.run(READ_ITEMS)

    def _are_ready(self, count):
        items = self.run(READ_ITEMS)
        return len(items) == count and not any("…" in item["note"] for item in items)

    def text(self, selector):
        return self.find(selector).text

    def press(self, *keys):
        ActionChains(self.chrome).send_keys(*keys).perform()

    def emulate(self, **features):
        features = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in features.items()
        ]
        self.command("Emulation.setEmulatedMedia", features=features)

    def resize(self, width, height, scale=1):
        self.command(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": scale},
            mobile=width < 500,
        )

    def command(self, name, **arguments):
        return self.chrome.execute_cdp_cmd(name, arguments)

    def events(self):
        """Return what the browser did since the last call: (method, parameters)."""
        logged = [json.loads(e["message"]) for e in self.chrome.get_log("performance")]
        return [(e["message"]["method"], e["message"]["params"]) for e in logged]

    def console(self):
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def screenshot(self):
        answer = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(answer["data"])))


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@contextlib.contextmanager
def opened(chrome, server):
    """Open the page of a server; at the end nothing was wrong, or asked elsewhere."""
    page = Page(chrome, server)
    page.events(), page.console()
    page.resize(1000, 900)
    page.emulate()
    chrome.get(server.url)
    # On a busy machine the document may not be there yet.
    wait_for(
        lambda: any(
            "version" in found.text
            for found in chrome.find_elements(By.CSS_SELECTOR, "#about")
        )
    )
    yield page
    asked = [p["request"]["url"] for m, p in page.events() if m.endswith("WillBeSent")]
    assert f"{server.url}/page.json" in asked
    hosts = {url for url in asked if not url.startswith((server.url + "/", "data:"))}
    assert not hosts
    assert page.console() == []
