"""The state of mentions, on marked-up French sentences that a clinician can read and extend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Patient

SENTENCES = Path(__file__).parents[1] / "sentences" / "assertion.txt"
_MARK = re.compile(r"<(present|absent|unknown|past|other)>(.*?)</\1>")


@dataclass(frozen=True)
class Marked:
    """A sentence without its marks, and the expected (start, end, state) of each."""

    text: str
    expected: tuple[tuple[int, int, str], ...]


def parse(line: str) -> Marked:
    """Take the marks out of a line."""
    text, expected, last = "", [], 0
    for match in _MARK.finditer(line):
        text += line[last : match.start()]
        expected.append((len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        last = match.end()
    return Marked(text + line[last:], tuple(expected))


LINES = [
    line for line in SENTENCES.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize("line", LINES)
def test_marked_words_have_their_state(line: str, diagnoser: Diagnoser) -> None:
    """Every marked wording is found, and every finding on it has the marked state."""
    marked = parse(line)
    found = diagnoser.assess(marked.text, Patient()).observations
    for start, end, state in marked.expected:
        states = {o.state.value for o in found if o.start is not None and o.start < end and (o.end or 0) > start}
        assert states == {state}, (marked.text[start:end], [(o.finding.id, o.state, o.quote) for o in found])
