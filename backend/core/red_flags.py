"""Emergency rules, on findings and on the text itself; either detector is enough.

A rule fires when one of its alternatives holds entirely. Rules only ever look for what is there, so adding words or
findings cannot silence one: the level is monotone. A symptom that has passed still counts unless it is long over;
only a denied, doubted or hypothetical one does not. Age, sex and pregnancy may come from the fields or from the
text. Each person of the message is examined apart: another person's stroke is an emergency too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backend.core.entities import Condition, Kind, Mention, Observation, Patient, RedFlag, State
from backend.core.knowledge import Knowledge

_UNKNOWN_AGE = 40.0


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that fired, with the words that made it (None when only answers or fields did)."""

    rule: RedFlag
    quote: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one person: finding id -> quote, matched text patterns -> quote, and both sets of traits."""

    findings: Mapping[str, str | None]
    texts: Mapping[str, str]
    patients: tuple[Patient, ...]


def facts_of_patient(
    observations: Sequence[Observation],
    flag_mentions: Sequence[Mention],
    patients: tuple[Patient, ...],
    text: str,
    knowledge: Knowledge,
) -> Facts:
    """The facts of the patient: what the text and the answers say is or was there, parents implied."""
    findings: dict[str, str | None] = {}
    for observation in observations:
        lasting = observation.finding.kind in (Kind.HISTORY, Kind.RISK)
        if observation.state is State.PRESENT or (observation.state is State.PAST and lasting):
            _add(findings, observation.finding.id, observation.quote, knowledge)
    return Facts(findings, _texts(flag_mentions, "", text), patients)


def recent_past(mentions: Sequence[Mention], knowledge: Knowledge, text: str) -> dict[str, str | None]:
    """Symptoms that passed but not long ago ("c'est revenu au bout de dix minutes"): they keep their level."""
    findings: dict[str, str | None] = {}
    for mention in mentions:
        if mention.state is State.PAST and not mention.remote and not mention.person:
            _add(findings, mention.finding, text[mention.start : mention.end], knowledge)
    return findings


def facts_of_others(
    mentions: Sequence[Mention], flag_mentions: Sequence[Mention], text: str, knowledge: Knowledge
) -> list[Facts]:
    """One set of facts for each other person whose present state the message describes."""
    people = dict.fromkeys(m.person for m in (*mentions, *flag_mentions) if m.person)
    found = []
    for person in people:
        findings: dict[str, str | None] = {}
        for mention in mentions:
            if mention.person == person and mention.state is State.OTHER and not mention.remote:
                _add(findings, mention.finding, text[mention.start : mention.end], knowledge)
        found.append(Facts(findings, _texts(flag_mentions, person, text), ()))
    return found


def _add(findings: dict[str, str | None], finding: str, quote: str | None, knowledge: Knowledge) -> None:
    for implied in (finding, *knowledge.ancestors(finding)):
        if findings.get(implied) is None:
            findings[implied] = quote


def _texts(flag_mentions: Iterable[Mention], person: str, text: str) -> dict[str, str]:
    counted = (State.PRESENT, State.PAST, State.OTHER)
    return {
        mention.finding: text[mention.start : mention.end]
        for mention in flag_mentions
        if mention.person == person and mention.state in counted and not mention.remote
    }


def find_red_flags(facts: Facts, knowledge: Knowledge) -> tuple[Fired, ...]:
    """Every rule that fires on `facts`, most urgent first."""
    fired = []
    for rule in knowledge.red_flags:
        for index, condition in enumerate(rule.when):
            if (quotes := _holds(condition, f"{rule.id}/{index}", facts)) is not None:
                fired.append(Fired(rule, next(iter(quotes), None)))
                break
    return tuple(sorted(fired, key=lambda f: (-f.rule.level.rank, f.rule.id)))


def _holds(condition: Condition, text_id: str, facts: Facts) -> list[str] | None:
    """The quotes that satisfy a condition (perhaps none), or None when it does not hold."""
    quotes: list[str] = []
    for wanted in condition.findings:
        present = [finding for finding in wanted if finding in facts.findings]
        if not present:
            return None
        quotes.extend(quote for finding in present if (quote := facts.findings[finding]) is not None)
    if condition.texts:
        if text_id not in facts.texts:
            return None
        quotes.append(facts.texts[text_id])
    return quotes if _fits(condition, facts) else None


def _fits(condition: Condition, facts: Facts) -> bool:
    """Age, sex and pregnancy hold in the fields or in the text; somebody of unknown age is taken for an adult."""
    patients = facts.patients
    ages = [patient.age for patient in patients if patient.age is not None] or [_UNKNOWN_AGE]
    if condition.age_min is not None and not any(age >= condition.age_min for age in ages):
        return False
    if condition.age_max is not None and not any(age <= condition.age_max for age in ages):
        return False
    if condition.sex is not None and not any(p.sex == condition.sex for p in patients):
        return False
    return not condition.pregnant or "pregnancy" in facts.findings or any(p.pregnant for p in patients)
