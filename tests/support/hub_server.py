"""A small Hugging Face Hub on the loopback interface: what its library asks of one.

Repositories with commits and branches, private ones too; files by HTTP, large ones by
Git LFS.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import urllib.parse

import file_server

TOKEN = "hf_loopback"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._route()

    do_GET = do_POST = do_PUT = do_HEAD

    def _route(self):
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(iter(self._chunk, b""))
        else:
            self.body = self.rfile.read(length)
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        for pattern, answer in self.ROUTES:
            if match := re.fullmatch(pattern, path):
                return answer(self, *match.groups())
        return self._send(404)

    def _chunk(self):
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content

    def _send(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _is_in(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _commit(self, repository, revision):
        """The files of a commit, or None, and then it was answered."""
        found = self.server.repositories.get(repository)
        if found is None or (found["private"] and not self._is_in()):
            # Who may not see a repository is not told that it is there.
            return self._send(401, X_Error_Code="RepoNotFound")
        commit = found["branches"].get(revision, revision)
        if commit not in found["commits"]:
            return self._send(404, X_Error_Code="RevisionNotFound")
        return commit, found["commits"][commit]

    def _info(self, repository, revision="main"):
        if found := self._commit(repository, revision):
            siblings = [{"rfilename": name} for name in found[1]]
            known = {"id": repository, "sha": found[0], "siblings": siblings}
            self._send(200, {**known, "private": False, "tags": [], "downloads": 0})

    def _tree(self, repository, revision):
        if found := self._commit(repository, revision):
            rows = [
                {"type": "file", "path": name, "size": len(file), "oid": oid_of(file)}
                for name, file in found[1].items()
            ]
            self._send(200, rows)

    def _file(self, repository, revision, name):
        if found := self._commit(repository, revision):
            commit, files = found
            if name not in files:
                code = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": commit}
                return self._send(404, **code)
            etag = f'"{oid_of(files[name])}"'
            self._send(200, files[name], ETag=etag, X_Repo_Commit=commit)

    def _create(self):
        if not self._is_in():
            return self._send(401, {"error": "Invalid username or password."})
        asked = json.loads(self.body)
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.server.repositories:
            url = f"{self.server.url}/{repository}"
            return self._send(409, {"error": "You already created this", "url": url})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.put(repository, {}, private=bool(private))
        return self._send(200, {"url": f"{self.server.url}/{repository}"})

    def _validate(self):
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, repository, revision):
        if self._commit(repository, revision):
            rows = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._send(200, {"files": rows})

    def _batch(self, repository):
        rows = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}},
            }
            for item in json.loads(self.body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": rows})

    def _put_large(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self._send(200)

    def _push(self, repository, revision):
        if not self._is_in():
            return self._send(403, {"error": "You may not write here."})
        if not (found := self._commit(repository, revision)):
            return None
        files = dict(found[1])
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commit = self.server.put(repository, files, revision)
        url = f"{self.server.url}/{repository}/commit/{commit}"
        return self._send(200, {"commitUrl": url, "commitOid": commit})

    def log_message(self, *args):
        pass

    _REPOSITORY = r"([^/]+/[^/]+)"
    ROUTES = (
        (rf"/api/models/{_REPOSITORY}", _info),
        (rf"/api/models/{_REPOSITORY}/revision/(.+)", _info),
        (rf"/api/models/{_REPOSITORY}/tree/([^/]+)", _tree),
        (rf"/{_REPOSITORY}/resolve/([^/]+)/(.+)", _file),
        (r"/api/repos/create", _create),
        (r"/api/validate-yaml", _validate),
        (rf"/api/models/{_REPOSITORY}/preupload/([^/]+)", _preupload),
        (rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", _batch),
        (r"/lfs/(.+)", _put_large),
        (rf"/api/models/{_REPOSITORY}/commit/([^/]+)", _push),
    )


LARGE = (".safetensors", ".keras", ".png")


def oid_of(content):
    """The name of a file's content, as an ETag has it."""
    return hashlib.sha1(content).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    def put(self, repository, files, branch="main", private=False):
        """Make a commit of files, `{path: bytes}`; returns its name."""
        new = {"private": private, "branches": {}, "commits": {}}
        found = self.repositories.setdefault(repository, new)
        commit = oid_of(f"{repository} {len(found['commits'])}".encode())
        found["commits"][commit] = files
        found["branches"][branch] = commit
        return commit

    def files(self, repository, branch="main"):
        """The files of a branch, `{path: bytes}`."""
        found = self.repositories[repository]
        return found["commits"][found["branches"][branch]]


@contextlib.contextmanager
def serving():
    """Yield a `Hub`, which has a `url`, and `requests` as (method, path)."""
    server = Hub(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.large, server.requests = {}, {}, []
    with file_server.running(server):
        yield server


@contextlib.contextmanager
def library_asks(monkeypatch, url, home, token=None):
    """Let the hub's library ask `url`, with a cache and a token of the test's own."""
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        # Xet's protocol needs the real hub's storage.
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.delenv("HF_TOKEN", raising=False)
        if token:
            patch.setenv("HF_TOKEN", token)
        yield
