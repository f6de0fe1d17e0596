"""TensorFlow Serving's REST API."""

import asyncio
import json
import re
import time
import urllib.parse

import grpc
from absl import logging
from google.protobuf import json_format as protobuf_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from keras_mixer.serving.server import json_format
from keras_mixer.serving.server.errors import ServingError, invalid_argument

METRICS_PATH = "/monitoring/prometheus/metrics"

_MODEL = (
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
)
_POST = re.compile(rf"{_MODEL}:(?P<method>predict|classify)")
_GET = re.compile(rf"{_MODEL}(?P<metadata>/metadata)?")


class RestApi:
    """The ASGI application.

    Args:
        manager: The `Manager` of the models.
        metrics: The server's `Metrics`.
        max_body_bytes: Size of the largest body that is read.
        timeout_seconds: How long a client may take to send its body, and a request to
            be answered.
    """

    def __init__(self, manager, metrics, max_body_bytes, timeout_seconds):
        self._manager = manager
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._timeout_seconds = timeout_seconds
        self.app = Starlette(
            routes=[
                Route(METRICS_PATH, self._prometheus, methods=["GET"]),
                Route("/v1/{path:path}", self._v1, methods=["GET", "POST"]),
            ]
        )

    async def _prometheus(self, request):
        return Response(self._metrics.page(), media_type="text/plain; version=0.0.4")

    async def _v1(self, request):
        start_seconds = time.monotonic()
        path = request.scope["raw_path"].decode("latin-1")
        match = (_POST if request.method == "POST" else _GET).fullmatch(path)
        status = "OK"
        try:
            # Also when the path is wrong: a client hears the answer only when it has
            # sent its body.
            body = await self._body(request)
            if match is None:
                raise invalid_argument(f"Malformed request: {request.method} {path}")
            answer, http_status = await self._answer(match, body), 200
        except ClientDisconnect:
            return Response(status_code=499)
        except ServingError as error:
            status, http_status = error.code.name, error.http_status
            answer = json.dumps({"error": error.message}).encode()
        except Exception:
            logging.exception("A request failed.")
            status, http_status = "INTERNAL", 500
            answer = json.dumps({"error": "The server failed."}).encode()
        if request.method == "POST" and match is not None:
            name = urllib.parse.unquote(match["name"])
            self._metrics.request(
                # Names that clients make up would fill the memory.
                name if self._manager.knows(name) else "",
                status,
                match["method"],
                "REST",
                time.monotonic() - start_seconds,
            )
        return Response(answer, http_status, media_type="application/json")

    async def _body(self, request):
        """Read the body, no more of it than allowed and no longer than the timeout."""
        try:
            return await asyncio.wait_for(self._read(request), self._timeout_seconds)
        except asyncio.TimeoutError:
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"The body did not arrive within {self._timeout_seconds} seconds.",
                http_status=408,
            ) from None

    async def _read(self, request):
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            # What is too much is thrown away, not refused at once: a client that is
            # still sending would see a broken connection instead of the answer.
            if size <= self._max_body_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
        if size > self._max_body_bytes:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The body must be at most {self._max_body_bytes} bytes. Received: "
                f"{size} bytes. Send fewer images in a request.",
                http_status=413,
            )
        return b"".join(chunks)

    async def _answer(self, match, body):
        spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"]))
        if match["version"]:
            if len(match["version"]) > 19 or int(match["version"]) >= 2**63:
                raise invalid_argument(
                    f"Failed to convert version: {match['version']} to numeric."
                )
            spec.version.value = int(match["version"])
        elif match["label"]:
            spec.version_label = urllib.parse.unquote(match["label"])
        if "method" in match.groupdict():
            answer = self._predict if match["method"] == "predict" else self._classify
            # In a thread: parsing megabytes of JSON would hold up the other requests.
            future, respond = await asyncio.to_thread(answer, spec, body)
            outputs = await self._outputs(future)
            return await asyncio.to_thread(respond, outputs)
        message = self._metadata(spec) if match["metadata"] else self._status(spec)
        return json.dumps(message, indent=1).encode()

    def _predict(self, spec, body):
        document = json_format.parse_object(body)
        name = document.get("signature_name", "")
        with self._manager.use(spec) as servable:
            if (name or "serving_default") not in servable.signatures:
                # Over gRPC this is FAILED_PRECONDITION.
                raise invalid_argument(
                    f'Serving signature name: "{name}" not found in signature def'
                )
            signature = servable.signature(name)
            inputs, by_row = json_format.predict_inputs(document, signature)
            future = servable.submit(name, inputs)
            names = servable.output_names(name)
        return future, lambda o: json_format.predict_response(names, o, by_row)

    def _classify(self, spec, body):
        document = json_format.parse_object(body)
        examples, context = json_format.classify_examples(document)
        name = document.get("signature_name", "")
        with self._manager.use(spec) as servable:
            future = servable.classify(name, examples, context)
        return future, lambda outputs: json_format.classify_response(*outputs)

    async def _outputs(self, future):
        try:
            return await asyncio.wait_for(
                asyncio.wrap_future(future), self._timeout_seconds
            )
        except asyncio.TimeoutError:
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"The model did not answer within {self._timeout_seconds} seconds.",
            ) from None

    def _status(self, spec):
        message = _to_dict(self._manager.status(spec))
        for entry in message["model_version_status"]:
            entry.setdefault("status", {"error_code": "OK", "error_message": ""})
        return message

    def _metadata(self, spec):
        with self._manager.use(spec) as servable:
            spec = model_pb2.ModelSpec(name=servable.name)
            spec.version.value = servable.version
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=servable.signatures
            )
        return {
            "model_spec": _to_dict(spec),
            "metadata": {"signature_def": _to_dict(signatures)},
        }


def _to_dict(message):
    return protobuf_json.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
