"""French cues as compiled data: the words that deny, doubt, date or attribute a mention (`data/cues.json`).

A cue is a sequence of folded words. `find` returns, for the words of one sentence, the longest cue of each kind at
each place. Nothing clinical is decided here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backend.core.lexicon import words_of


class CueKind(StrEnum):
    """What a cue does to the mentions near it; values are the keys of `data/cues.json`."""

    NEGATION = "negation"
    NEGATION_AFTER = "negation_after"
    NEGATION_ADJACENT = "negation_adjacent"
    PSEUDO_NEGATION = "pseudo_negation"
    PLUS_PSEUDO = "plus_pseudo"
    UNCERTAIN = "uncertain"
    UNCERTAIN_DISEASE = "uncertain_disease"
    SIMILE = "simile"
    CONDITIONAL = "conditional"
    WORSE_WHEN = "worse_when"
    PAST = "past"
    PAST_START = "past_start"
    NOT_PAST = "not_past"
    NOW = "now"
    RESOLVED_BEFORE = "resolved_before"
    RESOLVED_AFTER = "resolved_after"
    BREAKER = "breakers"
    FAMILY = "family"
    ABOUT_RELATIVE = "about_relative"
    RELATIVE = "relatives"
    POLITENESS = "politeness"


@dataclass(frozen=True, slots=True)
class Cue:
    """A cue found at words `start` to `end` (excluded) of a sentence."""

    kind: CueKind
    start: int
    end: int
    text: str

    def overlaps(self, other: Cue) -> bool:
        """True when the two share a word."""
        return self.start < other.end and other.start < self.end


class Cues:
    """Every cue of `data/cues.json`, indexed by first word."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.relatives: dict[str, dict[str, Any]] = {
            " ".join(words_of(noun)): traits for noun, traits in data["relatives"].items()
        }
        self.first_person = frozenset(data["first_person"])
        self.saying = frozenset(data["saying"])
        self.observing = frozenset(data["observing"])
        self.possessives = frozenset(data["possessives"])
        self.strict_possessives = frozenset(data["strict_possessives"])
        self.needs_possessive = frozenset(data["relative_needs_possessive"])
        self.not_pregnant_before = frozenset(data["not_pregnant_before"])
        self.own_sex = {sex: [" ".join(words_of(said)) for said in phrases] for sex, phrases in data["own_sex"].items()}
        self.present_be = frozenset(data["present_be"])
        self.past_with_be = frozenset(" ".join(words_of(word)) for word in data["past_with_be"])
        self._by_first: dict[str, list[tuple[tuple[str, ...], CueKind]]] = defaultdict(list)
        for kind in CueKind:
            for cue in data[kind.value]:
                words = words_of(cue)
                self._by_first[words[0]].append((words, kind))
        for cues in self._by_first.values():
            cues.sort(key=lambda cue: -len(cue[0]))

    def called(self, person: str) -> str:
        """How a reply calls the patient: "vous", or the relative as a person would write it ("votre grand-mère")."""
        return str(self.relatives[person]["called"]) if person else "vous"

    def words(self) -> frozenset[str]:
        """Every word that is part of a cue; typing errors in them are corrected too."""
        return frozenset(word for cues in self._by_first.values() for words, _ in cues for word in words)

    def find(self, words: Sequence[str]) -> dict[CueKind, list[Cue]]:
        """The cues in the words of one sentence, in order, the longest of each kind at each place."""
        found: dict[CueKind, list[Cue]] = {kind: [] for kind in CueKind}
        for index, word in enumerate(words):
            seen: set[CueKind] = set()
            for cue, kind in self._by_first.get(word, ()):
                if kind not in seen and tuple(words[index : index + len(cue)]) == cue:
                    seen.add(kind)
                    found[kind].append(Cue(kind, index, index + len(cue), " ".join(cue)))
        return found
