"""The exceptions that the core raises. Only the app factory turns an exception into an HTTP answer."""

from __future__ import annotations

from collections.abc import Sequence


class DoctisError(Exception):
    """Root of every exception of this project."""


class KnowledgeError(DoctisError, ValueError):
    """The files of `data/` are missing, malformed or contradict each other; all problems are listed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{len(problems)} problem(s) in the knowledge base:\n" + "\n".join(problems))
