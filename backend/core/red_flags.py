"""Emergency rules, on findings and on the text itself; either detector is enough.

A rule fires when one of its alternatives holds entirely. Rules only ever look for what is there, so adding words or
findings cannot silence one: the level is monotone. A symptom that has passed still counts unless it is long over;
only a denied, doubted or hypothetical one does not. Age, sex and pregnancy may come from the fields or from the
text. Each person of the message is examined apart: another person's stroke is an emergency too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.core.entities import Condition, Kind, Observation, Patient, RedFlag, State
from backend.core.knowledge import Knowledge
from backend.core.understand import Reading

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


def red_flags_of(
    reading: Reading, observations: Sequence[Observation], fields: Patient, knowledge: Knowledge
) -> tuple[Fired, ...]:
    """Every rule that fires, most urgent first: for the patient, then for each other person of the message."""
    fired = {
        f.rule.id: f for f in find_red_flags(_facts_of_patient(reading, observations, fields, knowledge), knowledge)
    }
    for person, traits in reading.others.items():
        facts = _facts_of_other(person, reading, (traits, fields), knowledge)
        fired = {f.rule.id: f for f in find_red_flags(facts, knowledge)} | fired
    return tuple(sorted(fired.values(), key=lambda f: (-f.rule.level.rank, f.rule.id)))


def _facts_of_patient(
    reading: Reading, observations: Sequence[Observation], fields: Patient, knowledge: Knowledge
) -> Facts:
    """What the text and the answers say is there, or was not long ago ("c'est revenu au bout de dix minutes")."""
    findings: dict[str, str | None] = {}
    for observation in observations:
        lasting = observation.finding.kind in (Kind.HISTORY, Kind.RISK)
        exposed = observation.state is State.OTHER and observation.finding.about_others
        if observation.state is State.PRESENT or exposed or (observation.state is State.PAST and lasting):
            _add(findings, observation.finding.id, observation.quote, knowledge)
    for mention in reading.mentions:
        if mention.state is State.PAST and not mention.remote and not mention.person:
            _add(findings, mention.finding, reading.document.quote(mention.start, mention.end), knowledge)
    return Facts(findings, _texts(reading, ""), (fields, reading.patient))


def _facts_of_other(person: str, reading: Reading, patients: tuple[Patient, ...], knowledge: Knowledge) -> Facts:
    findings: dict[str, str | None] = {}
    for mention in reading.mentions:
        if mention.person == person and mention.state is State.OTHER and not mention.remote:
            _add(findings, mention.finding, reading.document.quote(mention.start, mention.end), knowledge)
    return Facts(findings, _texts(reading, person), patients)


def _add(findings: dict[str, str | None], finding: str, quote: str | None, knowledge: Knowledge) -> None:
    for implied in (finding, *knowledge.ancestors(finding)):
        if findings.get(implied) is None:
            findings[implied] = quote


def _texts(reading: Reading, person: str) -> dict[str, str]:
    counted = (State.PRESENT, State.PAST, State.OTHER)
    return {
        mention.finding: reading.document.quote(mention.start, mention.end)
        for mention in reading.flag_mentions
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
