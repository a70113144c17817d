"""The stand-in of the Hugging Face Hub, with the part of its protocol that an upload uses too.

`POST` to `/api/repos/create`, `/api/validate-yaml`, `preupload`, `commit`, `paths-info` and the LFS batch, `PUT` and
verification of a blob, `GET /api/models/...`. What is committed can be downloaded under `main` and under
its commit. As on the real one, an LFS blob that came before the commit is kept. Not covered: Xet storage (clients set
HF_HUB_DISABLE_XET), multipart LFS, branches.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.engine.stand_in_hub import Answer, Hub, Request, _Handler, _Server, running

TOKEN = "hf_writes"
_FIRST_COMMIT = "0" * 40
_LFS_FROM_BYTES = 10 << 10
"""Stands for the real hub's 10 MiB, so that tests need no large file; `.gguf` is always LFS there too."""


@dataclass
class Repository:
    """A model repository: its files by path, with the history of commits."""

    private: bool
    head: str = _FIRST_COMMIT
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)


class UploadHub(Hub):
    """Its repositories and LFS blobs; it refuses any token but TOKEN, and misbehaves when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.puts: list[str] = []
        """Hashes of the blobs that were sent."""
        self.most_puts: int | None = None
        """Blobs beyond so many are received and never answered, as when a connection hangs."""
        self.closing = threading.Event()
        self.refuse_commits = False
        self.spoil: str | None = None
        """The next commit stores another content for this file."""


class _UploadHandler(_Handler):
    @property
    def _uploads(self) -> UploadHub:
        assert isinstance(self._hub, UploadHub)
        return self._hub

    def do_GET(self) -> None:
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(\w+))?", self.path)
        if not found:
            super().do_GET()
            return
        repository = self._repository(found[1])
        if repository:
            content: dict[str, Any] = {
                "id": found[1],
                "sha": repository.head,
                "private": repository.private,
                "siblings": [],
            }
            self._say(200, content)

    def do_PUT(self) -> None:
        oid = self.path.removeprefix("/lfs/")
        content = self._body()
        if hashlib.sha256(content).hexdigest() != oid:
            self._say(400, {"error": "another content than announced"})
            return
        if self._uploads.most_puts is not None and len(self._uploads.puts) >= self._uploads.most_puts:
            self._uploads.closing.wait()
            return
        self._uploads.puts.append(oid)
        self._uploads.blobs[oid] = content
        self._say(200, {})

    def do_POST(self) -> None:
        body = self._body()
        hub, path = self._uploads, self.path
        hub.requests.append(Request(self.command, path, self.headers["Authorization"], None))
        if path != "/api/validate-yaml" and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._say(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path == "/lfs-verify":
            asked = json.loads(body)
            there = len(hub.blobs.get(asked["oid"], b"")) == asked["size"]
            self._say(200 if there else 404, {})
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self._batch(found[1], json.loads(body))
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|paths-info|commit)/(\w+)", path):
            if repository := self._repository(found[1]):
                answer = {"preupload": self._preupload, "paths-info": self._paths, "commit": self._commit}[found[2]]
                answer(found[1], repository, body)
        else:
            self._say(404, {"error": f"the stand-in does not know {path}"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self._uploads.repositories:
            self._say(409, {"error": "You already created this model repo", "url": f"{self._uploads.url}/{name}"})
            return
        self._uploads.repositories[name] = Repository(asked.get("visibility") == "private")
        self._say(200, {"url": f"{self._uploads.url}/{name}", "name": name, "id": "1"})

    def _validate(self, content: str) -> None:
        """Refuse what the real one refuses: no metadata, or a licence of another kind without a name."""
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        metadata = yaml.safe_load(found[1]) if found else {}
        errors = [] if metadata.get("license") else [{"message": '"license" is missing'}]
        if metadata.get("license") == "other" and not metadata.get("license_name"):
            errors.append({"message": '"license_name" is required'})
        self._say(400 if errors else 200, {"errors": errors, "warnings": []})

    def _preupload(self, _name: str, repository: Repository, body: bytes) -> None:
        files = []
        for asked in json.loads(body)["files"]:
            large = asked["path"].endswith(".gguf") or asked["size"] >= _LFS_FROM_BYTES
            old = repository.files.get(asked["path"])
            oid = None if old is None else hashlib.sha256(old).hexdigest() if large else _git_hash(old)
            mode = "lfs" if large else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._say(200, {"files": files})

    def _batch(self, name: str, asked: dict[str, Any]) -> None:
        if not self._repository(name):
            return
        objects = []
        for one in asked["objects"]:
            actions = {
                "upload": {"href": f"{self._uploads.url}/lfs/{one['oid']}"},
                "verify": {"href": f"{self._uploads.url}/lfs-verify"},
            }
            objects.append({**one} if one["oid"] in self._uploads.blobs else {**one, "actions": actions})
        self._say(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        hub = self._uploads
        lines = [json.loads(line) for line in body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if hub.refuse_commits or (parent and parent != repository.head):
            self._say(412, {"error": "the branch has moved"})
            return
        for line in lines[1:]:
            value = line["value"]
            is_lfs = line["key"] == "lfsFile"
            content = hub.blobs[value["oid"]] if is_lfs else base64.b64decode(value["content"])
            repository.files[value["path"]] = content[:-1] + b"!" if value["path"] == hub.spoil else content
            (repository.lfs.add if is_lfs else repository.lfs.discard)(value["path"])
        repository.head = hashlib.sha1(repository.head.encode() + body).hexdigest()
        repository.commits.append(repository.head)
        for revision in ("main", repository.head):
            for path, content in repository.files.items():
                hub.publish(name, path, content, revision)
        self._say(200, {"commitUrl": f"{hub.url}/{name}/commit/{repository.head}", "commitOid": repository.head})

    def _paths(self, _name: str, repository: Repository, body: bytes) -> None:
        found = []
        for path in parse_qs(body.decode())["paths"]:
            content = repository.files.get(path)
            if content is None:
                continue
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
            if path in repository.lfs:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            found.append(entry)
        self._say(200, found)

    def _repository(self, name: str) -> Repository | None:
        repository = self._uploads.repositories.get(name)
        if repository is None:
            self._refuse(Answer(404, {"X-Error-Code": "RepoNotFound"}))
        return repository

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _say(self, status: int, content: Any) -> None:  # noqa: ANN401 - any JSON value
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serve_upload_hub() -> Iterator[UploadHub]:
    """A hub that takes uploads and answers at its `url` inside the context."""
    hub = UploadHub()
    server = _Server(hub)
    server.RequestHandlerClass = _UploadHandler
    with running(server) as hub.url:
        try:
            yield hub
        finally:
            hub.closing.set()
