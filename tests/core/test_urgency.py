"""Red flags and likely causes -> one level: the highest counts, and a rule brings its number and message."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core import urgency
from backend.core.diagnose import Diagnoser
from backend.core.entities import Condition, Observation, Origin, Outcome, Patient, RedFlag, Source, State, Urgency
from backend.core.knowledge import Knowledge
from backend.core.ranking import Ranking
from backend.core.red_flags import Fired
from backend.core.urgency import THRESHOLDS, harm_of_causes, is_enough, triage
from tests.strategies import base

LEVELS = st.sampled_from(list(Urgency))
PATHOLOGY = base().pathologies["migraine"]


def rule_at(level: Urgency, name: str = "a_rule", phone: str | None = None, message: str = "Un message.") -> Fired:
    """A rule of that level that fired on the words "ici"."""
    rule = RedFlag(name, "Une alarme", level, phone, message, when=(), positive=(), negative=(), sources=())
    return Fired(rule, "ici")


def said(knowledge: Knowledge, *findings: str, state: State = State.PRESENT) -> list[Observation]:
    """Findings as answers."""
    return [Observation(knowledge.findings[f], state, Origin.ANSWER) for f in findings]


def level_of(shares: dict[Urgency, float], p_other: float = 0.0) -> Urgency:
    """The level that causes of these urgencies and probabilities call for."""
    pathologies = [replace(PATHOLOGY, urgency=level) for level in shares]
    return urgency._level_of(np.array([p.urgency.rank for p in pathologies]), np.array(list(shares.values())), p_other)


@pytest.mark.parametrize("of_causes", Urgency)
@pytest.mark.parametrize("of_rule", Urgency)
def test_the_higher_of_rules_and_causes_counts(of_causes: Urgency, of_rule: Urgency) -> None:
    """A rule never lowers what the causes call for, nor the other way round."""
    found = triage([rule_at(of_rule)], of_causes, PATHOLOGY, abstained=False)
    assert found.level.rank == max(of_causes.rank, of_rule.rank)


@given(st.lists(LEVELS, max_size=4), LEVELS, LEVELS)
def test_one_more_rule_never_lowers_the_level(fired: list[Urgency], more: Urgency, of_causes: Urgency) -> None:
    """Whatever fired before, another rule keeps or raises the level."""
    rules = [rule_at(level) for level in fired]
    before = triage(rules, of_causes, PATHOLOGY, abstained=False)
    after = triage([*rules, rule_at(more)], of_causes, PATHOLOGY, abstained=False)
    assert after.level.rank == max(before.level.rank, more.rank)


def test_the_rule_that_sets_the_level_gives_phone_and_message() -> None:
    """A milder rule that fired too is a reason, but neither its number nor its message is told."""
    main = rule_at(Urgency.EMERGENCY_DEPARTMENT, "main", "3114", "Appelez le 3114.")
    mild = rule_at(Urgency.DOCTOR_24_HOURS, "mild", "3919", "Appelez le 3919.")
    found = triage([main, mild], Urgency.DOCTOR_7_DAYS, PATHOLOGY, abstained=False)
    assert (found.phone, found.message) == ("3114", "Appelez le 3114.")
    assert [reason.rule for reason in found.reasons] == ["main", "mild"]


def test_the_first_number_at_the_level_is_told() -> None:
    """Of two rules of the level, the one that has a number gives it."""
    rules = [rule_at(Urgency.EMERGENCY_DEPARTMENT), rule_at(Urgency.EMERGENCY_DEPARTMENT, phone="119")]
    assert triage(rules, Urgency.SELF_CARE, PATHOLOGY, abstained=False).phone == "119"


def test_a_milder_rule_does_not_lend_its_number() -> None:
    """When the causes set a higher level, the causes are a reason and no number is told below the highest level."""
    rules = [rule_at(Urgency.DOCTOR_24_HOURS, phone="3919")]
    found = triage(rules, Urgency.EMERGENCY_DEPARTMENT, PATHOLOGY, abstained=False)
    assert found.phone is None
    assert [reason.rule for reason in found.reasons] == ["a_rule", "likely_causes"]


@pytest.mark.parametrize(
    ("phone", "message", "expected"),
    [
        (None, "Ne bougez pas.", ("15", "Ne bougez pas. Appelez le 15 (ou le 112) tout de suite.")),
        ("15", "Appelez le 15.", ("15", "Appelez le 15.")),
        ("114", "Écrivez au 114.", ("114", "Écrivez au 114. Appelez le 15 (ou le 112) tout de suite.")),
    ],
)
def test_a_life_threatening_message_always_names_the_15(
    phone: str | None, message: str, expected: tuple[str, str]
) -> None:
    """Whatever the rule's own message says, the 15 is in it, and is the number when the rule has none."""
    found = triage([rule_at(Urgency.LIFE_THREATENING, phone=phone, message=message)], Urgency.SELF_CARE, None, True)
    assert (found.phone, found.message) == expected


