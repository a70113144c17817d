"""Progress of a long stage: a bar with the time left on a terminal, one line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from training.artefacts import say


class Progress:
    """Counts the steps of a stage; `first` of them were done by an earlier, interrupted run."""

    def __init__(self, stage: str, steps: int, first: int = 0, every: int = 20, *, shown: bool = True) -> None:
        self._stage, self._steps, self._first, self._every = stage, steps, first, every
        self._started = time.monotonic()
        self._on_terminal = shown and sys.stderr.isatty()
        self._in_log = shown and not self._on_terminal
        self._bar = tqdm(total=steps, initial=first, desc=stage, unit="step", disable=not self._on_terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def reached(self, step: int, told: str = "") -> None:
        """Show that `step` steps are done; `told` says more, the loss for example."""
        self._bar.update(step - self._bar.n if self._on_terminal else 0)
        if self._on_terminal:
            self._bar.set_postfix_str(told)
        elif self._in_log and (step % self._every == 0 or step == self._steps):
            left_s = (time.monotonic() - self._started) / max(1, step - self._first) * (self._steps - step)
            left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
            say(f"{self._stage}: step {step}/{self._steps} {told}, {left} left")
