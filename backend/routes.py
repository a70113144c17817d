"""The HTTP routes: parse, call the core, serialise. No rule of medicine and no model code lives here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from anyio import CancelScope
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Send

from backend.core.diagnose import Diagnoser
from backend.core.entities import Assessment, Patient
from backend.core.facts import facts_of
from backend.core.ports import Phase
from backend.errors import NotFound, Overloaded
from backend.metrics import Metrics
from backend.replies import Reply, ReplyWriter
from backend.schemas import (
    AssessmentOut,
    DiagnoseRequest,
    DiagnoseResponse,
    ErrorOut,
    FindingList,
    PathologyList,
    PathologyOut,
)
from backend.serialise import assessment_out, finding_item, pathology_item, pathology_out, reply_out

_KEEPALIVE_S = 10.0
_ANY_ERROR: dict[str, Any] = {"model": ErrorOut, "description": "Error"}
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorOut} for status in (401, 413, 415, 422, 500, 503)}


@dataclass(frozen=True)
class Service:
    """What the routes work with; built once by the app factory."""

    diagnoser: Diagnoser
    writer: ReplyWriter
    metrics: Metrics
    pool: ThreadPoolExecutor
    max_concurrent: int


def service_of(request: Request) -> Service:
    """The service of this app."""
    service: Service = request.app.state.service
    return service


def build_router(protected: Callable[[Request], Awaitable[None]]) -> APIRouter:
    """The routes; `protected` is the dependency that checks the API key and the content type."""
    router = APIRouter()
    router.post(
        "/diagnose", response_model=DiagnoseResponse, responses=_ERRORS, dependencies=[Depends(protected)],
        summary="Assess a description of symptoms",
    )(diagnose)  # fmt: skip
    for path, endpoint, model in (
        ("/pathologies", list_pathologies, PathologyList),
        ("/pathologies/{pathology_id}", show_pathology, PathologyOut),
        ("/findings", list_findings, FindingList),
    ):
        router.get(
            path, response_model=model, responses={"default": _ANY_ERROR}, dependencies=[Depends(protected)]
        )(endpoint)  # fmt: skip
    router.get("/health")(health)
    router.head("/health", include_in_schema=False)(health)  # some uptime monitors only ask for the head
    router.get("/ready")(ready)
    router.get("/metrics", include_in_schema=False)(metrics)
    return router


async def diagnose(body: DiagnoseRequest, request: Request) -> Response:
    """Urgency, ranked causes with their evidence, next questions, and a short written reply."""
    service = service_of(request)
    started = time.perf_counter()
    if service.metrics.in_flight._value.get() >= service.max_concurrent:  # noqa: SLF001 - prometheus_client has no getter
        raise Overloaded
    with service.metrics.in_flight.track_inprogress():
        assessment = await _assess(service, body)
        status = service.writer.status
        model = status.name if status.phase is Phase.READY else None
        out = assessment_out(assessment, request.state.request_id, service.diagnoser.knowledge.version, model)
        if not body.stream:
            return await _answer(service, body, assessment, out, started)
    return _EventStream(_with_keepalive(_events(service, body, assessment, out, started)))


async def _assess(service: Service, body: DiagnoseRequest) -> Assessment:
    """Assess in a worker thread: a few milliseconds, but the event loop must answer /health meanwhile."""
    patient = Patient(body.age, body.sex, body.pregnant)
    loop = asyncio.get_running_loop()
    assessment = await loop.run_in_executor(
        service.pool, lambda: service.diagnoser.assess(body.symptoms, patient, body.answers(), body.max_results)
    )
    service.metrics.assessment_seconds.observe((assessment.understand_ms + assessment.rank_ms) / 1000)
    service.metrics.urgency.labels(assessment.triage.level.value).inc()
    service.metrics.outcome.labels(assessment.outcome.value).inc()
    return assessment


async def _answer(
    service: Service, body: DiagnoseRequest, assessment: Assessment, out: AssessmentOut, started: float
) -> Response:
    reply: Reply | None = None
    reply_started = time.perf_counter()
    if body.reply:
        async with aclosing(service.writer.write(facts_of(assessment), body.symptoms)) as parts:
            async for part in parts:
                if isinstance(part, Reply):
                    reply = part
    _time(out, service, reply_started if body.reply else None, started)
    whole = DiagnoseResponse(**dict(out), reply=reply_out(reply) if reply else None)
    return Response(whole.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})


def _time(out: AssessmentOut, service: Service, reply_started: float | None, started: float) -> None:
    now = time.perf_counter()
    if reply_started is not None:
        out.timings_ms.reply = round(1000 * (now - reply_started), 3)
        service.metrics.reply_seconds.observe(now - reply_started)
    out.timings_ms.total = round(1000 * (now - started), 3)


async def _events(
    service: Service, body: DiagnoseRequest, assessment: Assessment, out: AssessmentOut, started: float
) -> AsyncGenerator[bytes, None]:
    """The assessment at once, then each verified sentence, then the whole reply.

    It counts itself as under way: when the client has gone before the first event is asked for, none of this runs.
    """
    with service.metrics.in_flight.track_inprogress():
        _time(out, service, None, started)
        yield format_sse_event(event="assessment", data_str=out.model_dump_json())
        reply: Reply | None = None
        reply_started = time.perf_counter()
        if body.reply:
            async with aclosing(service.writer.write(facts_of(assessment), body.symptoms)) as parts:
                async for part in parts:
                    if isinstance(part, Reply):
                        reply = part
                    else:
                        yield format_sse_event(event="reply", data_str=_json({"text": part}))
        _time(out, service, reply_started if body.reply else None, started)
        end = {"reply": reply_out(reply).model_dump() if reply else None, "timings_ms": out.timings_ms.model_dump()}
        yield format_sse_event(event="end", data_str=_json(end))


def _json(content: dict[str, Any]) -> str:
    return bytes(JSONResponse(content).body).decode()


class _EventStream(StreamingResponse):
    """Server-sent events that are closed as soon as the client has gone.

    Starlette leaves that to the garbage collector; until it comes, the model would write for nobody and the request
    would keep its place.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            with CancelScope(shield=True):
                await self._events.aclose()


