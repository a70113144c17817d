"""Apps over the shared knowledge base, and the two clients that tests of the wire need.

`client` is enough for whole answers. `Exchange` plays one request at the ASGI level, message by message: it reads an
answer while it is written and hangs up in the middle, which httpx's ASGI transport cannot do.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message

from backend import main
from backend.core.diagnose import DEFAULT_RESULTS, Diagnoser
from backend.core.entities import Answer, Assessment, Patient, Urgency
from backend.core.guard import Guard
from backend.core.knowledge import Knowledge
from backend.core.ports import ReplyModel
from backend.core.prompt import CAUSE_SLOTS, Prompt
from backend.core.wording import action
from backend.routes import Service
from backend.settings import Settings, variables
from tests.fakes import FakeModel

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 20.0
"""How long a test waits for what must happen before it says that it does not."""

APPENDICITIS = "J'ai mal au ventre en bas à droite depuis ce matin, avec des nausées et un peu de fièvre"
MIGRAINE = "J'ai mal à la tête et je vois des points lumineux"
CHEST_PAIN = "J'ai une douleur dans la poitrine qui va dans le bras gauche et je transpire beaucoup"
VAGUE = "Bonjour, je ne me sens pas comme d'habitude"

AppMaker = Callable[..., FastAPI]
T = TypeVar("T")


async def soon(awaitable: Awaitable[T]) -> T:
    """The result of what must happen within moments; a test that would hang fails."""
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable


class Writer(FakeModel):
    """Writes a reply that the guard lets through, from the prompt alone, in pieces of two letters."""

    async def write(self, prompt: Prompt) -> AsyncIterator[str]:
        """Name the first cause, then say what to do; give way to other requests before each piece."""
        self.prompts.append(prompt)
        level = Urgency(prompt.pieces[3].text.split()[0])
        cause = prompt.slots.get(CAUSE_SLOTS[0])
        opening = f"Ce que vous décrivez peut faire penser à {cause}." if cause else "Je n'ai pas assez d'éléments."
        text = f"{opening} {action(level)}"
        for start in range(0, len(text), 2):
            await asyncio.sleep(0)
            yield text[start : start + 2]


class HeldWriter(FakeModel):
    """Says each of its pieces only when the test lets it: `release` one by one, or `gate.set()` for all."""

    def __init__(self, *pieces: str) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self.said: list[str] = []
        self._allowed = asyncio.Semaphore(0)

    def release(self, pieces: int = 1) -> None:
        """Let it say so many more pieces."""
        for _ in range(pieces):
            self._allowed.release()

    async def write(self, prompt: Prompt) -> AsyncIterator[str]:
        """The pieces, each after a release; `closed` is set when it ends or is ended."""
        self.prompts.append(prompt)
        self.asked.set()
        try:
            for piece in self.pieces or []:
                await self._allowed.acquire()
                self.said.append(piece)
                yield prompt.slots.get(piece, piece)
            await self._allowed.acquire()
        finally:
            self.closed.set()


class FaultyDiagnoser(Diagnoser):
    """Fails on every message, with the message in its error: the worst that a programming error can do."""

    def assess(
        self, text: str, patient: Patient, answers: Sequence[Answer] = (), max_results: int = DEFAULT_RESULTS
    ) -> Assessment:  # fmt: skip
        """Raise."""
        raise ValueError(f"cannot assess {text!r} {patient} {answers} {max_results}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the machine reaches the apps of tests, and their logging does not outlive them."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    root, doctis = logging.getLogger(), logging.getLogger("doctis")
    before = (root.handlers[:], root.level, doctis.level)
    yield
    root.handlers[:], root.level, doctis.level = before


@pytest.fixture
def make_app(
    knowledge: Knowledge, diagnoser: Diagnoser, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> AppMaker:  # fmt: skip
    """`make_app(model, **settings)`: an app over the knowledge base that was loaded once; no model when None."""
    monkeypatch.setattr(main, "load", lambda: knowledge)
    monkeypatch.setattr(main, "Diagnoser", lambda _knowledge: diagnoser)
    monkeypatch.setattr(main, "load_guard", lambda _knowledge: guard)

    def make(model: ReplyModel | None = None, **settings: Any) -> FastAPI:  # noqa: ANN401 - the fields of Settings
        return main.create_app(Settings(**{"model_enabled": False, **settings}), model)

    return make


@pytest.fixture
def client(make_app: AppMaker, model: FakeModel) -> Iterator[TestClient]:
    """A client of an app whose model says what the test tells it to."""
    with connect(make_app(model)) as test_client:
        yield test_client


@contextmanager
def connect(app: FastAPI) -> Iterator[TestClient]:
    """A client of `app` between its start and its stop; errors of the app come back as answers."""
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


def make_faulty(app: FastAPI, diagnoser: Diagnoser) -> None:
    """From now on every assessment of `app` fails."""
    service: Service = app.state.service
    app.state.service = replace(service, diagnoser=FaultyDiagnoser(diagnoser.knowledge, diagnoser.ranking))


def in_flight(app: FastAPI) -> float:
    """How many requests to /diagnose the app counts as under way."""
    value = app.state.service.metrics.registry.get_sample_value("doctis_in_flight")
    assert value is not None
    return float(value)


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: Any


def parse_events(body: str) -> list[Event]:
    """The events of a whole stream, comments left out."""
    blocks = [block for block in body.split("\n\n") if block and not block.startswith(":")]
    return [parse_event(block) for block in blocks]


def parse_event(block: str) -> Event:
    """`event: x` and `data: {...}` on a line each."""
    name, data = block.rstrip("\n").split("\n")
    return Event(name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))


class Exchange:
    """One POST /diagnose to an app, answered message by message. Leaving the context hangs up."""

    def __init__(self, app: FastAPI, body: dict[str, Any]) -> None:
        self._app = app
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})

    async def __aenter__(self) -> Self:
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/diagnose", "raw_path": b"/diagnose", "root_path": "", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "client": ("test", 1), "server": ("test", 80),
        }  # fmt: skip
        self._task = asyncio.create_task(self._app(scope, self._inbox.get, self._sent.put))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        await self.over()

    def hang_up(self) -> None:
        """Tell the app that the client is gone."""
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def over(self) -> None:
        """Wait until the app has done with the request."""
        await soon(self._task)

    async def status(self) -> int:
        """The status of the answer, its first message."""
        message = await self._message()
        assert message["type"] == "http.response.start"
        return int(message["status"])

    async def chunk(self) -> str:
        """The next piece of the body; empty at the end."""
        message = await self._message()
        assert message["type"] == "http.response.body"
        return bytes(message.get("body", b"")).decode()

    async def event(self) -> Event:
        """The next piece of the body, which must be one event."""
        return parse_event(await self.chunk())

    def nothing_more(self) -> bool:
        """Whether the app has sent nothing that was not read."""
        return self._sent.empty()

    async def _message(self) -> Message:
        return await soon(self._sent.get())


@dataclass(frozen=True)
class Server:
    """A real server process: its address, its folder and the file that its output goes to."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    output: Path

    def stop(self) -> int:
        """Send SIGTERM and wait; the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextmanager
def serve(folder: Path, *command: str, **settings: str) -> Iterator[Server]:
    """`python -m backend` (or `python <command>`) on a free port in an empty folder, once /health answers."""
    port = free_port()
    output = folder / "output.txt"
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "backend"))],
            cwd=folder / "work", env=environment(folder, PORT=str(port), **settings),
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_health(url, process)
        yield Server(process, url, folder, output)
    finally:
        process.kill()
        process.wait()


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """A bare environment whose home and temporary folders lie in `folder`."""
    return {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), **settings,
    }  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_health(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once GET /health answers 200."""
    deadline = time.monotonic() + 3 * PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"no server at {url}; exit status {process.poll()}")
