"""A Hub on loopback: as much of its HTTP API as publishing and loading models takes, spoken to by its real client.

Repositories are dictionaries in memory. Files go the two ways they go on the Hub: small ones inside the commit, large
ones (here: tensors) through the LFS batch call to a place of their own first. Faults are answered instead of the next
request that begins with their words.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback" + "0" * 20
Fault = Callable[["Handler"], None]


@dataclass
class Repository:
    """Files by commit; branches point to commits."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """A new commit on a branch; its name is a hash, as git's."""
        text = f"{len(self.commits)} {branch} {sorted((k, hashlib.sha256(v).hexdigest()) for k, v in files.items())}"
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name


@dataclass
class Hub:
    """What a running Hub knows, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch."""
        repo = self.repositories[repository]
        return repo.commits[repo.branches[revision]]

    def put(self, repository: str, files: dict[str, bytes], private: bool = False) -> str:
        """Make a commit without any request."""
        repo = self.repositories.setdefault(repository, Repository(private))
        return repo.commit("main", files)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    lock: threading.Lock

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.body = self.chunks()
        else:
            self.body = self.rfile.read(length)
        self.path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {self.path}"
        with self.lock:
            self.hub.requests.append(line)
            number = next((i for i, (words, _) in enumerate(self.hub.faults) if line.startswith(words)), None)
            fault = None if number is None else self.hub.faults.pop(number)[1]
            if fault is not None:
                return fault(self)
            self.answer()

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self) -> None:
        for command, pattern, act in ROUTES:
            match = re.fullmatch(pattern, self.path)
            if match and self.command in command:
                return act(self, **match.groupdict())
        self.refuse(404, "no such page")

    # -- what answers are made of ------------------------------------------------------------------------------------

    def send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, content: Any, code: int = 200) -> None:
        self.send(code, json.dumps(content).encode(), Content_Type="application/json")

    def refuse(self, code: int, reason: str, **headers: str) -> None:
        error = {"X_Error_Message": reason, **headers}
        self.send(code, json.dumps({"error": reason}).encode(), Content_Type="application/json", **error)

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, repo: str) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self.known()):
            self.refuse(401 if not self.known() else 404, "Repository not found", X_Error_Code="RepoNotFound")
            return None
        return found

    # -- writing -----------------------------------------------------------------------------------------------------

    def create(self) -> None:
        if not self.known():
            return self.refuse(401, "Invalid username or password.")
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        address = {"url": f"{self.hub.url}/{repo}", "id": repo}
        if repo in self.hub.repositories:
            return self.json({**address, "error": "You already created this model repo"}, 409)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.put(repo, {}, bool(private))
        self.json(address)

    def branch(self, repo: str, branch: str) -> None:
        found = self.repository(repo)
        if found is None:
            return
        if branch in found.branches:
            return self.refuse(409, "Reference already exists")
        found.branches[branch] = found.branches["main"]
        self.json({})

    def preupload(self, repo: str, revision: str) -> None:
        if self.repository(repo) is None:
            return
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = [
            {"path": n, "uploadMode": "lfs" if n.endswith(".safetensors") else "regular", "shouldIgnore": False}
            for n in names
        ]
        self.json({"files": modes})

    def batch(self, repo: str) -> None:
        answers = []
        for item in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                place = f"{self.hub.url}/objects/{item['oid']}"
                answer["actions"] = {"upload": {"href": place}, "verify": {"href": f"{self.hub.url}/verify"}}
            answers.append(answer)
        self.send(
            200,
            json.dumps({"transfer": "basic", "objects": answers}).encode(),
            Content_Type="application/vnd.git-lfs+json",
        )

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.refuse(400, "the content is not what its hash says")
        self.hub.objects[oid] = self.body
        self.send(200, b"")

    def verify(self) -> None:
        asked = json.loads(self.body)
        there = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self.send(200, b"") if there else self.refuse(404, "the object did not arrive")

    def commit(self, repo: str, revision: str) -> None:
        found = self.repository(repo)
        if found is None:
            return
        files = dict(found.commits[found.branches[revision]])
        for line in self.body.decode().splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif row["key"] == "deletedFile":
                files.pop(value["path"])
        name = found.commit(revision, files)
        address = f"{self.hub.url}/{repo}/commit/{name}"
        self.json({"success": True, "commitOid": name, "commitUrl": address, "hookOutput": ""})

    # -- reading -----------------------------------------------------------------------------------------------------

    def files_at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        found = self.repository(repo)
        if found is None:
            return None
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            self.refuse(404, f"Invalid rev id: {revision}", X_Error_Code="RevisionNotFound")
            return None
        return commit, found.commits[commit]

    def resolve(self, repo: str, revision: str, path: str) -> None:
        place = self.files_at(repo, revision)
        if place is None:
            return
        commit, files = place
        if path not in files:
            return self.refuse(404, "Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[path]
        self.send(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)

    def info(self, repo: str, revision: str = "main") -> None:
        place = self.files_at(repo, revision)
        if place is not None:
            self.json({"id": repo, "sha": place[0], "siblings": [{"rfilename": name} for name in sorted(place[1])]})

    def tree(self, repo: str, revision: str) -> None:
        place = self.files_at(repo, revision)
        if place is not None:
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in sorted(place[1].items())
            ]
            self.json(rows)

    def log_message(self, *_: object) -> None: ...


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", lambda handler: handler.json({"errors": [], "warnings": []})),
    (("POST",), f"/api/models/{REPO}/branch/(?P<branch>.+)", Handler.branch),
    (("POST",), f"/api/models/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    (("POST",), f"/api/models/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), "/objects/(?P<oid>[0-9a-f]{64})", Handler.upload),
    (("POST",), "/verify", Handler.verify),
    (("GET",), f"/api/models/{REPO}", Handler.info),
    (("GET",), f"/api/models/{REPO}/revision/(?P<revision>.+)", Handler.info),
    (("GET",), f"/api/models/{REPO}/tree/(?P<revision>.+)", Handler.tree),
    (("GET", "HEAD"), f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]  # fmt: skip


# -- faults ----------------------------------------------------------------------------------------------------------


def status(code: int, reason: str = "as the test wants it", **headers: str) -> Fault:
    """Answer with an error."""
    return lambda handler: handler.refuse(code, reason, **headers)


def hang_up(handler: Handler) -> None:
    """Close the line without an answer."""
    handler.close_connection = True
    handler.connection.close()


def half_a_file(handler: Handler) -> None:
    """Promise the whole file, send half of it, close the line."""
    repo, revision, path = re.fullmatch(r"/(.+/.+)/resolve/([^/]+)/(.+)", handler.path).groups()  # type: ignore[union-attr]
    place = handler.files_at(repo, revision)
    assert place is not None
    content = place[1][path]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """A Hub for as long as the context lasts."""
    hub = Hub()
    kind = type("BoundHandler", (Handler,), {"hub": hub, "lock": threading.RLock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def a_byte_lost(handler: Handler) -> None:
    """Take the body as if one bit of it had turned over on the way."""
    handler.body = handler.body[:-1] + bytes([handler.body[-1] ^ 1])
    handler.answer()


if __name__ == "__main__":  # a process of its own: says its address, then answers one JSON line after another
    with loopback_hub() as served:
        print(json.dumps(served.url), flush=True)
        for line in sys.stdin:
            served.faults[:] = [(begins, status(code, Retry_After="0")) for begins, code in json.loads(line)]
            kept = {name: sorted(served.files(name)) for name in served.repositories}
            print(json.dumps({"requests": served.requests, "files": kept}), flush=True)
            served.requests.clear()