async def _with_keepalive(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events, and a comment line after every ten silent seconds so that no proxy closes the connection."""
    pending = asyncio.create_task(_next(events))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=_KEEPALIVE_S)
            if not done:
                yield format_sse_event(comment="en cours")
                continue
            event = pending.result()
            if event is None:
                return
            yield event
            pending = asyncio.create_task(_next(events))
    finally:
        pending.cancel()
        with CancelScope(shield=True):
            await asyncio.gather(pending, return_exceptions=True)
            await events.aclose()


async def _next(events: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(events, None)


async def list_pathologies(request: Request) -> PathologyList:
    """Every pathology that the service knows."""
    knowledge = service_of(request).diagnoser.knowledge
    return PathologyList(pathologies=[pathology_item(p) for p in knowledge.pathologies.values()])


async def show_pathology(pathology_id: str, request: Request) -> PathologyOut:
    """One pathology with its findings, advice and sources."""
    knowledge = service_of(request).diagnoser.knowledge
    pathology = knowledge.pathologies.get(pathology_id)
    if pathology is None:
        raise NotFound
    return pathology_out(pathology, {f.id: f.label for f in knowledge.findings.values()})


async def list_findings(request: Request) -> FindingList:
    """Every finding that can be asked or answered."""
    knowledge = service_of(request).diagnoser.knowledge
    return FindingList(findings=[finding_item(f) for f in knowledge.findings.values()])


async def health(request: Request) -> dict[str, str]:
    """200 as soon as assessments can be given, whatever the model does."""
    return {"status": "ok", "knowledge": service_of(request).diagnoser.knowledge.version}


async def ready(request: Request) -> JSONResponse:
    """200 when the reply model works too; else 503 with its phase and progress."""
    status = service_of(request).writer.status
    content = {"phase": status.phase.value, "model": status.name, "progress": status.progress, "reason": status.reason}
    working = status.phase in (Phase.READY, Phase.OFF)
    return JSONResponse(content, status_code=200 if working else 503)


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(service_of(request).metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
