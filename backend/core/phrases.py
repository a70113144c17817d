"""Lists of phrases, compiled to be looked for in folded text; the guard is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from backend.core.text import plain

WORD = re.compile(r"[a-z]+|\d+(?:[.,]\d+)?")


@dataclass(frozen=True, slots=True)
class Phrases:
    """Sequences of folded words, found in a text of words separated and surrounded by single spaces."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, phrases: Iterable[str]) -> Phrases:
        """Compile phrases as people write them; of two that start alike the longer wins."""
        folded = sorted({" ".join(WORD.findall(plain(phrase))) for phrase in phrases}, key=lambda p: (-len(p), p))
        alternatives = "|".join(re.escape(phrase) for phrase in folded if phrase)
        return cls(re.compile(rf"(?<= )(?:{alternatives})(?= )") if alternatives else re.compile(r"(?!)"))

    def found(self, text: str) -> list[str]:
        """Every phrase found, in order."""
        return self.pattern.findall(text)

    def __contains__(self, text: str) -> bool:
        return self.pattern.search(text) is not None

    def without(self, text: str, replacement: str = "") -> str:
        """The text with every phrase replaced."""
        return self.pattern.sub(replacement, text)
