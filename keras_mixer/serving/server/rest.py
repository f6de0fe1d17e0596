"""TensorFlow Serving's REST API: Predict, metadata and status of one model."""

import asyncio
import re
import urllib.parse

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tensorflow_serving.apis import model_pb2

from keras_mixer.serving.server import json_format, page
from keras_mixer.serving.server.errors import Code, ServingError, invalid_argument

# tensorflow_serving/model_servers/http_server.cc, ToHTTPStatusCode.
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.NOT_FOUND: 404,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
    r"(?P<asked>|/metadata|:predict)"
)


class RestApi:
    """The ASGI application, `app`, that answers for `Versions`."""

    def __init__(self, versions, max_bytes, timeout_seconds):
        self._versions = versions
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self.app = Starlette(
            routes=[
                *page.routes(self._facts),
                Route("/v1/{path:path}", self._v1, methods=["GET", "POST"]),
            ],
            exception_handlers={
                ServingError: lambda _, error: _refusal(
                    error.message, _STATUS.get(error.code, 500)
                ),
                HTTPException: lambda _, error: _refusal(
                    error.detail, error.status_code
                ),
                # Nobody reads it.
                ClientDisconnect: lambda _, error: Response(status_code=499),
            },
        )

    def _facts(self):
        name = self._versions.name
        model = self._versions.find(model_pb2.ModelSpec(name=name))
        facts = {"name": name, "version": model.number, "card": model.card}
        return facts | {"max_body_bytes": self._max_bytes}

    async def _v1(self, request):
        # First of all, also when the path is wrong: a client hears the answer only when
        # it has sent its body.
        body = await self._body(request)
        path = request.scope["raw_path"].decode("latin-1")
        match = _PATH.fullmatch(path)
        if not match or (match["asked"] == ":predict") != (request.method == "POST"):
            sentence = f"Malformed request: {request.method} {path}"
            raise invalid_argument(f"{sentence} (only TensorFlow Serving has others)")
        spec = _spec(match)
        if match["asked"] == ":predict":
            return await self._predict(self._versions.find(spec), body)
        if not match["asked"]:
            return JSONResponse(_to_dict(self._versions.status(spec)))
        metadata = _to_dict(self._versions.metadata(spec))
        del metadata["metadata"]["signature_def"]["@type"]
        return JSONResponse(metadata)

    async def _body(self, request):
        body, size = bytearray(), 0
        async for chunk in request.stream():
            size += len(chunk)
            # What is too much is thrown away, not refused at once: a client that is
            # still sending would see a broken connection instead of the answer.
            if size <= self._max_bytes:
                body += chunk
            else:
                body.clear()
        if size > self._max_bytes:
            sentence = f"The body must be at most {self._max_bytes} bytes. Received: "
            raise HTTPException(413, f"{sentence}{size} bytes. Send fewer images.")
        return body

    async def _predict(self, model, body):
        def read():
            document = json_format.parse_object(body)
            signature = model.signature(document.get("signature_name"))
            name, dtype = signature.input_name, signature.spec.dtype
            return signature, *json_format.read_input(document, name, dtype)

        # In a thread: parsing megabytes of JSON would hold up the other requests.
        signature, rows, by_row = await asyncio.to_thread(read)
        outputs = await signature.predict(rows, self._timeout_seconds)
        answer = await asyncio.to_thread(json_format.write_outputs, outputs, by_row)
        return Response(answer, media_type="application/json")


def _spec(match):
    """Return the `ModelSpec` of a path."""
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"]))
    spec.version_label = urllib.parse.unquote(match["label"] or "")
    if match["version"]:
        try:
            spec.version.value = int(match["version"])
        except ValueError as error:
            raise invalid_argument("A version is a number of 63 bits.") from error
    return spec


def _to_dict(message):
    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def _refusal(sentence, status):
    return JSONResponse({"error": sentence}, status)
