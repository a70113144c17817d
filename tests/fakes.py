"""Real stand-ins, no mocks: a reply model that says what it is told, and a byte-level token model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from backend.core.ports import ModelStatus, Phase, ReplyUnavailable
from backend.core.prompt import Piece, Prompt, Style


class FakeModel:
    """Says `pieces` (slot tokens are filled in as the engine would), or raises `fails_with`."""

    def __init__(self) -> None:
        self.pieces: list[str] | None = None
        self.fails_with: str | None = None
        self.pause_s = 0.0
        self.phase = Phase.READY
        self.prompts: list[Prompt] = []

    @property
    def status(self) -> ModelStatus:
        """The phase that the test set."""
        return ModelStatus(self.phase, name="fake")

    @property
    def style(self) -> Style:
        """Slots, like the embedded model."""
        return Style.SLOTS

    async def write(self, prompt: Prompt) -> AsyncIterator[str]:
        """The pieces, one after another."""
        self.prompts.append(prompt)
        if self.fails_with is not None and self.pieces is None:
            raise ReplyUnavailable(self.fails_with)
        for piece in self.pieces or []:
            await asyncio.sleep(self.pause_s)
            yield prompt.slots.get(piece, piece)
        if self.fails_with is not None:
            raise ReplyUnavailable(self.fails_with)


class ByteModel:
    """A model of the scheduler whose tokens are bytes; it answers with `answer`, one character at a time."""

    def __init__(self, answer: str = "Bonjour.", context_tokens: int = 1024) -> None:
        self.answer = answer
        self.context_tokens = context_tokens
        self.closed = False
        self.steps = 0
        self.before_step: Callable[[], None] = lambda: None

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """One token a byte."""
        return list("".join(piece.text for piece in pieces).encode())

    def generate(self, prompt: Sequence[int], most_tokens: int, stop: Callable[[], bool]) -> Iterator[str]:
        """The answer, letter by letter."""
        if not prompt:
            raise ValueError("empty prompt: patient text J'ai mal")
        for letter in self.answer[:most_tokens]:
            self.before_step()
            if stop():
                return
            self.steps += 1
            yield letter

    def close(self) -> None:
        """Remember it."""
        self.closed = True
