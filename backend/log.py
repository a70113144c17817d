"""Structured logs: one JSON object a line, made of known fields only, so that no patient text can slip in.

Exceptions are logged by type and place, never by message: a message may quote the input.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Any

_LOGGER = logging.getLogger("doctis")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        fields = getattr(record, "fields", None)
        if fields is None:  # a library's record: its name and constant text, no arguments, nor what asyncio adds below
            message = str(record.msg).split("\n", 1)[0][:200]
            line |= {"event": "library", "logger": record.name, "message": message}
        else:
            line |= fields
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = describe_exception(record.exc_info[0], record.exc_info[2])
        return json.dumps(line, ensure_ascii=False)


def describe_exception(kind: type[BaseException], trace: TracebackType | None) -> str:
    """Type and places of an exception, without its message: "ValueError at ranking.py:120 < diagnose.py:50"."""
    frames = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
    return f"{kind.__name__} at {' < '.join(reversed(frames[-6:]))}"


def configure_logging(level: str) -> None:
    """Send every log line to standard output as JSON; uvicorn's access log, which holds addresses, is silenced."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True


def log_event(
    event: str, *, level: int = logging.INFO, exc: BaseException | None = None, **fields: str | float | None
) -> None:
    """Log one event with short technical fields (codes, counts, times); never any text of a patient."""
    exc_info = (type(exc), exc, exc.__traceback__) if exc is not None else None
    _LOGGER.log(level, event, extra={"fields": {"event": event, **fields}}, exc_info=exc_info)
