"""Forty clients at once: every answer belongs to its request and equals the one that it gets alone."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.core.knowledge import Knowledge
from tests.http.conftest import APPENDICITIS, CHEST_PAIN, MIGRAINE, VAGUE, AppMaker, Writer, in_flight, parse_events

CLIENTS = 40


@pytest.fixture
def bodies(knowledge: Knowledge) -> list[dict[str, Any]]:
    """Forty requests, each with another text, some with fields, answers and fewer results."""
    cases = [rule.positive[0] for rule in knowledge.red_flags[: CLIENTS - 4]]
    texts = [APPENDICITIS, MIGRAINE, CHEST_PAIN, VAGUE, *(case.text for case in cases)]
    made = [{"symptoms": f"{text}. Appel numéro {number}."} for number, text in enumerate(texts)]
    fields: list[dict[str, Any]] = [
        {}, {"age": 30, "sex": "F"}, {"max_results": 10}, {"evidence": [{"id": "fever", "state": "absent"}]},
        {"age": 75.5, "sex": "M", "max_results": 1},
    ]  # fmt: skip
    return [{**body, **fields[number % len(fields)]} for number, body in enumerate(made)]


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without its id and its timings."""
    return {**answer, "request_id": "", "timings_ms": {}}


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client in this event loop."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60)


@pytest.mark.anyio
async def test_forty_clients_get_what_each_gets_alone(make_app: AppMaker, bodies: list[dict[str, Any]]) -> None:
    """Assessment and reply, field by field; every request id is unique, and every place is free again."""
    assert len({body["symptoms"] for body in bodies}) == CLIENTS
    app = make_app(Writer())
    async with client_of(app) as client:
        alone = [(await client.post("/diagnose", json=body)).json() for body in bodies]
        responses = await asyncio.gather(*(client.post("/diagnose", json=body) for body in bodies))
    together = [response.json() for response in responses]
    assert [response.status_code for response in responses] == [200] * CLIENTS
    assert [comparable(answer) for answer in together] == [comparable(answer) for answer in alone]
    assert len({answer["request_id"] for answer in (*alone, *together)}) == 2 * CLIENTS
    assert len({str(comparable(answer)) for answer in alone}) == CLIENTS
    assert in_flight(app) == 0


@pytest.mark.anyio
async def test_replies_written_at_once_are_not_mixed(make_app: AppMaker, bodies: list[dict[str, Any]]) -> None:
    """Forty streams whose replies are written in turns, two letters each: each names its own first cause."""
    model = Writer()
    app = make_app(model)
    async with client_of(app) as client:
        responses = await asyncio.gather(*(client.post("/diagnose", json={**b, "stream": True}) for b in bodies))
    for response in responses:
        events = parse_events(response.text)
        assessment, end = events[0].data, events[-1].data
        assert end["reply"]["source"] == "model", end["reply"]["reason"]
        if assessment["outcome"] == "answered":
            assert assessment["differential"][0]["name"] in end["reply"]["text"]
        assert " ".join(event.data["text"] for event in events[1:-1]) == end["reply"]["text"]
    assert len(model.prompts) == CLIENTS
    assert in_flight(app) == 0


@pytest.mark.anyio
async def test_quotes_are_the_requests_own(make_app: AppMaker, bodies: list[dict[str, Any]]) -> None:
    """Under load, no quote comes from another person's text."""
    async with client_of(make_app(None)) as client:
        responses = await asyncio.gather(*(client.post("/diagnose", json={**b, "reply": False}) for b in bodies))
    for body, response in zip(bodies, responses, strict=True):
        text, answer = body["symptoms"], response.json()
        spans = [span for span in (*answer["findings"], *answer["unmatched"]) if span["start"] is not None]
        assert [text[span["start"] : span["end"]] for span in spans] == [span["quote"] for span in spans]
