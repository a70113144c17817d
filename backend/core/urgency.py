"""Red flags and likely causes -> one of five levels of care.

The level is the highest of four: the rules that fired, the likely causes weighted by harm, a floor when too little was
understood, and what the words themselves call for (`alarm.py`). Likely causes alone never say more than "urgences".
Where the message can be read in several ways (a misspelt word, who is ill), the most urgent reading counts.

The thresholds were set on the development cases; figures in `docs/log.md`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.core.alarm import LEVELS, NONE_LIKELY
from backend.core.entities import (
    CAUSES,
    TOO_LITTLE,
    WORDS,
    Kind,
    Observation,
    Pathology,
    Patient,
    Reason,
    State,
    Triage,
    Urgency,
)
from backend.core.ranking import Ranking, counted_state
from backend.core.red_flags import Fired
from backend.core.weights import Array

# A level is reached when the causes that call for it or more, together, are at least this likely.
THRESHOLDS = (
    (Urgency.EMERGENCY_DEPARTMENT, 0.35),
    (Urgency.DOCTOR_24_HOURS, 0.40),
    (Urgency.DOCTOR_7_DAYS, 0.40),
)
_MOST_TRIED = 4
_ABSTAINED = Urgency.DOCTOR_24_HOURS
# Below this share for all known causes together, or without any symptom or sign, nothing is claimed.
_LEAST_KNOWN = 0.15
_MESSAGES = {
    Urgency.LIFE_THREATENING: "Appelez le 15 (ou le 112) tout de suite.",
    Urgency.EMERGENCY_DEPARTMENT: "Allez aux urgences aujourd'hui. Si vous ne pouvez pas vous déplacer, appelez le 15.",
    Urgency.DOCTOR_24_HOURS: "Voyez un médecin dans les 24 heures.",
    Urgency.DOCTOR_7_DAYS: "Prenez rendez-vous avec un médecin dans les 7 jours.",
    Urgency.SELF_CARE: "Vous pouvez vous soigner à la maison ; demandez conseil à un pharmacien si besoin.",
}
_PHONES = {Urgency.LIFE_THREATENING: "15"}


@dataclass(frozen=True, slots=True)
class Harm:
    """The level that likely causes call for; `shares`: how likely those are that call for each of `alarm.LEVELS`."""

    level: Urgency
    shares: tuple[float, ...]


Side = tuple[Sequence[Observation], Patient]
"""What is known of somebody who may be the patient."""


def harm_of_causes(sides: Sequence[Side], fired: Sequence[Fired], ranking: Ranking) -> Harm:
    """The highest level, and shares, that the likely causes call for, for each side, under any reading of the message.

    Misspelt words that could be read in several ways are tried in each; findings that alone fire a rule, unless it is
    one of the highest level, are tried with and without, so that one more alarm never lowers the level.
    """
    lesser = {
        finding
        for f in fired
        if f.rule.level is not Urgency.LIFE_THREATENING
        for condition in f.rule.when
        if len(condition.findings) == 1
        for finding in condition.findings[0]
    }
    levels: list[Urgency] = []
    shares: list[tuple[float, ...]] = [NONE_LIKELY]
    for number, (observations, patient) in enumerate(sides):
        present = {o.finding.id for o in observations if counted_state(o) is State.PRESENT}
        for left_out in _subsets(sorted(lesser & present)):
            for reading in _readings(observations):
                kept = [o for o in observations if o.finding.id not in left_out and reading.issuperset(o.guesses)]
                scores = ranking.score(kept, patient)
                levels.append(_level_of(ranking.urgency_D, scores.p_D, scores.p_other))
                shares.append(tuple(float(scores.p_D[ranking.urgency_D >= level.rank].sum()) for level in LEVELS))
                if number == 0 and not is_enough(kept, scores.p_other):
                    levels.append(_ABSTAINED)
    return Harm(max(levels, key=lambda level: level.rank), tuple(map(max, zip(*shares, strict=True))))


def is_enough(observations: Sequence[Observation], p_other: float) -> bool:
    """Whether enough was understood to name causes: a symptom, a sign or a kind of one, and causes that matter."""
    telling = any(
        counted_state(o) is State.PRESENT
        and (o.finding.kind in (Kind.SYMPTOM, Kind.SIGN) or (o.finding.kind is Kind.COURSE and o.finding.parent))
        for o in observations
    )
    return telling and 1.0 - p_other >= _LEAST_KNOWN


def _subsets(items: Sequence[str]) -> list[frozenset[str]]:
    """Every subset of the first few items."""
    subsets: list[frozenset[str]] = [frozenset()]
    for item in items[:_MOST_TRIED]:
        subsets += [subset | {item} for subset in subsets]
    return subsets


def _readings(observations: Sequence[Observation]) -> list[frozenset[tuple[int, str]]]:
    """All guesses together, then each way to read the first few ambiguous words."""
    guesses = {guess for o in observations for guess in o.guesses}
    keys: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for guess in sorted(guesses):
        keys[guess[0]].append(guess)
    tried, rest = list(keys.values())[:_MOST_TRIED], list(keys.values())[_MOST_TRIED:]
    sure = frozenset(guess for group in rest for guess in group)
    every = [frozenset(guesses)]
    if any(len(group) > 1 for group in tried):
        every += [sure.union(choice) for choice in itertools.product(*tried)]
    return every


def _level_of(urgency_D: NDArray[np.int64], p_D: Array, p_other: float) -> Urgency:
    """The level that the likely causes call for; causes outside the base count as a visit within 7 days.

    "urgences" is the most that they can reach.
    """
    for level, threshold in THRESHOLDS:
        reached = float(p_D[urgency_D >= level.rank].sum())
        if level is Urgency.DOCTOR_7_DAYS:
            reached += p_other
        if reached >= threshold:
            return level
    return Urgency.SELF_CARE


def triage(fired: Sequence[Fired], of_causes: Urgency, likeliest: Pathology | None, abstained: bool) -> Triage:
    """The level with its number, message and reasons, from the rules that fired and the level of the causes."""
    level = max([of_causes, *(f.rule.level for f in fired)], key=lambda found: found.rank)
    at_level = [f for f in fired if f.rule.level is level]
    reasons = [Reason(f.rule.id, f.rule.label, f.quote, _cite(f)) for f in fired]
    if not at_level:
        reasons.append(_reason_of_causes(likeliest, abstained))
    phone = next((f.rule.phone for f in at_level if f.rule.phone), _PHONES.get(level))
    message = at_level[0].rule.message if at_level else _MESSAGES[level]
    if at_level and level is Urgency.LIFE_THREATENING and "15" not in message:
        message = f"{message} {_MESSAGES[level]}"
    return Triage(level, phone, message, tuple(reasons))


def raised(verdict: Triage, level: Urgency, quote: str) -> Triage:
    """The same at the higher level that the words of the message call for; every reason stays."""
    reason = Reason(WORDS, "Des mots proches de ceux de messages graves : par prudence", quote, None)
    message = f"{_MESSAGES[level]} {verdict.message}" if verdict.phone else _MESSAGES[level]
    return Triage(level, _PHONES.get(level, verdict.phone), message, (*verdict.reasons, reason))


def _cite(fired: Fired) -> str | None:
    return next((f"{s.title}, {s.publisher}, {s.year}" for s in fired.rule.sources), None)


def _reason_of_causes(likeliest: Pathology | None, abstained: bool) -> Reason:
    if abstained or likeliest is None:
        return Reason(TOO_LITTLE, "Trop peu d'éléments compris : par prudence", None, None)
    return Reason(CAUSES, f"Cause la plus probable parmi celles connues : {likeliest.name}", None, None)
