"""What a patient writes goes nowhere but into the answer: no log, metric, error, output or file holds it.

A marker that stands nowhere else is sent in every place of a body, to every route, through every error and two planted
faults whose messages quote it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from backend.core.diagnose import Diagnoser
from backend.core.prompt import Prompt
from backend.log import log_event
from tests.fakes import FakeModel
from tests.http.conftest import MIGRAINE, AppMaker, Server, Writer, connect, make_faulty, serve

MARKER = "Zorglubine"
TEXT = f"{MIGRAINE}, {MARKER}, 06 11 22 33 44"
JSON = {"content-type": "application/json"}

FAULTY_SERVER = """
import runpy
from backend.core.diagnose import Diagnoser

assess = Diagnoser.assess

def fail_when_told(self, text, *rest, **more):
    if "PANNE" in text:
        raise ValueError(f"cannot assess {text!r}")
    return assess(self, text, *rest, **more)

Diagnoser.assess = fail_when_told
runpy.run_module("backend", run_name="__main__", alter_sys=True)
"""
"""`python -m backend` with a fault in it: a text with the word PANNE raises an error that quotes the text."""


class FaultyModel(FakeModel):
    """Fails after its first sentence in a way that its port does not allow, quoting the prompt."""

    async def write(self, prompt: Prompt) -> AsyncIterator[str]:
        """Say something, then raise."""
        yield "Ce que vous décrivez peut faire penser à une migraine. "
        raise RuntimeError("".join(piece.text for piece in prompt.pieces))


class Listener(logging.Handler):
    """Keeps every record of every logger, libraries' debug records too, as the service's own formatter writes it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(self.format(record))


def listen() -> list[str]:
    """The lines logged from now on; to be called once the app is made, which sets up the logging."""
    root = logging.getLogger()
    listener = Listener()
    listener.setFormatter(root.handlers[0].formatter)
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    return listener.lines


def bodies() -> list[dict[str, Any]]:
    """Requests that are answered, and requests that are refused, all with the marker."""
    answered: list[dict[str, Any]] = [
        {"symptoms": TEXT},
        {"symptoms": TEXT, "stream": True},
        {"symptoms": TEXT, "age": 30, "sex": "F", "pregnant": True, "evidence": [{"id": MARKER, "state": "present"}]},
        {"symptoms": f"{MARKER} {MARKER}"},
    ]
    refused: list[dict[str, Any]] = [
        {"symptoms": TEXT, "age": MARKER},
        {"symptoms": TEXT, "sex": MARKER},
        {"symptoms": TEXT, "pregnant": True, "sex": "M"},
        {"symptoms": TEXT, "evidence": [{"id": MARKER, "state": MARKER}]},
        {"symptoms": TEXT, MARKER: MARKER},
        {"symptoms": [TEXT]},
        {"symptoms": TEXT * 100},
        {"symptoms": TEXT * 2_000},
    ]
    return [*answered, *refused]


def raw_bodies() -> list[bytes]:
    """Bodies that are not JSON, or not an object."""
    return [
        f'{{"symptoms": "{TEXT}'.encode(),
        f"symptoms={TEXT}".encode(),
        f'["{TEXT}"]'.encode(),
        f'{{"symptoms": "{TEXT} '.encode() + b'\xff"}',
        rf'{{"symptoms": "{TEXT} \ud800"}}'.encode(),
    ]


def send_everything(client: Any) -> list[Any]:  # noqa: ANN401 - either client
    """Every body to /diagnose, and the marker to every other route; the refusals come back."""
    answers = [client.post("/diagnose", json=body) for body in bodies()]
    answers += [client.post("/diagnose", content=body, headers=JSON) for body in raw_bodies()]
    answers.append(client.post("/diagnose", content=TEXT.encode(), headers={"content-type": "text/plain"}))
    answers.append(client.request("DELETE", "/diagnose", content=TEXT.encode()))
    for path in (
        "/health",
        "/ready",
        "/metrics",
        "/pathologies",
        "/findings",
        "/pathologies/unknown",
        "/unknown",
        "/docs",
    ):
        answers.append(client.request("GET", path, content=json.dumps({"symptoms": TEXT}).encode(), headers=JSON))
    return [answer for answer in answers if answer.status_code >= 400]


