"""Requests that are wrong in all the ways a client can be wrong, and what they get."""

import base64
import dataclasses
import json
import re

import requests


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to be wrong.

    Attributes:
        name: What is wrong.
        status: Status over HTTP that it gets.
        path: What stands after the model's URL.
        body: Function from an image's bytes to the body.
    """

    name: str
    status: int
    body: object
    path: str = ":predict"


def _instances(*images, **members):
    instances = [{"b64": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"instances": instances, **members})


def _url_safe(image):
    # Bytes whose code has both characters in which the two alphabets differ.
    text = base64.urlsafe_b64encode(b"\xfb\xef\xbe\xff\xff\xff" + image).decode()
    return json.dumps({"instances": [{"b64": text}]})


KINDS = (
    Kind("empty body", 400, lambda image: ""),
    Kind("JSON cut off", 400, lambda image: _instances(image)[:-2]),
    Kind("JSON that is no object", 400, lambda image: "[1, 2]"),
    Kind("no instances", 400, lambda image: '{"images": []}'),
    Kind("empty batch", 400, lambda image: '{"instances": []}'),
    Kind("wrong base64", 400, lambda image: '{"instances": [{"b64": "a*c="}]}'),
    Kind("URL-safe base64", 400, _url_safe),
    Kind("numbers for bytes", 400, lambda image: '{"instances": [1, 2]}'),
    Kind(
        "images of the wrong shape",
        400,
        lambda image: '{"signature_name": "images", "instances": [[[1, 2], [3, 4]]]}',
    ),
    Kind(
        "strings for pixels",
        400,
        lambda image: '{"signature_name": "images", "instances": ["a"]}',
    ),
    Kind(
        "unknown signature", 400, lambda image: _instances(image, signature_name="nope")
    ),
    Kind("unknown version", 404, _instances, "/versions/999999:predict"),
    Kind("unknown label", 400, _instances, "/labels/nope:predict"),
    Kind("unknown method", 400, _instances, ":explain"),
    Kind("10,000 images", 400, lambda image: _instances(*[b"x"] * 10_000)),
)

# What the server is asked to read as an image, is not one, and is answered so.
NOT_IMAGES = (b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8")


class Sender:
    """Send broken requests over one connection.

    Args:
        url: The model on the server, `http://HOST:PORT/v1/models/NAME`.
        image: Bytes of an image that the server can read.
    """

    def __init__(self, url, image):
        self._url = re.sub("/(versions|labels)/[^/]+$", "", url or "")
        self._image = image
        self._session = requests.Session()

    def send(self, kind):
        """Send a request of a `Kind`.

        Returns:
            What is wrong with the answer, in words; `None` if nothing is.
        """
        try:
            response = self._session.post(
                f"{self._url}{kind.path}", data=kind.body(self._image), timeout=60
            )
            error = response.json()["error"]
        except (requests.RequestException, ValueError, KeyError, TypeError) as problem:
            return f"{kind.name}: no status and sentence, but {type(problem).__name__}"
        if response.status_code != kind.status or not error:
            return f"{kind.name}: {response.status_code} {error}"
        return None
