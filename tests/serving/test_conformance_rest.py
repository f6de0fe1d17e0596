"""Conformance to TensorFlow Serving's REST API; see `conformance_servers`."""

import concurrent.futures
import io

import broken_requests
import numpy as np
import pytest
import requests
import serving_support
from conformance_servers import OUTPUTS, assert_same, newest_version
from PIL import Image
from serving_support import b64

pytestmark = pytest.mark.serving


def test_rest_status(server):
    response = requests.get(server.model_url, timeout=60)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    available = [
        status
        for status in response.json()["model_version_status"]
        if status["state"] == "AVAILABLE"
    ]
    assert available[0]["status"] == {"error_code": "OK", "error_message": ""}
    assert isinstance(available[0]["version"], str)


@pytest.mark.parametrize(
    "path, status",
    [
        ("{model}/versions/{version}", 200),
        ("{model}/versions/999999", 404),
        ("{model}/metadata", 200),
        ("{model}/versions/{version}/metadata", 200),
        ("{model}/versions/999999/metadata", 404),
        ("nope", 404),
        ("nope/metadata", 404),
        ("{model}:predict", 400),
        ("{model}/versions/x", 400),
        ("{model}/versions/99999999999999999999", 400),
    ],
)
def test_rest_get_status_codes(server, path, status):
    path = path.format(model=server.model, version=newest_version(server))
    response = requests.get(f"{server.url}/v1/models/{path}", timeout=60)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["error"]


def test_rest_metadata(server):
    document = requests.get(f"{server.model_url}/metadata", timeout=60).json()
    assert document["model_spec"]["name"] == server.model
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() >= {"serving_default", "images", "classify"}
    default = signatures["serving_default"]
    assert default["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    dimensions = default["inputs"]["image_bytes"]["tensor_shape"]["dim"]
    assert [dimension["size"] for dimension in dimensions] == ["-1"]
    assert default["outputs"].keys() == OUTPUTS
    assert signatures["classify"]["outputs"].keys() == {"classes", "scores"}
    assert signatures["classify"]["method_name"] == "tensorflow/serving/classify"


def test_rest_predict_by_row(server, files, answers):
    rows = server.ask(*files.values())
    for row, expected in zip(rows, answers, strict=True):
        assert row.keys() == OUTPUTS
        assert row["valid"] is True
        assert row["top_k_scores"] == sorted(row["top_k_scores"], reverse=True)
        assert 0 < sum(row["top_k_scores"]) <= 1.0001
        assert_same(row, expected)
    # The photographs are told apart.
    assert len({row["top_k_scores"][0] for row in rows}) == len(files)


def test_rest_predict_by_named_row(server, files, answers):
    instances = [{"image_bytes": b64(file)} for file in files.values()]
    response = server.predict({"instances": instances})
    assert response.status_code == 200, response.text
    for row, expected in zip(response.json()["predictions"], answers, strict=True):
        assert_same(row, expected)


@pytest.mark.parametrize("named", [True, False])
def test_rest_predict_by_column(server, files, answers, named):
    inputs = [b64(file) for file in files.values()]
    inputs = {"image_bytes": inputs} if named else inputs
    response = server.predict({"inputs": inputs})
    assert response.status_code == 200, response.text
    columns = response.json()["outputs"]
    assert columns.keys() == OUTPUTS
    for i, expected in enumerate(answers):
        assert_same({name: column[i] for name, column in columns.items()}, expected)


def test_rest_predict_of_a_version(server, files, answers):
    document = {"instances": [b64(next(iter(files.values())))]}
    path = f"/versions/{newest_version(server)}:predict"
    response = server.predict(document, path)
    assert_same(response.json()["predictions"][0], answers[0])


def test_rest_predict_of_pixels(server):
    metadata = requests.get(f"{server.model_url}/metadata", timeout=60).json()
    signature = metadata["metadata"]["signature_def"]["signature_def"]["images"]
    dimensions = signature["inputs"]["images"]["tensor_shape"]["dim"]
    side = int(dimensions[1]["size"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).tolist()
    document = {"signature_name": "images", "instances": pixels}
    rows = server.predict(document).json()["predictions"]
    for row in rows:
        assert row.keys() == OUTPUTS - {"valid"} | {"probabilities"}
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
        best = int(np.argmax(row["probabilities"]))
        assert row["top_k_indices"][0] == best
        assert row["top_k_scores"][0] == row["probabilities"][best]


@pytest.mark.parametrize("kind", broken_requests.KINDS, ids=lambda kind: kind.name)
def test_rest_refuses_with_a_status_and_a_sentence(server, files, answers, kind):
    sender = broken_requests.Sender(server.model_url, files["cat"])
    assert sender.send(kind) is None
    assert_same(server.ask(next(iter(files.values())))[0], answers[0])


def bad_images(photos):
    jpeg = serving_support.encoded(photos["cat"])
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    return [
        *broken_requests.NOT_IMAGES,
        jpeg[: len(jpeg) // 2],
        serving_support.encoded(photos["cat"], "TIFF"),
        bomb.getvalue(),
    ]


def test_rest_answers_good_images_among_bad_ones(server, photos, files, answers):
    bad = bad_images(photos)
    mixed = [*files.values(), *bad]
    order = np.random.default_rng(0).permutation(len(mixed))
    rows = server.ask(*(mixed[i] for i in order))
    for i, row in zip(order, rows, strict=True):
        if i < len(files):
            assert_same(row, answers[i])
        else:
            assert row["valid"] is False
            assert not any(row["top_k_scores"] + row["top_k_indices"])
            assert not any(row["top_k_labels"])


def test_rest_answers_each_client_its_own(server, files, answers):
    """Requests that are batched together are told apart again."""
    contents = list(files.values())

    def ask(i):
        count = i % 3 + 1
        chosen = [(i + j) % len(contents) for j in range(count)]
        rows = server.ask(*(contents[j] for j in chosen))
        for j, row in zip(chosen, rows, strict=True):
            assert_same(row, answers[j])
        return len(rows)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(96))) == 192
