"""Assessment -> the facts that a reply may use, and nothing else.

The same record feeds the model prompt, the guard and the deterministic wording, in training and in serving. What is
not in it cannot be said: a cause, a sign, an advice or a delay from elsewhere is refused by the guard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backend.core.entities import (
    CAUSES,
    TOO_LITTLE,
    WORDS,
    Assessment,
    Cause,
    Kind,
    Observation,
    Outcome,
    State,
    Urgency,
)

_SENTENCE = re.compile(r"(?<=[.!?…])\s+")
_NO_RULE = (CAUSES, TOO_LITTLE, WORDS)
_MOST_CAUSES = 3
_MOST_SIGNS = 3
_LEAST_P_OF_OTHER_CAUSES = 0.08
_PROBABLE = 0.5
_ON_THE_WAY = "Appelez le 15 si cela s'aggrave, en cas de malaise ou de difficulté à respirer."
_SIGN_KINDS = frozenset({Kind.SYMPTOM, Kind.SIGN, Kind.COURSE, Kind.CONTEXT, Kind.RISK})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reply may say. Every text is French, ready for a sentence: causes and signs carry their article.

    `who` is "vous" or the relative ("votre fille"). `alarm` is the label of the rule that set the level.
    `questions` are only given when the assessment abstained.
    """

    level: Urgency
    who: str
    abstained: bool
    probable: bool
    causes: tuple[str, ...]
    signs: tuple[str, ...]
    alarm: str | None = None
    phone: str | None = None
    advice: str | None = None
    worry: str | None = None
    questions: tuple[str, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """Every piece of text that may be quoted as it stands."""
        optional = (self.alarm, self.phone, self.advice, self.worry)
        return (*self.causes, *self.signs, *self.questions, *(text for text in optional if text))


def facts_of(assessment: Assessment) -> Facts:
    """The facts of one assessment."""
    level = assessment.triage.level
    abstained = assessment.outcome is Outcome.ABSTAINED
    causes = () if abstained else _causes(assessment.differential)
    first = causes[0] if causes else None
    fired = [reason for reason in assessment.triage.reasons if reason.rule not in _NO_RULE]
    alarm = _lower(fired[0].label) if fired and _sets_level(assessment) else None
    fits = first is not None and _advice_fits(first, level)
    vital = level is Urgency.LIFE_THREATENING
    return Facts(
        level=level,
        who=assessment.person,
        abstained=abstained,
        probable=first is not None and first.probability >= _PROBABLE,
        causes=tuple(cause.pathology.phrase for cause in causes),
        signs=_signs(first, assessment.observations) if first else (),
        alarm=alarm,
        phone=assessment.triage.phone,
        advice=_first(first.pathology.advice, 2 if len(causes) == 1 and not alarm else 1) if first and fits else None,
        worry=_first(first.pathology.when_to_worry if fits else _ON_THE_WAY, 1) if first and not vital else None,
        questions=tuple(question.text for question in assessment.questions[:2]) if abstained else (),
    )


def _causes(differential: tuple[Cause, ...]) -> tuple[Cause, ...]:
    kept = [c for i, c in enumerate(differential[:_MOST_CAUSES]) if i == 0 or c.probability >= _LEAST_P_OF_OTHER_CAUSES]
    return tuple(kept)


def _signs(cause: Cause, observations: tuple[Observation, ...]) -> tuple[str, ...]:
    """The findings that speak most for the cause and that the person said or answered, the precise ones only."""
    said = {o.finding.id: o.finding for o in observations if o.state is State.PRESENT and o.finding.kind in _SIGN_KINDS}
    parents = {finding.parent for finding in said.values()}
    signs = [said[e.finding].phrase for e in cause.evidence_for if e.finding in said and e.finding not in parents]
    return tuple(signs[:_MOST_SIGNS])


def _sets_level(assessment: Assessment) -> bool:
    return not any(reason.rule in _NO_RULE for reason in assessment.triage.reasons)


def _advice_fits(cause: Cause, level: Urgency) -> bool:
    """Home advice and alarm signs of a milder cause would contradict an emergency ("consultez si ...")."""
    return level.rank <= cause.pathology.urgency.rank or level.rank < Urgency.EMERGENCY_DEPARTMENT.rank


def _first(text: str, sentences: int) -> str:
    """The first sentences of a text, so that the reply stays short."""
    return " ".join(_SENTENCE.split(text)[:sentences])


def _lower(label: str) -> str:
    return label[:1].lower() + label[1:] if label[1:2].islower() else label