@pytest.mark.parametrize("level", Urgency)
def test_every_level_has_a_message(level: Urgency) -> None:
    """Without a rule, each level tells where to go in its own words; only the highest has a number."""
    found = triage([], level, PATHOLOGY, abstained=False)
    words = {
        Urgency.LIFE_THREATENING: "15", Urgency.EMERGENCY_DEPARTMENT: "urgences", Urgency.DOCTOR_24_HOURS: "24 heures",
        Urgency.DOCTOR_7_DAYS: "7 jours", Urgency.SELF_CARE: "pharmacien",
    }  # fmt: skip
    assert words[level] in found.message
    assert found.phone == ("15" if level is Urgency.LIFE_THREATENING else None)


def test_reasons_quote_the_words_and_cite_the_source() -> None:
    """A rule's reason carries the patient's words and the first document it rests on."""
    fired = rule_at(Urgency.EMERGENCY_DEPARTMENT)
    source = Source("Un guide", "HAS", 2022)
    found = triage(
        [replace(fired, rule=replace(fired.rule, sources=(source,)))], Urgency.SELF_CARE, PATHOLOGY, abstained=False
    )
    assert [(r.rule, r.quote, r.source) for r in found.reasons] == [("a_rule", "ici", "Un guide, HAS, 2022")]


@pytest.mark.parametrize(
    ("abstained", "rule"), [(False, "likely_causes"), (True, "too_little_understood")]
)  # fmt: skip
def test_without_a_rule_the_reason_says_what_the_level_rests_on(abstained: bool, rule: str) -> None:
    """The likeliest cause is named only when enough was understood."""
    (reason,) = triage([], Urgency.DOCTOR_24_HOURS, PATHOLOGY, abstained).reasons
    assert reason.rule == rule
    assert (PATHOLOGY.name in reason.label) is (not abstained)


@pytest.mark.parametrize(("level", "threshold"), THRESHOLDS)
def test_a_level_is_reached_at_its_threshold(level: Urgency, threshold: float) -> None:
    """At the threshold the level holds; just below, the causes call for less."""
    assert level_of({level: threshold, Urgency.SELF_CARE: 1 - threshold}) is level
    assert level_of({level: threshold - 0.01, Urgency.SELF_CARE: 1 - threshold + 0.01}).rank < level.rank


def test_more_urgent_causes_count_for_the_milder_levels_too() -> None:
    """Some chance of an emergency and some of a visit tomorrow make a visit tomorrow."""
    shares = {Urgency.EMERGENCY_DEPARTMENT: 0.25, Urgency.DOCTOR_24_HOURS: 0.20, Urgency.SELF_CARE: 0.55}
    assert level_of(shares) is Urgency.DOCTOR_24_HOURS


def test_causes_alone_never_call_the_15() -> None:
    """Even a certain heart attack says "urgences" until a rule fires."""
    assert level_of({Urgency.LIFE_THREATENING: 1.0}) is Urgency.EMERGENCY_DEPARTMENT


def test_causes_outside_the_base_ask_for_a_visit_within_a_week() -> None:
    """What the base does not know counts as a visit, never as self-care."""
    assert level_of({Urgency.SELF_CARE: 0.5}, p_other=0.5) is Urgency.DOCTOR_7_DAYS
    assert level_of({Urgency.SELF_CARE: 0.9}, p_other=0.1) is Urgency.SELF_CARE


@pytest.mark.parametrize(
    ("findings", "state", "p_other", "expected"),
    [
        (("cough",), State.PRESENT, 0.5, True),
        (("cough",), State.PRESENT, 0.85, True),
        (("cough",), State.PRESENT, 0.86, False),
        (("cough",), State.ABSENT, 0.1, False),
        (("cough",), State.UNKNOWN, 0.1, False),
        (("diabetes_history", "smoking"), State.PRESENT, 0.1, False),
        ((), State.PRESENT, 0.1, False),
    ],
)
def test_enough_is_a_symptom_and_causes_that_matter(
    findings: tuple[str, ...], state: State, p_other: float, expected: bool, knowledge: Knowledge
) -> None:
    """A present symptom or sign, and known causes of at least fifteen percent together."""
    assert is_enough(said(knowledge, *findings, state=state), p_other) is expected


@pytest.mark.parametrize("text", ["Bonjour.", "Je suis diabétique.", "Il fait beau.", "???"])
def test_too_little_understood_is_at_least_a_visit_within_24_hours(text: str, diagnoser: Diagnoser) -> None:
    """Nobody is sent home because nothing was understood."""
    assessment = diagnoser.assess(text, Patient())
    assert assessment.outcome is Outcome.ABSTAINED
    assert assessment.triage.level is Urgency.DOCTOR_24_HOURS
    assert [reason.rule for reason in assessment.triage.reasons] == ["too_little_understood"]


