"""The page at `/`: pictures in, answers out, by the REST API of the same server."""

import base64
import hashlib
import importlib.resources
import re

from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def routes(facts):
    """Return the routes of the page and of what it asks about the model.

    Args:
        facts: Function that returns what it is told, a dict: `name`, `version` and
            `card` (the version's `keras_mixer.json`) of the model, `max_body_bytes`.
    """
    source = importlib.resources.files("keras_mixer.serving.server") / "page.html"
    content = source.read_bytes()
    # It may run what it holds, ask this server, and nothing else.
    script, style = (_digest(content, kind) for kind in ("script", "style"))
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; "
        f"script-src {script}; style-src {style}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # Another server may follow on the same port.
        "Cache-Control": "no-store",
    }

    async def page(request):
        return Response(content, headers=headers, media_type="text/html")

    async def page_facts(request):
        return JSONResponse(facts(), headers={"Cache-Control": "no-store"})

    return [Route("/", page), Route("/page.json", page_facts)]


def _digest(content, kind):
    """Return the digest of the page's only script or style, as its policy has it."""
    (part,) = re.findall(f"<{kind}>(.*?)</{kind}>".encode(), content, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'"
