"""A hub on 127.0.0.1: the part of the Hugging Face Hub's HTTP interface that `o2o push` and `pull` use.

Small files go into git, large ones (safetensors) by LFS, as on the real hub. Faults are attributes that a
test sets: `refuse`, `cut_after`, `changed`.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_fakefakefakefake"


class FakeHub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repos: OWNER/NAME -> branch -> path -> content.
        private: names of the private repositories.
        refuse: part of a path -> (status, headers) of the answer to every request with it.
        cut_after: path of a file -> bytes after which each answer with it is cut, one a request.
        changed: path of a file -> content that is sent in place of the right one.
        hangs: event until which every request waits before it is answered.
        requests: (method, path, Range header) of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.lfs: dict[str, bytes] = {}
        self.refuse: dict[str, tuple[int, dict[str, str]]] = {}
        self.cut_after: dict[str, list[int]] = {}
        self.changed: dict[str, bytes] = {}
        self.hangs: threading.Event | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Says nothing of clients that hang up."""

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return self.repos[repo][branch]

    def sent(self, part: str) -> list[tuple[str, str, str]]:
        return [request for request in self.requests if part in request[1]]


@contextmanager
def serve() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def environment(server: FakeHub, folder: Path) -> dict[str, str]:
    """The variables with which a process meets a fake hub."""
    return {
        "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
        "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self._answer(b"".join(iter(self._chunk, b"")))
        return self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    do_PUT = do_POST

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        return self.rfile.read(size + 2)[:size]

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range") or ""))
        if self.server.hangs:
            self.server.hangs.wait(30)
        for part, (status, headers) in self.server.refuse.items():
            if part in path:
                return self._send(status, b'{"error": "refused"}', headers)
        if path.startswith("/lfs/"):
            self.server.lfs[path.removeprefix("/lfs/")] = body
            return self._send(200, b"")
        if self.command != "GET" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            message = "Invalid credentials in Authorization header"
            return self._send(401, b"{}", {"X-Error-Message": message})
        parts = path.strip("/").split("/")
        if "/resolve/" in path:
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        data = json.loads(body) if body and "commit" not in path else {}
        if path == "/api/repos/create":
            return self._create(data)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(data)
        return self._of_repo("/".join(parts[2:4]), parts[4:], data, body)

    def _create(self, data: dict) -> None:
        repo = f"{data['organization']}/{data['name']}"
        if repo in self.server.repos:
            return self._send(409, json.dumps({"url": f"{self.server.url}/{repo}"}).encode())
        self.server.repos[repo] = {"main": {}}
        if data.get("visibility") == "private":
            self.server.private.add(repo)
        self._json({"url": f"{self.server.url}/{repo}"})

    def _batch(self, data: dict) -> None:
        href = f"{self.server.url}/lfs/"
        objects = [one | {"actions": {"upload": {"href": href + one["oid"]}}} for one in data["objects"]]
        self._json({"transfer": "basic", "objects": objects}, "application/vnd.git-lfs+json")

    def _of_repo(self, repo: str, rest: list[str], data: dict, body: bytes) -> None:
        branches = self.server.repos.get(repo)
        if branches is None or (repo in self.server.private and not self.headers.get("Authorization")):
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        what, name = rest[:1] or [""], "/".join(rest[1:]) or "main"
        if what == ["branch"]:
            branches.setdefault(name, dict(branches["main"]))
            return self._json({})
        if self._branch(branches, name) is None:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if what == ["preupload"]:
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if is_lfs(one["path"]) else "regular",
                 "shouldIgnore": False}
                for one in data["files"]
            ]  # fmt: skip
            return self._json({"files": modes})
        if what == ["commit"]:
            return self._commit(repo, name, body)
        self._json(self._info(repo, self._branch(branches, name) or {}))

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        files = self.server.repos[repo][branch]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
        commit = commit_of(files)
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _info(self, repo: str, files: dict[str, bytes]) -> dict:
        siblings = []
        for name, content in files.items():
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            one = {"rfilename": name, "size": len(content), "blobId": blob}
            siblings.append(one | ({"lfs": lfs} if is_lfs(name) else {}))
        is_private = repo in self.server.private
        return {"id": repo, "sha": commit_of(files), "private": is_private, "siblings": siblings}

    def _branch(self, branches: dict[str, dict[str, bytes]], name: str) -> dict[str, bytes] | None:
        """Files of a branch or of a commit."""
        commits = {commit_of(files): files for files in branches.values()}
        return branches.get(name, commits.get(name))

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        files = self._branch(self.server.repos.get(repo, {}), revision) or {}
        if path not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = self.server.changed.get(path, files[path])
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        cuts = self.server.cut_after.get(path)
        last = len(content) - 1
        ranged = {"Content-Range": f"bytes {begin}-{last}/{len(content)}"} if begin else {}
        self._send(206 if begin else 200, content[begin:], ranged, cuts.pop(0) if cuts else None)

    def _json(self, data: dict, kind: str = "application/json") -> None:
        self._send(200, json.dumps(data).encode(), {"Content-Type": kind})

    def _send(self, status: int, body: bytes, headers=None, cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut_after])
        self.close_connection = cut_after is not None
