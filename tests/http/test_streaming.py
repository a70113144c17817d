"""POST /diagnose with `stream: true`: the assessment at once, verified sentences as they come, the whole reply last."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from backend import routes
from backend.core.diagnose import Diagnoser
from tests.fakes import FakeModel
from tests.http.conftest import (
    APPENDICITIS,
    CHEST_PAIN,
    MIGRAINE,
    PATIENCE_S,
    VAGUE,
    AppMaker,
    Event,
    Exchange,
    HeldWriter,
    Writer,
    connect,
    free_port,
    in_flight,
    make_faulty,
    parse_events,
    soon,
)

EVOKE = "Ce que vous décrivez peut faire penser à une migraine."
ACT = "Prenez rendez-vous avec un médecin dans les 7 jours."
REFUSED = "Prenez 1 g de paracétamol toutes les 6 heures."


def stream(client: TestClient, symptoms: str, **fields: Any) -> list[Event]:  # noqa: ANN401 - JSON
    """All events of one answer."""
    response = client.post("/diagnose", json={"symptoms": symptoms, "stream": True, **fields})
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    return parse_events(response.text)


def sentences(events: list[Event]) -> list[str]:
    """The texts of the reply events."""
    return [event.data["text"] for event in events if event.name == "reply"]


# --- the events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symptoms", [APPENDICITIS, MIGRAINE, CHEST_PAIN, VAGUE])
def test_events_come_in_the_order_of_the_contract(make_app: AppMaker, symptoms: str) -> None:
    """One assessment, one or more replies, one end; each has exactly its fields."""
    with connect(make_app(Writer())) as client:
        events = stream(client, symptoms)
        whole = client.post("/diagnose", json={"symptoms": symptoms}).json()
    names = [event.name for event in events]
    assert names == ["assessment", *["reply"] * (len(events) - 2), "end"]
    assert len(events) > 2
    assert set(events[0].data) == set(whole) - {"reply"}
    assert all(set(event.data) == {"text"} for event in events[1:-1])
    assert set(events[-1].data) == {"reply", "timings_ms"}
    assert set(events[-1].data["timings_ms"]) == set(whole["timings_ms"])


def test_a_stream_says_what_a_whole_answer_says(make_app: AppMaker) -> None:
    """The same assessment and the same reply, ids and timings apart."""
    with connect(make_app(Writer())) as client:
        events = stream(client, APPENDICITIS)
        whole = client.post("/diagnose", json={"symptoms": APPENDICITIS}).json()
    streamed = {**events[0].data, "reply": events[-1].data["reply"]}
    assert {**streamed, "request_id": "", "timings_ms": {}} == {**whole, "request_id": "", "timings_ms": {}}
    assert streamed["reply"]["source"] == "model"


@pytest.mark.parametrize(
    ("pieces", "fails_with", "source", "reason"),
    [
        ([f"{EVOKE} {ACT}"], None, "model", None),
        ([f"{EVOKE} {REFUSED} {ACT}"], None, "template", "guard_dose"),
        ([f"{EVOKE} Pren"], "deadline", "template", "deadline"),
        (None, "queue_full", "template", "queue_full"),
        ([], None, "template", "cause_missing"),
        ([EVOKE], None, "template", "action_missing"),
    ],
)
def test_the_reply_events_make_up_the_reply(
    client: TestClient, model: FakeModel, pieces: list[str] | None, fails_with: str | None, source: str,
    reason: str | None,
) -> None:  # fmt: skip
    """Joined by spaces they are the text of the end event, whoever wrote it."""
    model.pieces, model.fails_with = pieces, fails_with
    events = stream(client, MIGRAINE)
    reply = events[-1].data["reply"]
    assert " ".join(sentences(events)) == reply["text"]
    assert (reply["source"], reply["reason"]) == (source, reason)
    assert "dans les 7 jours" in reply["text"]


def test_a_stream_without_reply_ends_at_once(client: TestClient, model: FakeModel) -> None:
    """Assessment, then end with null; the model is not asked."""
    events = stream(client, MIGRAINE, reply=False)
    assert [event.name for event in events] == ["assessment", "end"]
    assert events[-1].data["reply"] is None
    assert model.prompts == []


def test_a_stream_is_not_cached_nor_buffered(client: TestClient) -> None:
    """Proxies are told to pass each event on."""
    headers = client.post("/diagnose", json={"symptoms": MIGRAINE, "stream": True}).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"


def test_a_wrong_request_for_a_stream_gets_a_plain_error(client: TestClient) -> None:
    """Errors found before the first event are JSON with their status."""
    response = client.post("/diagnose", json={"symptoms": "ah", "stream": True})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "invalid_request"


def test_a_fault_before_the_first_event_is_a_plain_500(make_app: AppMaker, diagnoser: Diagnoser) -> None:
    """No half-open stream."""
    app = make_app(FakeModel())
    make_faulty(app, diagnoser)
    with connect(app) as client:
        response = client.post("/diagnose", json={"symptoms": MIGRAINE, "stream": True})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"


# --- while the model writes ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_urgency_is_there_before_the_model_has_said_anything(make_app: AppMaker) -> None:
    """A possible heart attack is told to call the 15 while the model has not produced one word."""
    model = HeldWriter("Un mot.")
    async with Exchange(make_app(model), {"symptoms": CHEST_PAIN, "stream": True}) as exchange:
        assert await exchange.status() == 200
        event = await exchange.event()
        assert event.name == "assessment"
        assert (event.data["urgency"]["level"], event.data["urgency"]["phone"]) == ("urgence_vitale", "15")
        await soon(model.asked.wait())
        assert model.said == []
        assert exchange.nothing_more()


@pytest.mark.anyio
async def test_each_sentence_is_sent_as_soon_as_it_is_whole(make_app: AppMaker) -> None:
    """The first sentence arrives while the model is in the middle of the second."""
    model = HeldWriter(f"{EVOKE} ", ACT[:10], ACT[10:])
    async with Exchange(make_app(model), {"symptoms": MIGRAINE, "stream": True}) as exchange:
        await exchange.status()
        await exchange.event()
        model.release(2)
        assert await exchange.event() == Event("reply", {"text": EVOKE})
        assert model.said == [f"{EVOKE} ", ACT[:10]]
        model.release(2)
        assert await exchange.event() == Event("reply", {"text": ACT})
        end = await exchange.event()
        assert (end.name, end.data["reply"]["source"]) == ("end", "model")


@pytest.mark.anyio
async def test_a_refused_sentence_ends_the_models_part(make_app: AppMaker) -> None:
    """It is not sent, the model is stopped where it is, and the template has the rest."""
    model = HeldWriter(f"{EVOKE} ", f"{REFUSED} ", f"{ACT} ", "Et bien plus encore.")
    async with Exchange(make_app(model), {"symptoms": MIGRAINE, "stream": True}) as exchange:
        await exchange.status()
        await exchange.event()
        model.release(2)
        events = [await exchange.event()]
        while events[-1].name != "end":
            events.append(await exchange.event())
        await soon(model.closed.wait())
    assert model.said == [f"{EVOKE} ", f"{REFUSED} "]
    assert sentences(events)[0] == EVOKE
    assert "paracétamol" not in str(events)
    reply = events[-1].data["reply"]
    assert (reply["source"], reply["reason"]) == ("template", "guard_dose")
    assert " ".join(sentences(events)) == reply["text"]


@pytest.mark.anyio
async def test_a_comment_keeps_the_connection_open(make_app: AppMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model thinks, a line that clients ignore is sent again and again; then the stream goes on."""
    monkeypatch.setattr(routes, "_KEEPALIVE_S", 0.01)
    model = HeldWriter(f"{EVOKE} {ACT}")
    async with Exchange(make_app(model), {"symptoms": MIGRAINE, "stream": True}) as exchange:
        await exchange.status()
        await exchange.event()
        for _ in range(3):
            comment = await exchange.chunk()
            assert comment.startswith(":")
            assert comment.endswith("\n\n")
        model.release(2)
        rest = ""
        while chunk := await exchange.chunk():
            rest += chunk
    assert [event.name for event in parse_events(rest)] == ["reply", "reply", "end"]


