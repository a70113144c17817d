"""One owner thread around the model: it downloads, loads and generates; the event loop only exchanges messages.

Requests wait in a bounded queue and are served one at a time. A request that is cancelled, or whose deadline passes,
stops before the next token, also while its prompt is being read. When the model cannot serve, callers get
`ReplyUnavailable` with the reason at once. Not covered yet: several replies in one batch.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backend.core.ports import ModelStatus, Phase, ReplyUnavailable
from backend.core.prompt import Piece, Prompt, Style
from backend.errors import ModelError
from backend.log import log_event


class Model(Protocol):
    """A loaded model, as the owner thread uses it."""

    context_tokens: int

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of a prompt."""
        ...

    def generate(self, prompt: Sequence[int], most_tokens: int, stop: Callable[[], bool]) -> Iterator[str]:
        """Pieces of the continuation, until the end, the limit, or `stop()`."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready to serve, with its name and how it wants its prompts."""

    model: Model
    name: str
    style: Style


Report = Callable[[ModelStatus], None]
Opener = Callable[[Report, threading.Event], Opened]
"""Finds and loads the model, reporting its phases; returns early with an error when the event is set."""


@dataclass(eq=False)
class _Job:
    prompt: Prompt
    deadline: float
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[str | ReplyUnavailable | None] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def over(self) -> bool:
        return self.cancelled.is_set() or time.monotonic() >= self.deadline

    def send(self, item: str | ReplyUnavailable | None) -> None:
        if not self.cancelled.is_set() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, item)


class Engine:
    """A reply model behind one thread. `start` returns at once; `stop` waits for the thread."""

    def __init__(self, opener: Opener, *, reply_tokens: int, deadline_s: float, queue_limit: int) -> None:
        self._opener = opener
        self._reply_tokens = reply_tokens
        self._deadline_s = deadline_s
        self._jobs: queue.Queue[_Job] = queue.Queue(queue_limit)
        self._stopping = threading.Event()
        self._status = ModelStatus(Phase.WAITING)
        self._style = Style.SLOTS
        self._thread = threading.Thread(target=self._run, name="doctis-model", daemon=True)

    @property
    def status(self) -> ModelStatus:
        """The current phase; a frozen snapshot."""
        return self._status

    @property
    def style(self) -> Style:
        """How the loaded model wants its prompts."""
        return self._style

    def start(self) -> None:
        """Start the owner thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Refuse new work, let the running reply end, and wait for the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    async def write(self, prompt: Prompt) -> AsyncIterator[str]:
        """Pieces of the reply as they come, slots filled in.

        Raises:
            ReplyUnavailable: `not_ready`, `queue_full`, `deadline`, `prompt_too_long`, `model_error`, `stopping`.
        """
        if self._status.phase is not Phase.READY:
            raise ReplyUnavailable("stopping" if self._stopping.is_set() else "not_ready")
        job = _Job(prompt, time.monotonic() + self._deadline_s, asyncio.get_running_loop())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise ReplyUnavailable("queue_full") from None
        try:
            if self._stopping.is_set():  # asked after queueing: the thread may have emptied the queue just before
                raise ReplyUnavailable("stopping")
            while True:
                left_s = job.deadline - time.monotonic()
                try:
                    item = await asyncio.wait_for(job.pieces.get(), max(left_s, 0.001))
                except TimeoutError:
                    raise ReplyUnavailable("deadline") from None
                if item is None:
                    return
                if isinstance(item, ReplyUnavailable):
                    raise item
                yield item
        finally:
            job.cancelled.set()

    def _report(self, status: ModelStatus) -> None:
        self._status = status

    def _run(self) -> None:
        try:
            opened = self._opener(self._report, self._stopping)
        except ModelError as error:
            self._status = ModelStatus(Phase.FAILED, reason=error.reason)
            log_event("model_failed", level=logging.ERROR, reason=error.reason, detail=str(error))
            return
        except Exception as error:  # the one boundary of the thread: a dead thread must say so in /ready
            self._status = ModelStatus(Phase.FAILED, reason="internal_error")
            log_event("model_failed", level=logging.ERROR, exc=error, reason="internal_error")
            return
        self._style = opened.style
        self._status = ModelStatus(Phase.READY, name=opened.name)
        log_event("model_ready", model=opened.name, style=opened.style.value)
        while not self._stopping.is_set():
            try:
                job = self._jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            self._serve(job, opened.model)
        self._status = ModelStatus(Phase.STOPPED, name=opened.name)
        while not self._jobs.empty():
            self._jobs.get_nowait().send(ReplyUnavailable("stopping"))
        opened.model.close()

    def _serve(self, job: _Job, model: Model) -> None:
        if job.over():
            return
        try:
            tokens = model.encode(job.prompt.pieces)
            if len(tokens) + self._reply_tokens > model.context_tokens:
                job.send(ReplyUnavailable("prompt_too_long"))
                return
            for piece in model.generate(tokens, self._reply_tokens, job.over):
                job.send(job.prompt.slots.get(piece, piece))
            job.send(None if not job.over() else ReplyUnavailable("deadline"))
        except Exception as error:  # the one boundary of the thread: the next request must still be served
            job.send(ReplyUnavailable("model_error"))
            log_event("reply_failed", level=logging.ERROR, exc=error)