def test_the_floor_does_not_lower_a_rule(diagnoser: Diagnoser) -> None:
    """A rule about something that is no symptom keeps its level though causes are abstained from."""
    assessment = diagnoser.assess("Mon mari me frappe.", Patient())
    assert assessment.triage.level is Urgency.EMERGENCY_DEPARTMENT
    assert assessment.triage.phone == "3919"


def test_the_most_urgent_side_counts(knowledge: Knowledge) -> None:
    """When somebody else may be the patient, the worse of the two is taken."""
    ranking = Ranking(knowledge)
    cold = (said(knowledge, "runny_nose", "sneezing", "nasal_congestion"), Patient(30, "F"))
    ill = (said(knowledge, "chest_pain", "sweating", "pain_radiating_arm_jaw"), Patient(60, "M"))
    alone = harm_of_causes([cold], [], ranking).level
    assert alone.rank < Urgency.EMERGENCY_DEPARTMENT.rank
    assert harm_of_causes([cold, ill], [], ranking).level is Urgency.EMERGENCY_DEPARTMENT
    assert harm_of_causes([ill, cold], [], ranking).level is Urgency.EMERGENCY_DEPARTMENT


def test_the_most_urgent_reading_of_a_misspelt_word_counts(knowledge: Knowledge) -> None:
    """One word that may be two: the level is that of the worse reading, though both together would be milder."""
    ranking = Ranking(knowledge)
    patient = Patient(30, "F")
    meningitis = said(knowledge, "stiff_neck", "fever")
    migraine = said(knowledge, "visual_aura", "light_sensitivity", "unilateral_headache", "noise_sensitivity")
    sure = said(knowledge, "headache")
    worse = harm_of_causes([([*sure, *meningitis], patient)], [], ranking).level
    together = harm_of_causes([([*sure, *meningitis, *migraine], patient)], [], ranking).level
    guesses = [*guessed(meningitis, "a"), *guessed(migraine, "b")]
    assert together.rank < worse.rank
    assert harm_of_causes([([*sure, *guesses], patient)], [], ranking).level is worse


def test_a_finding_with_a_milder_rule_of_its_own_does_not_lower_the_level(knowledge: Knowledge) -> None:
    """Findings whose rule says less than "urgences" are tried with and without: one more alarm never lowers."""
    ranking = Ranking(knowledge)
    patient = Patient(30, "F")
    lesser = ("visual_aura", "light_sensitivity", "unilateral_headache", "noise_sensitivity")
    serious = ("headache", "stiff_neck", "fever", "vomiting")
    every = said(knowledge, *serious, *lesser)
    fired = rule_at(Urgency.DOCTOR_24_HOURS)
    fired = replace(fired, rule=replace(fired.rule, when=(Condition(findings=(lesser,)),)))
    alone = harm_of_causes([(said(knowledge, *serious), patient)], [], ranking).level
    assert harm_of_causes([(every, patient)], [], ranking).level.rank < alone.rank
    assert harm_of_causes([(every, patient)], [fired], ranking).level is alone


def guessed(observations: list[Observation], key: str) -> list[Observation]:
    """The observations under one reading of the fourth word."""
    return [replace(o, guesses=((3, key),)) for o in observations]


@pytest.mark.parametrize(
    ("alarm", "phone"),
    [("J'ai une douleur dans la poitrine qui descend dans le bras gauche.", "15"), ("J'ai envie de mourir.", "3114")],
)
def test_a_red_flag_wins_over_a_mild_cause(alarm: str, phone: str, diagnoser: Diagnoser) -> None:
    """A cold beside an alarm changes neither the level nor the number."""
    cold = "J'ai le nez bouché, je mouche et j'éternue."
    own = diagnoser.assess(alarm, Patient()).triage
    for text in (f"{cold} {alarm}", f"{alarm} {cold}"):
        found = diagnoser.assess(text, Patient()).triage
        assert (found.level, found.phone) == (own.level, phone)


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("Je veux mourir.", "3114"),
        ("Mon mari me frappe quand il boit.", "3919"),
        ("Mon beau-père me frappe quand maman n'est pas là, j'ai 12 ans.", "119"),
        ("Mon fils a bu de l'eau de Javel.", "centre antipoison"),
        ("Je n'arrive plus à respirer, je m'étouffe.", "15"),
        ("J'ai le nez bouché, je mouche et j'éternue.", None),
    ],
)
def test_the_number_fits_the_danger(text: str, phone: str | None, diagnoser: Diagnoser) -> None:
    """Each danger has its own helpline; a cold has none."""
    assert diagnoser.assess(text, Patient()).triage.phone == phone