def test_ten_seconds_pass_between_two_comments() -> None:
    """The period of the contract."""
    assert routes._KEEPALIVE_S == 10.0


# --- clients that leave ----------------------------------------------------------------------------------------------


async def until(condition: Any, what: str) -> None:  # noqa: ANN401 - a function without arguments
    """Wait until `condition()` holds."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what) from None


@pytest.mark.anyio
@pytest.mark.parametrize("pieces_first", [0, 1])
async def test_a_client_that_leaves_stops_the_model(make_app: AppMaker, pieces_first: int) -> None:
    """Before the first word or between two, the model stops, and the request is no longer counted."""
    model = HeldWriter(f"{EVOKE} ", ACT, "Et encore.")
    app = make_app(model)
    async with Exchange(app, {"symptoms": MIGRAINE, "stream": True}) as exchange:
        await exchange.status()
        await exchange.event()
        await soon(model.asked.wait())
        model.release(pieces_first)
        if pieces_first:
            await exchange.event()
        assert in_flight(app) == 1
        exchange.hang_up()
        await soon(model.closed.wait())
        await exchange.over()
    await until(lambda: in_flight(app) == 0, "the request is still counted")
    assert len(model.said) == pieces_first


@pytest.mark.anyio
async def test_a_client_that_leaves_before_the_stream_takes_no_place(make_app: AppMaker) -> None:
    """Gone while the assessment was made: the place is free again, so that leaving often does not block the service."""
    app = make_app(HeldWriter("Un mot."), max_concurrent=1)
    for _ in range(3):
        exchange = Exchange(app, {"symptoms": MIGRAINE, "stream": True})
        exchange.hang_up()
        async with exchange:
            await exchange.over()
    await until(lambda: in_flight(app) == 0, "a request that is over is still counted")


@pytest.mark.anyio
async def test_a_closed_socket_stops_the_model(make_app: AppMaker) -> None:
    """The same through a real server: closing the connection ends the generation within moments."""
    model = HeldWriter(f"{EVOKE} ", ACT)
    app = make_app(model)
    async with running(app) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/diagnose", json={"symptoms": CHEST_PAIN, "stream": True}) as response:
            first = await anext(response.aiter_lines())
            assert first == "event: assessment"
            await soon(model.asked.wait())
        await soon(model.closed.wait())
        await until(lambda: in_flight(app) == 0, "the request is still counted")
    assert model.said == []


class running:
    """A real server in this event loop, as a context: its address."""

    def __init__(self, app: FastAPI) -> None:
        self._port = free_port()
        self._server = uvicorn.Server(uvicorn.Config(app, port=self._port, log_config=None, access_log=False))

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve())
        await until(lambda: self._server.started, "the server does not start")
        return f"http://127.0.0.1:{self._port}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task
