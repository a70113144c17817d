"""The owner thread and its queue, with models of bytes: who is served, who is refused, and who never waits.

Models here stop at a gate that the test opens, so that nothing depends on how fast a machine is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import cast

import pytest

from backend.core.ports import ModelStatus, Phase, ReplyUnavailable
from backend.core.prompt import Piece, Prompt, Style
from backend.engine.scheduler import Engine, Model, Opened, Opener, Report
from backend.errors import ModelError
from backend.log import _JsonFormatter
from tests.engine.conftest import PATIENCE_S, eventually
from tests.fakes import ByteModel

pytestmark = pytest.mark.anyio

ANSWER = "Bonjour."


class Gate:
    """Lets `free` steps pass, then holds the thread until it is opened."""

    def __init__(self, free: int = 0) -> None:
        self._free = free
        self._open = threading.Event()
        self.reached = threading.Event()
        self.in_time = True

    def __call__(self) -> None:
        """Pass, or wait; `in_time` becomes false when nobody opened."""
        if self._free > 0:
            self._free -= 1
            return
        self.reached.set()
        self.in_time = self._open.wait(PATIENCE_S) and self.in_time

    def open(self) -> None:
        """Let everything pass."""
        self._open.set()


class EchoModel(ByteModel):
    """Answers with its own prompt, and remembers the prompts it read."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []

    def generate(self, prompt: Sequence[int], most_tokens: int, stop: Callable[[], bool]) -> Iterator[str]:
        """The prompt, letter by letter."""
        self.answer = bytes(prompt).decode()
        self.prompts.append(self.answer)
        return super().generate(prompt, most_tokens, stop)


def ready(model: Model) -> Opener:
    """An opener that has the model at hand."""
    return lambda _report, _stopping: Opened(model, "bytes", Style.CHATML)


def ask(text: str = "J'ai mal.") -> Prompt:
    """A prompt without slots."""
    return Prompt((Piece(text),), {})


@contextmanager
def running(
    opener: Opener, *, reply_tokens: int = 64, deadline_s: float = PATIENCE_S, queue_limit: int = 8
) -> Iterator[Engine]:
    """A started engine whose opener has returned; stopped at the end."""
    engine = Engine(opener, reply_tokens=reply_tokens, deadline_s=deadline_s, queue_limit=queue_limit)
    engine.start()
    try:
        eventually(lambda: engine.status.phase in (Phase.READY, Phase.FAILED))
        yield engine
    finally:
        engine.stop()
        assert not engine._thread.is_alive()


async def reached(gate: Gate) -> None:
    """Wait, without holding the event loop, until the model stands at the gate."""
    assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)


def writing(engine: Engine, prompt: Prompt) -> AsyncGenerator[str, None]:
    """A reply that the test may leave before its end."""
    return cast("AsyncGenerator[str, None]", engine.write(prompt))


async def reply(engine: Engine, prompt: Prompt | None = None) -> str:
    """The whole reply."""
    async with asyncio.timeout(2 * PATIENCE_S):
        return "".join([piece async for piece in engine.write(prompt or ask())])


async def all_of(*replies: Awaitable[str]) -> list[str]:
    """Several replies at once, in the order they were asked for."""
    return list(await asyncio.gather(*replies))


async def refusal(engine: Engine, prompt: Prompt | None = None) -> str:
    """Why there is no reply."""
    with pytest.raises(ReplyUnavailable) as caught:
        await reply(engine, prompt)
    return caught.value.reason


async def queued(engine: Engine, *prompts: Prompt) -> list[asyncio.Task[str]]:
    """Requests that are in the queue when this returns, in this order."""
    tasks = []
    for prompt in prompts:
        before = engine._jobs.qsize()
        tasks.append(asyncio.create_task(reply(engine, prompt)))
        async with asyncio.timeout(PATIENCE_S):
            while engine._jobs.qsize() == before:
                await asyncio.sleep(0)
    return tasks


async def test_the_reply_comes_piece_by_piece() -> None:
    """Pieces arrive in order, one by one, then the stream ends."""
    with running(ready(ByteModel(ANSWER))) as engine:
        assert [piece async for piece in engine.write(ask())] == list(ANSWER)


async def test_slots_are_filled_in() -> None:
    """A piece that is a slot of the prompt becomes what the slot stands for."""
    prompt = Prompt((Piece("x"),), {"o": " une appendicite "})
    with running(ready(ByteModel("Bon"))) as engine:
        assert await reply(engine, prompt) == "B une appendicite n"


