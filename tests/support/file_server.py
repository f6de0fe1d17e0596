"""A real HTTP server whose faults a test chooses, file by file."""

import contextlib
import dataclasses
import hashlib
import http.server
import re
import threading
import time


@dataclasses.dataclass
class Served:
    """A file and how its requests go wrong, one fault a request, then none.

    Faults: a status number; `"cut"` (half of the bytes, then the connection closes);
    `"slow"` and `"hang"` (half a second and five in the middle); `"short"` (a
    Content-Length that is too large); `"cut, no length"` (neither a length nor the
    second half); `"unasked piece"` (a 206 of the second half to who asked for all);
    `"from the start"` and `"no range"` (a 206 of the whole file to who asked for the
    rest, its Content-Range true or missing); `"one piece"` (a 206 of the next 1,000
    bytes alone).
    """

    content: bytes
    faults: list = dataclasses.field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        served = server.files.get(self.path)
        if served is None:
            return self._answer(404)
        fault = served.faults.pop(0) if served.faults else None
        if isinstance(fault, int):
            return self._answer(fault)
        content = served.content
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start, stop, status = 0, len(content), 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and self.headers.get("If-Range") == etag:
            start, status = int(asked[1]), 206
        if fault == "unasked piece":
            start, status = len(content) // 2, 206
        elif fault in ("from the start", "no range"):
            start = 0
        elif fault == "one piece":
            stop = start + 1000
        body = content[start:stop]
        self.send_response(status)
        self.send_header("ETag", etag)
        if status == 206 and fault != "no range":
            piece = f"bytes {start}-{stop - 1}/{len(content)}"
            self.send_header("Content-Range", piece)
        if fault == "cut, no length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) + (fault == "short")))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if fault in ("slow", "hang"):
            time.sleep(0.5 if fault == "slow" else 5)
        if fault in ("cut", "cut, no length"):
            self.close_connection = True
            return None
        self.wfile.write(body[half:])
        if fault == "short":
            self.close_connection = True
        return None

    def _answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(files):
    """Serve `{path: Served}`; yields the server, which has `url` and `requests`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that hangs up
    server.files, server.requests = files, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    with running(server):
        yield server


@contextlib.contextmanager
def running(server):
    """Let a server of `http.server` answer, in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
