"""How urgent the words themselves sound: a linear model over words, learned from judged messages. It can only raise.

The rules of `red_flags.py` know the ways to say a danger that somebody wrote down; patients find others. This second
look weighs every word, and every pair of neighbours, by what such words meant in the messages of `training/triage/`
(logistic regression; `training/alarm.py` makes `data/alarm.json`). For each level the score is a sum: a constant, what
the rules and causes already said, how likely grave causes are, the age, and the words of each sentence; a score of 0 or
more raises to that level.

What is neutral never lowers the level. Of a sentence that states nothing of the patient's health, or tells an alarming
finding, the heaviest stretch of words counts, and nothing when no stretch is above 0. Of one that denies a symptom, or
tells a harmless one, the words of that statement count whatever their sign, those around them as above. Weights are
whole numbers, so that the order of sentences makes no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.core.entities import Patient, Urgency
from backend.core.lexicon import NEGATORS
from backend.core.sentences import Sentence

LEVELS = (Urgency.DOCTOR_24_HOURS, Urgency.EMERGENCY_DEPARTMENT, Urgency.LIFE_THREATENING)
YOUNGER_THAN = (0.25, 1.0, 3.0, 6.0, 15.0)
OLDER_THAN = (50.0, 65.0, 75.0)
AT_LEAST_AS_LIKELY = (0.05, 0.15, 0.3)
NONE_LIKELY = (0.0, 0.0, 0.0)
_NEGATED = "~"
_NUMBER = "#"
_REACH_OF_NEGATION = 5
_LONGEST_QUOTE = 12


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a sentence: its terms (several when it is misspelt), and those it forms with the word before."""

    own: tuple[str, ...]
    pairs: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One sentence; `bounded` when it may only raise: it tells an alarming finding, or what somebody thinks."""

    words: tuple[Word, ...]
    bounded: bool


@dataclass(frozen=True, slots=True)
class Raised:
    """The level that the words call for, and where those that weigh most stand in the text as sent."""

    level: Urgency
    start: int
    end: int


def piece_of(sentence: Sentence, bounded: bool) -> Piece:
    """A sentence as the model sees it; words within reach of a negation are other terms than the same words without."""
    words: list[Word] = []
    before: tuple[str, ...] = ()
    reach, clause = 0, -1
    for token, keys, word in zip(sentence.tokens, sentence.keys, sentence.words, strict=True):
        if token.clause != clause:
            reach, clause = 0, token.clause
        if not token.word[0].isalnum():
            continue
        negates = word in NEGATORS
        mark = _NEGATED if reach and not negates else ""
        reach = _REACH_OF_NEGATION if negates else max(0, reach - 1)
        own = tuple(f"{mark}{key}" for key in keys) if token.is_word else (f"{mark}{_NUMBER}",)
        words.append(Word(own, tuple(f"{left} {right}" for left in before for right in own), token.start, token.end))
        before = own
    return Piece(tuple(words), bounded)


def traits_of(given: Urgency, shares: Sequence[float], patient: Patient) -> list[str]:
    """What the model knows beside the words: the level so far, the shares of grave causes, the age, a pregnancy."""
    traits = [f"given>={rank}" for rank in range(1, given.rank + 1)]
    for level, share in zip(LEVELS, shares, strict=True):
        traits += [f"causes{level.rank}>={least:g}" for least in AT_LEAST_AS_LIKELY if share >= least]
    if patient.age is not None:
        traits += [f"age<{age:g}" for age in YOUNGER_THAN if patient.age < age]
        traits += [f"age>={age:g}" for age in OLDER_THAN if patient.age >= age]
    return [*traits, "pregnant"] if patient.pregnant else traits


class Alarm:
    """The learned weights, in hundredths of a nat: for each term or trait one for each of `LEVELS`. Frozen."""

    def __init__(self, terms: Mapping[str, Sequence[int]], traits: Mapping[str, Sequence[int]]) -> None:
        self.terms = terms
        self.traits = traits

    def raise_level(
        self, given: Urgency, shares: Sequence[float], patient: Patient, pieces: Sequence[Piece]
    ) -> Raised | None:
        """The highest level above `given` whose score is 0 or more; None when there is none. About 0.2 ms.

        `shares` are the probabilities, one for each of `LEVELS`, that the cause is one which calls for it or more.
        """
        traits = ["always", *traits_of(given, shares, patient)]
        for column, level in reversed(list(enumerate(LEVELS))):
            if level.rank <= given.rank:
                break
            weighed = [[self._weigh(word, column) for word in piece.words] for piece in pieces]
            sums = [max(0, sum(w)) if piece.bounded else sum(w) for piece, w in zip(pieces, weighed, strict=True)]
            of_traits = sum(self.traits[trait][column] for trait in traits if trait in self.traits)
            if of_traits + sum(sums) >= 0 and max(sums, default=0) > 0:
                most = sums.index(max(sums))
                first, stop = heaviest(weighed[most])
                words = pieces[most].words[first : min(stop, first + _LONGEST_QUOTE)]
                return Raised(level, words[0].start, words[-1].end)
        return None

    def _weigh(self, word: Word, column: int) -> int:
        return self._most(word.own, column) + self._most(word.pairs, column)

    def _most(self, terms: Sequence[str], column: int) -> int:
        """A misspelt word is read as the most alarming of those it may stand for."""
        return max((self.terms[term][column] if term in self.terms else 0 for term in terms), default=0)


def heaviest(weights: Sequence[int]) -> tuple[int, int]:
    """The bounds of the stretch with the greatest sum (Kadane; Bentley 1984), of at least one word."""
    best, bounds = float("-inf"), (0, 1)
    start, total = 0, 0
    for place, weight in enumerate(weights):
        if total <= 0:
            start, total = place, 0
        total += weight
        if total > best:
            best, bounds = total, (start, place + 1)
    return bounds