async def test_the_reply_is_no_longer_than_allowed() -> None:
    """`reply_tokens` bounds what the model may write."""
    with running(ready(ByteModel(ANSWER)), reply_tokens=3) as engine:
        assert await reply(engine) == ANSWER[:3]


async def test_requests_are_served_one_after_another_on_one_thread() -> None:
    """The model is opened, used and closed by its owner thread alone."""
    threads: set[str] = set()

    class Watched(ByteModel):
        def encode(self, pieces: Sequence[Piece]) -> list[int]:
            threads.add(threading.current_thread().name)
            return super().encode(pieces)

        def close(self) -> None:
            threads.add(threading.current_thread().name)
            super().close()

    model = Watched(ANSWER)
    model.before_step = lambda: threads.add(threading.current_thread().name)

    def open_model(_report: Report, _stopping: threading.Event) -> Opened:
        threads.add(threading.current_thread().name)
        return Opened(model, "bytes", Style.CHATML)

    with running(open_model) as engine:
        assert await all_of(reply(engine), reply(engine)) == [ANSWER, ANSWER]
    assert model.closed
    assert threads == {"doctis-model"}


async def test_eight_requests_at_once_are_not_mixed() -> None:
    """Each of eight callers gets the reply to its own prompt."""
    texts = [f"La personne {number} a mal {'très ' * number}fort." for number in range(8)]
    with running(ready(EchoModel()), reply_tokens=256) as engine:
        assert await all_of(*(reply(engine, ask(text)) for text in texts)) == texts


async def test_a_full_queue_is_refused_at_once() -> None:
    """One request is being served and two wait: the fourth is refused while the model still stands at the gate."""
    model, gate = EchoModel(), Gate()
    model.before_step = gate
    with running(ready(model), queue_limit=2) as engine:
        first = asyncio.create_task(reply(engine, ask("premier")))
        await reached(gate)
        waiting = await queued(engine, ask("deuxième"), ask("troisième"))
        assert await refusal(engine, ask("quatrième")) == "queue_full"
        gate.open()
        assert await all_of(first, *waiting) == ["premier", "deuxième", "troisième"]
    assert gate.in_time
    assert model.prompts == ["premier", "deuxième", "troisième"]


async def test_the_event_loop_is_never_blocked() -> None:
    """A heartbeat ticks on while the model takes its time over one step."""
    model, gate = ByteModel(ANSWER), Gate(free=2)
    model.before_step = gate
    with running(ready(model)) as engine:
        task = asyncio.create_task(reply(engine))
        await reached(gate)
        ticks = 0
        while ticks < 50:
            await asyncio.sleep(0.001)
            ticks += 1
        assert not task.done()
        gate.open()
        assert await task == ANSWER
    assert gate.in_time


async def test_a_deadline_stops_the_model_within_a_step() -> None:
    """The caller is told while the model is in the middle of a step; the model makes no further one."""
    model, gate = ByteModel(ANSWER), Gate(free=2)
    model.before_step = gate
    with running(ready(model), deadline_s=0.1) as engine:
        assert await refusal(engine) == "deadline"
        gate.open()
    assert gate.in_time
    assert model.steps <= 2


async def test_a_deadline_counts_while_the_caller_is_busy() -> None:
    """A caller that took one letter and does not come back for the next keeps the model no longer than the deadline."""
    model, gate = ByteModel(ANSWER), Gate(free=1)
    model.before_step = gate
    with running(ready(model), deadline_s=0.1) as engine:
        pieces = writing(engine, ask())
        with suppress(ReplyUnavailable):  # on a machine so slow that not even the first letter came in time
            assert await anext(pieces) == ANSWER[0]
        await asyncio.sleep(0.15)
        gate.open()
        engine.stop()
        assert model.steps <= 1
        with pytest.raises((ReplyUnavailable, StopAsyncIteration)):
            await anext(pieces)
    assert gate.in_time


async def test_a_deadline_also_counts_the_time_in_the_queue() -> None:
    """A request whose time is over before its turn is refused, and the model never reads it."""
    model, gate = EchoModel(), Gate()
    model.before_step = gate
    with running(ready(model), deadline_s=0.1) as engine:
        first = asyncio.create_task(refusal(engine, ask("premier")))
        await reached(gate)
        assert await refusal(engine, ask("deuxième")) == "deadline"
        assert await first == "deadline"
        gate.open()
    assert gate.in_time
    assert model.prompts == ["premier"]


