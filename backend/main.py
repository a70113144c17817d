"""The app factory, which reads as the list of what the service has, and `app` for `uvicorn backend.main:app`."""

from __future__ import annotations

import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from backend import __version__
from backend.body_limit import BodyLimit
from backend.core.diagnose import Diagnoser
from backend.core.guard import load_guard
from backend.core.knowledge import load
from backend.core.ports import ReplyModel
from backend.engine.opener import opener_for
from backend.engine.scheduler import Engine
from backend.errors import BY_STATUS, InvalidRequest, NotJson, PublicError, Unauthorized, UnsupportedMediaType
from backend.log import configure_logging, log_event
from backend.metrics import Metrics
from backend.replies import ReplyWriter
from backend.routes import Service, build_router
from backend.schemas import ErrorBody, ErrorOut, ProblemOut, field_problems
from backend.settings import Settings, load_settings

_LARGEST_BODY = 64 * 1024
_ASSESSMENT_THREADS = 2


def create_app(settings: Settings | None = None, model: ReplyModel | None = None) -> FastAPI:
    """The service. `model` replaces the engine (tests); otherwise the settings say which model to open.

    Raises:
        SettingsError: a setting is unknown or out of bounds.
        KnowledgeError: the knowledge base is not usable.
    """
    settings = settings or load_settings()
    configure_logging(settings.log_level)
    knowledge = load()
    engine = None if model is not None or not settings.model_enabled else _engine(settings)
    metrics = Metrics()
    writer = ReplyWriter(model or engine, load_guard(knowledge), metrics)
    pool = ThreadPoolExecutor(_ASSESSMENT_THREADS, thread_name_prefix="doctis-assess")
    service = Service(Diagnoser(knowledge), writer, metrics, pool, settings.max_concurrent)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if engine is not None:
            engine.start()
        log_event("started", version=__version__, knowledge=knowledge.version)
        yield
        if engine is not None:
            engine.stop()
        pool.shutdown()
        log_event("stopped")

    app = FastAPI(
        title="Doctis AI", version=__version__, lifespan=lifespan,
        description="Orientation à partir de symptômes décrits en français. N'est pas un dispositif médical.",
    )  # fmt: skip
    app.state.service = service
    app.include_router(build_router(_protection(settings)))
    app.add_middleware(BodyLimit, most_bytes=_LARGEST_BODY)
    app.middleware("http")(_observe)
    app.add_exception_handler(PublicError, _answer_public_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_unexpected_error)
    return app


def _engine(settings: Settings) -> Engine:
    return Engine(
        opener_for(settings), reply_tokens=settings.reply_tokens, deadline_s=settings.reply_deadline_s,
        queue_limit=settings.queue_limit,
    )  # fmt: skip


def _protection(settings: Settings) -> Callable[[Request], Awaitable[None]]:
    """Checks the key (in constant time) and that a body is said to be JSON."""
    expected = settings.api_key.get_secret_value().encode() if settings.api_key else None

    async def protect(request: Request) -> None:
        if expected is not None:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            given = key.strip().encode() if scheme.lower() == "bearer" else b""
            if not hmac.compare_digest(given, expected):
                raise Unauthorized
        if request.method == "POST":
            media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
            if media_type != "application/json":
                raise UnsupportedMediaType

    return protect


async def _observe(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Give each request an id, log one line and count it: the route's template, never the raw path or the text."""
    request.state.request_id = uuid.uuid4().hex
    started = time.perf_counter()
    try:
        response = await call_next(request)
    except Exception as error:  # Starlette's handler would answer too, but uncounted, and uvicorn drops the connection
        response = await _answer_unexpected_error(request, error)
    route = getattr(request.scope.get("route"), "path", "unknown")
    service: Service = request.app.state.service
    service.metrics.requests.labels(route, str(response.status_code)).inc()
    response.headers["X-Request-ID"] = request.state.request_id
    if route not in ("/health", "/metrics"):
        log_event(
            "request", route=route, status=response.status_code, ms=round(1000 * (time.perf_counter() - started), 1),
            request_id=request.state.request_id,
        )  # fmt: skip
    return response


def _to_response(error: PublicError, request: Request) -> JSONResponse:
    body = ErrorOut(
        error=ErrorBody(
            code=error.code, message=error.message, request_id=getattr(request.state, "request_id", ""),
            fields=[ProblemOut(field=p.field, type=p.type, message=p.message) for p in error.fields] or None,
        )
    )  # fmt: skip
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body.model_dump(exclude_none=True), status_code=error.status, headers=headers)


async def _answer_public_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PublicError)
    return _to_response(error, request)


async def _answer_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return _to_response(NotJson(), request)
    return _to_response(InvalidRequest(field_problems(problems)), request)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework: unknown path, wrong method, body too large, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    known = BY_STATUS.get(error.status_code)
    response = _to_response(known() if known else NotJson() if error.status_code == 400 else PublicError(), request)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _answer_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    """A fault, logged by type and place; in the middle of a stream the answer is lost and only the log line is left."""
    request_id = getattr(request.state, "request_id", "")
    log_event("unexpected_error", level=logging.ERROR, exc=error, request_id=request_id)
    return _to_response(PublicError(), request)


def __getattr__(name: str) -> FastAPI:
    """`backend.main:app` is made on first use, so that importing this module in a test starts nothing."""
    if name == "app":
        globals()["app"] = create_app()
        app: FastAPI = globals()["app"]
        return app
    raise AttributeError(name)