def test_logs_metrics_and_errors_hold_nothing_of_the_text(
    make_app: AppMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every request once, at log level debug."""
    with connect(make_app(Writer(), log_level="debug")) as client:
        logged = listen()
        refusals = send_everything(client)
        metrics = client.get("/metrics").text
    assert len(refusals) == len(bodies()) - 4 + len(raw_bodies()) + 4
    assert [refusal.text for refusal in refusals if MARKER in refusal.text] == []
    assert [line for line in logged if MARKER in line] == []
    assert sum('"event": "request"' in line for line in logged) > 20
    assert MARKER not in metrics
    assert MARKER not in "".join(capfd.readouterr())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ["assessment", "model"])
def test_faults_hold_nothing_of_the_text(
    make_app: AppMaker, diagnoser: Diagnoser, capfd: pytest.CaptureFixture[str], fault: str,
    streamed: bool,
) -> None:  # fmt: skip
    """A programming error that quotes the text, in the rules or in the model, before or in the middle of a stream."""
    app = make_app(FaultyModel(), log_level="debug")
    if fault == "assessment":
        make_faulty(app, diagnoser)
    with connect(app) as client:
        logged = listen()
        answer = client.post("/diagnose", json={"symptoms": TEXT, "stream": streamed})
        metrics = client.get("/metrics").text
    if not streamed or fault == "assessment":
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert MARKER not in answer.text
    else:
        assert "event: end" not in answer.text
    assert [line for line in logged if MARKER in line] == []
    assert [line for line in logged if "unexpected_error" in line]
    assert MARKER not in metrics
    assert MARKER not in "".join(capfd.readouterr())


def test_a_forgotten_task_that_failed_is_logged_without_its_message(make_app: AppMaker) -> None:
    """What asyncio writes below its first line quotes the error: only the first line of a library is kept."""
    make_app(FakeModel(), log_level="debug")
    logged = listen()

    async def fail() -> None:
        raise ValueError(TEXT)

    async def forget() -> None:
        await asyncio.wait({asyncio.create_task(fail())})
        gc.collect()

    asyncio.run(forget())
    lines = [json.loads(line) for line in logged if '"logger": "asyncio"' in line]
    assert [line["message"] for line in lines if "Task" in line["message"]] == ["Task exception was never retrieved"]
    assert [line for line in logged if MARKER in line] == []


def test_library_records_are_logged_without_their_arguments(make_app: AppMaker) -> None:
    """Only the constant part of a message that a library formats."""
    make_app(FakeModel(), log_level="debug")
    logged = listen()
    logging.getLogger("somelibrary").warning("cannot read %r\nof %s", TEXT, MARKER)
    (line,) = [json.loads(line) for line in logged if "somelibrary" in line]
    assert line["message"] == "cannot read %r"


def test_errors_are_logged_by_type_and_place(make_app: AppMaker) -> None:
    """The chain of causes does not bring their messages in either."""
    make_app(FakeModel(), log_level="debug")
    logged = listen()
    try:
        try:
            raise KeyError(TEXT)
        except KeyError as error:
            raise ValueError(TEXT) from error
    except ValueError as error:
        log_event("test", exc=error)
    line = json.loads(logged[0])
    assert line["error"].startswith("ValueError at test_privacy.py:")
    assert [line for line in logged if MARKER in line] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server at log level debug, with a fault that the word PANNE sets off."""
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, "-c", FAULTY_SERVER, DOCTIS_LOG_LEVEL="debug", DOCTIS_MODEL_ENABLED="false") as running:
        yield running


def test_a_real_server_writes_nothing_of_the_text_anywhere(server: Server) -> None:
    """Its output, its errors, its metrics, and every file under its working, home and temporary folders."""
    with httpx.Client(base_url=server.url) as client:
        refusals = send_everything(client)
        faults = [
            client.post("/diagnose", json={"symptoms": f"{TEXT} PANNE", "stream": streamed})
            for streamed in (False, True)
        ]
        refusals += [client.get(f"/{MARKER}?{MARKER}"), client.get(f"/pathologies/{MARKER}"), *faults]
        metrics = client.get("/metrics").text
    malformed = send_bytes(server, f"POST /diagnose HTTP/1.1\r\n{TEXT}\r\n\r\n".encode())
    assert server.stop() in (0, -15)
    assert [fault.status_code for fault in faults] == [500, 500]
    assert [refusal.text for refusal in refusals if MARKER in refusal.text] == []
    assert MARKER not in metrics
    assert MARKER.encode() not in malformed
    output = server.output.read_text()
    assert output.count('"unexpected_error"') == 2
    assert [json.loads(line)["event"] for line in output.splitlines()][-1] == "stopped"
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert [path for path in files if MARKER.lower().encode() in path.read_bytes().lower()] == []
    assert [path for path in files if path != server.output] == [], "the service stores nothing"


def send_bytes(server: Server, request: bytes) -> bytes:
    """What the server answers to bytes that may not be HTTP at all."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(65_536)


def test_the_faulty_server_is_the_real_one(client: TestClient) -> None:
    """The planted fault reaches the assessment only: without the word, the same code answers."""
    assert client.post("/diagnose", json={"symptoms": TEXT}).status_code == 200
