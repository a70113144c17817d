"""What the core expects of a model runtime: something that turns a prompt into text, or says why it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from backend.core.errors import DoctisError
from backend.core.prompt import Prompt, Style


class Phase(StrEnum):
    """Where the reply model is in its life."""

    OFF = "off"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The phase of the model, its name once known, `progress` in [0, 1] of a download, and why it failed."""

    phase: Phase
    name: str | None = None
    progress: float | None = None
    reason: str | None = None


class ReplyUnavailable(DoctisError):
    """The model cannot write this reply (not ready, queue full, deadline, prompt too long); `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ReplyModel(Protocol):
    """A model that words replies."""

    @property
    def status(self) -> ModelStatus:
        """The current phase; never blocks."""
        ...

    @property
    def style(self) -> Style:
        """How the loaded model wants its prompts; only meaningful when ready."""
        ...

    def write(self, prompt: Prompt) -> AsyncIterator[str]:
        """Pieces of the reply as they are written, slots filled in.

        Raises:
            ReplyUnavailable: before or between pieces.
        """
        ...
