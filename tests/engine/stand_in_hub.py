"""A stand-in of the Hugging Face Hub on this machine: the part of its protocol that a download uses.

`HEAD` and `GET /{repo}/resolve/{revision}/{file}` with `ETag`, `X-Repo-Commit`, `Content-Length`, `Accept-Ranges` and
ranges. Refusals carry the status and the `X-Error-Code` of the real hub. Not covered: redirects to a CDN, Xet storage.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Break(Enum):
    """How a transfer is cut off."""

    CLOSED = "closed"
    RESET = "reset"


@dataclass(frozen=True)
class Request:
    """One request as the hub saw it."""

    method: str
    path: str
    authorization: str | None
    range: str | None


@dataclass(frozen=True)
class Answer:
    """What the hub says instead of the file."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


MISSING_FILE = Answer(404, {"X-Error-Code": "EntryNotFound"})


class Hub:
    """The files it has (by path below the address), what it was asked, and how it misbehaves next."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        """Given to the next requests, one each; the last one is given for ever when `keeps_answering`."""
        self.keeps_answering = False
        self.breaks: list[tuple[int, Break]] = []
        """The next transfers end after so many bytes."""
        self.knows_ranges = True

    def publish(self, repo: str, file: str, content: bytes, revision: str = "main") -> None:
        """Put a file into a repository."""
        self.files[f"/{repo}/resolve/{revision}/{file}"] = content

    def asked(self, method: str) -> list[Request]:
        """The requests of one method."""
        return [request for request in self.requests if request.method == method]

    def next_answer(self) -> Answer | None:
        """What to say instead of the file, if anything."""
        if not self.answers:
            return None
        return self.answers[0] if self.keeps_answering and len(self.answers) == 1 else self.answers.pop(0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    @property
    def _hub(self) -> Hub:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_args: Any) -> None:  # noqa: ANN401 - http.server's own signature
        """Say nothing."""

    def _answer(self, with_body: bool) -> None:
        hub, headers = self._hub, self.headers
        hub.requests.append(Request(self.command, self.path, headers["Authorization"], headers["Range"]))
        content = hub.files.get(self.path)
        answer = hub.next_answer() or (MISSING_FILE if content is None else None)
        if answer is not None or content is None:
            self._refuse(answer or MISSING_FILE)
            return
        start = self._first_byte(len(content))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self._send(content[start:])

    def _refuse(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": "0", **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _first_byte(self, size: int) -> int:
        asked = self.headers["Range"]
        if not asked or not self._hub.knows_ranges:
            return 0
        start = int(asked.removeprefix("bytes=").split("-")[0])
        assert start < size
        return start

    def _send(self, body: bytes) -> None:
        if not self._hub.breaks:
            self.wfile.write(body)
            return
        size, how = self._hub.breaks.pop(0)
        self.wfile.write(body[:size])
        self.wfile.flush()
        self.close_connection = True
        if how is Break.RESET:  # closing with data unsent and no lingering sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub that answers at its `url` inside the context."""
    hub = Hub()
    with running(_Server(hub)) as hub.url:
        yield hub


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    """The address of a server that answers inside the context."""
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), name="stand-in-hub", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def closed_port() -> Iterator[str]:
    """An address that refuses connections: the port is held, but nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"
