"""TensorFlow Serving's REST API: Predict, metadata and status of one model."""

import asyncio
import re
import urllib.parse

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tensorflow_serving.apis import model_pb2

from keras_mixer.serving.server import page
from keras_mixer.serving.server.errors import Code, ServingError
from keras_mixer.serving.server.json_format import read_request, write_outputs

# tensorflow_serving/model_servers/http_server.cc, ToHTTPStatusCode.
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.NOT_FOUND: 404,
    # Theirs is 429, which says to try again; here it is a body that is too large.
    Code.RESOURCE_EXHAUSTED: 413,
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
            # Of a client that has gone too, so that nobody is alarmed.
            exception_handlers={ServingError: _refuse, ClientDisconnect: _refuse},
        )

    def _facts(self):
        name = self._versions.name
        model = self._versions.find(model_pb2.ModelSpec(name=name))
        facts = {"name": name, "version": model.number, "card": model.card}
        return facts | {"max_body_bytes": self._max_bytes}

    async def _v1(self, request):
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            # By uvicorn, when the server has waited long enough to end.
            sentence = "The server ends. Ask another one, or ask later."
            raise ServingError(sentence, Code.UNAVAILABLE) from None

    async def _answer(self, request):
        # First of all, also when the path is wrong: a client hears the answer only when
        # it has sent its body.
        body = await self._body(request)
        path = request.scope["raw_path"].decode("latin-1")
        match = _PATH.fullmatch(path)
        is_predict = match and match["asked"] == ":predict"
        number = int(match["version"] or 0) if match else 0
        if not match or is_predict != (request.method == "POST") or number >= 2**63:
            hint = "This server has GET of status and /metadata, and POST to :predict."
            raise ServingError(f"Malformed request: {request.method} {path}. {hint}")
        name, label = (urllib.parse.unquote(match[x] or "") for x in ("name", "label"))
        spec = model_pb2.ModelSpec(name=name, version_label=label)
        if match["version"]:
            spec.version.value = number
        if is_predict:
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
            limit = f"The body must be at most {self._max_bytes} bytes"
            sentence = f"{limit}. Received: {size} bytes. Send fewer images."
            raise ServingError(sentence, Code.RESOURCE_EXHAUSTED)
        return body

    async def _predict(self, model, body):
        # In threads: megabytes of JSON would hold up the other requests.
        signature, rows, by_row = await asyncio.to_thread(read_request, body, model)
        outputs = await signature.predict(rows, self._timeout_seconds)
        answer = await asyncio.to_thread(write_outputs, outputs, by_row)
        return Response(answer, media_type="application/json")


def _to_dict(message):
    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def _refuse(request, error):
    status = _STATUS.get(getattr(error, "code", None), 500)
    return JSONResponse({"error": str(error)}, status)