async def test_a_caller_that_leaves_frees_the_thread() -> None:
    """After one letter the caller is gone: the model stops within a step and the next caller is served."""
    model, gate = ByteModel(ANSWER), Gate(free=1)
    model.before_step = gate
    with running(ready(model)) as engine:
        async with aclosing(writing(engine, ask())) as pieces:
            assert await anext(pieces) == ANSWER[0]
            await reached(gate)
        gate.open()
        assert await reply(engine) == ANSWER
    assert gate.in_time
    assert model.steps == 1 + len(ANSWER)


async def test_a_task_that_is_cancelled_frees_the_thread() -> None:
    """The same when the caller's task is cancelled while it waits for a piece, as a lost connection does."""
    model, gate = ByteModel(ANSWER), Gate()
    model.before_step = gate
    with running(ready(model)) as engine:
        task = asyncio.create_task(reply(engine))
        await reached(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert await reply(engine) == ANSWER
    assert gate.in_time
    assert model.steps == len(ANSWER)


async def test_a_caller_that_leaves_the_queue_is_never_served() -> None:
    """A request cancelled before its turn costs the model nothing, and does not hold up the one behind it."""
    model, gate = EchoModel(), Gate()
    model.before_step = gate
    with running(ready(model)) as engine:
        first = asyncio.create_task(reply(engine, ask("premier")))
        await reached(gate)
        gone, last = await queued(engine, ask("parti"), ask("dernier"))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.open()
        assert await all_of(first, last) == ["premier", "dernier"]
    assert gate.in_time
    assert model.prompts == ["premier", "dernier"]


async def test_an_error_of_the_model_reaches_only_its_caller() -> None:
    """A reply that fails says so; those before and after it, waiting in the same queue, are whole."""
    model, gate = EchoModel(), Gate()
    model.before_step = gate
    with running(ready(model)) as engine:
        first = asyncio.create_task(reply(engine, ask("premier")))
        await reached(gate)
        failing, last = await queued(engine, ask(""), ask("dernier"))
        gate.open()
        assert await all_of(first, last) == ["premier", "dernier"]
        with pytest.raises(ReplyUnavailable, match="model_error"):
            await failing
        assert await reply(engine, ask("encore")) == "encore"
    assert gate.in_time


async def test_an_error_in_the_middle_comes_after_the_pieces_before_it() -> None:
    """What was written stays written; then the caller learns that there is no more."""
    model = ByteModel(ANSWER)

    def fail_at_third() -> None:
        if model.steps == 2:
            raise ModelError("decode_failed", "llama_decode returned 1")

    model.before_step = fail_at_third
    with running(ready(model)) as engine:
        pieces = writing(engine, ask())
        assert [await anext(pieces), await anext(pieces)] == list(ANSWER[:2])
        with pytest.raises(ReplyUnavailable, match="model_error"):
            await anext(pieces)
        model.steps = 3
        assert await reply(engine) == ANSWER


async def test_an_error_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    """An error may quote the patient: the log gets its type and place only."""
    with running(ready(ByteModel(ANSWER))) as engine:
        assert await refusal(engine, ask("")) == "model_error"
    lines = [_JsonFormatter().format(record) for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert '"event": "reply_failed"' in lines[0]
    assert "ValueError at fakes.py" in lines[0]
    assert "J'ai mal" not in lines[0]


@pytest.mark.parametrize(("context_tokens", "fits"), [(64 + 9, True), (64 + 8, False)])
async def test_a_prompt_must_leave_room_for_the_reply(context_tokens: int, fits: bool) -> None:
    """Prompt and longest reply together are at most the context, to the token."""
    prompt = ask("neuf mots")
    assert len(prompt.pieces[0].text.encode()) == 9
    model = ByteModel(ANSWER, context_tokens)
    with running(ready(model), reply_tokens=64) as engine:
        if fits:
            assert await reply(engine, prompt) == ANSWER
        else:
            assert await refusal(engine, prompt) == "prompt_too_long"
            assert model.steps == 0
            assert await reply(engine, ask("court")) == ANSWER


async def test_a_model_that_is_not_ready_is_said_at_once() -> None:
    """While the opener works, its phases are visible and requests are refused, not queued."""
    gate, model = Gate(), ByteModel(ANSWER)
    downloading = ModelStatus(Phase.DOWNLOADING, name="big.gguf", progress=0.25)

    def open_slowly(report: Report, _stopping: threading.Event) -> Opened:
        report(downloading)
        gate()
        return Opened(model, "bytes", Style.ZEPHYR)

    engine = Engine(open_slowly, reply_tokens=64, deadline_s=PATIENCE_S, queue_limit=8)
    assert engine.status == ModelStatus(Phase.WAITING)
    assert await refusal(engine) == "not_ready"
    engine.start()
    await reached(gate)
    assert engine.status == downloading
    assert await refusal(engine) == "not_ready"
    gate.open()
    await asyncio.to_thread(eventually, lambda: engine.status.phase is Phase.READY)
    assert engine.status == ModelStatus(Phase.READY, name="bytes")
    assert engine.style is Style.ZEPHYR
    assert await reply(engine) == ANSWER
    engine.stop()


async def test_a_model_that_cannot_be_opened_says_why() -> None:
    """The reason is in the status, the thread has ended, and callers are refused at once."""

    def fail(_report: Report, _stopping: threading.Event) -> Opened:
        raise ModelError("wrong_hash", "models/mini.gguf: its SHA-256 is not the expected one")

    with running(fail) as engine:
        assert engine.status == ModelStatus(Phase.FAILED, reason="wrong_hash")
        assert await refusal(engine) == "not_ready"


async def test_an_unexpected_error_of_the_opener_is_a_status_too(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that an opener does can leave the status on "loading" for ever; the log has the place, not the text."""

    def fail(report: Report, _stopping: threading.Event) -> Opened:
        report(ModelStatus(Phase.LOADING, name="mini"))
        raise KeyError("hf_secret")

    with running(fail) as engine:
        assert engine.status == ModelStatus(Phase.FAILED, reason="internal_error")
    line = _JsonFormatter().format(caplog.records[-1])
    assert "KeyError at test_scheduler.py" in line
    assert "hf_secret" not in line


async def test_stopping_lets_the_running_reply_end() -> None:
    """The reply under way is finished, the one that waits is refused, new ones are refused at once."""
    model, gate = EchoModel(), Gate(free=1)
    model.before_step = gate
    with running(ready(model)) as engine:
        first = asyncio.create_task(reply(engine, ask("premier")))
        await reached(gate)
        (waiting,) = await queued(engine, ask("deuxième"))
        stopped = asyncio.create_task(asyncio.to_thread(engine.stop, PATIENCE_S))
        await asyncio.to_thread(engine._stopping.wait, PATIENCE_S)
        assert await refusal(engine, ask("troisième")) == "stopping"
        assert not first.done()
        gate.open()
        assert await first == "premier"
        with pytest.raises(ReplyUnavailable, match="stopping"):
            await waiting
        await stopped
        assert engine.status == ModelStatus(Phase.STOPPED, name="bytes")
        assert await refusal(engine) == "stopping"
    assert gate.in_time
    assert model.closed
    assert model.prompts == ["premier"]


async def test_stopping_joins_the_thread() -> None:
    """When `stop` returns the thread is gone and the model is closed; stopping twice is harmless."""
    model = ByteModel(ANSWER)
    with running(ready(model)) as engine:
        assert engine._thread.is_alive()
        engine.stop()
        assert not engine._thread.is_alive()
        assert model.closed
        engine.stop()


async def test_stopping_does_not_wait_for_ever() -> None:
    """A model that hangs in one step holds the service for the given time only; its thread is a daemon."""
    model, gate = ByteModel(ANSWER), Gate()
    model.before_step = gate
    with running(ready(model)) as engine:
        task = asyncio.create_task(reply(engine))
        await reached(gate)
        engine.stop(0.01)
        assert engine._thread.is_alive()
        assert engine._thread.daemon
        gate.open()
        assert await task == ANSWER


async def test_stopping_reaches_a_download() -> None:
    """The opener gets the event that tells it to give up."""

    def wait(_report: Report, stopping: threading.Event) -> Opened:
        raise ModelError("download_failed" if stopping.wait(PATIENCE_S) else "nobody_stopped", "")

    engine = Engine(wait, reply_tokens=64, deadline_s=PATIENCE_S, queue_limit=8)
    engine.start()
    engine.stop(PATIENCE_S)
    assert not engine._thread.is_alive()
    assert engine.status == ModelStatus(Phase.FAILED, reason="download_failed")
    assert await refusal(engine) == "stopping"


async def test_an_engine_that_was_never_started_stops() -> None:
    """A service that fails before its start can still be shut down."""
    engine = Engine(ready(ByteModel(ANSWER)), reply_tokens=64, deadline_s=PATIENCE_S, queue_limit=8)
    engine.stop()
    assert engine.status == ModelStatus(Phase.WAITING)
