"""What a reply may use of an assessment: few causes, signs that were said, advice that fits the level."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from backend.core.diagnose import Diagnoser
from backend.core.entities import (
    Answer,
    Assessment,
    Cause,
    Origin,
    Outcome,
    Patient,
    Question,
    Reason,
    State,
    Triage,
    Urgency,
)
from backend.core.facts import Facts, facts_of
from backend.core.knowledge import Knowledge
from tests.strategies import base, messages

MIGRAINE = "J'ai mal à la tête d'un côté et je vois des points lumineux, la lumière me gêne et j'ai la nausée."
CHEST = "J'ai une douleur dans la poitrine qui descend dans le bras gauche et je transpire."
LIKELY = Reason("likely_causes", "Cause la plus probable", None, None)


@pytest.fixture(scope="module")
def migraine(diagnoser: Diagnoser) -> Assessment:
    """An assessment whose level comes from its causes."""
    return diagnoser.assess(MIGRAINE, Patient())


def with_probabilities(assessment: Assessment, *probabilities: float) -> Assessment:
    """The same assessment with other probabilities, in order."""
    pairs = zip(assessment.differential, probabilities, strict=False)
    return replace(assessment, differential=tuple(replace(cause, probability=p) for cause, p in pairs))


def with_triage(assessment: Assessment, level: Urgency, *reasons: Reason, phone: str | None = None) -> Assessment:
    """The same assessment at another level for other reasons."""
    return replace(assessment, triage=Triage(level, phone, "Un message.", reasons))


@pytest.mark.parametrize(
    ("probabilities", "count"),
    [
        ((0.5, 0.2, 0.15, 0.09), 3),
        ((0.5, 0.2, 0.07, 0.01), 2),
        ((0.5, 0.08), 2),
        ((0.5, 0.0799), 1),
        ((0.05, 0.04), 1),
    ],
)
def test_at_most_three_causes_and_only_likely_ones(
    probabilities: tuple[float, ...], count: int, migraine: Assessment
) -> None:
    """The first cause always, the second and third from eight percent on."""
    expected = tuple(cause.pathology.phrase for cause in migraine.differential[:count])
    assert facts_of(with_probabilities(migraine, *probabilities)).causes == expected


@pytest.mark.parametrize(("probability", "probable"), [(0.5, True), (0.49, False)])
def test_a_cause_is_probable_from_one_half_on(probability: float, probable: bool, migraine: Assessment) -> None:
    """Below, it is only possible."""
    assert facts_of(with_probabilities(migraine, probability, 0.1)).probable is probable


def test_signs_are_the_three_that_speak_most_for_the_first_cause(migraine: Assessment) -> None:
    """Signs keep the order of the evidence and stop at three, though four were said."""
    facts = facts_of(migraine)
    evidence = [e.label for e in migraine.differential[0].evidence_for]
    places = [next(i for i, label in enumerate(evidence) if sign.endswith(label)) for sign in facts.signs]
    assert len(facts.signs) == 3
    assert places == sorted(places)


def test_what_was_denied_or_is_past_is_no_sign(migraine: Assessment) -> None:
    """Only findings that are present are told back to the person."""
    for state in (State.ABSENT, State.UNKNOWN, State.PAST, State.OTHER):
        changed = tuple(replace(o, state=state) for o in migraine.observations)
        assert facts_of(replace(migraine, observations=changed)).signs == ()


def test_an_answer_is_a_sign_too(diagnoser: Diagnoser) -> None:
    """A finding confirmed in the interview is told back like one of the text."""
    answers = [Answer("light_sensitivity", State.PRESENT)]
    before = facts_of(diagnoser.assess("J'ai mal à la tête.", Patient())).signs
    after = facts_of(diagnoser.assess("J'ai mal à la tête.", Patient(), answers)).signs
    phrase = diagnoser.knowledge.findings["light_sensitivity"].phrase
    assert (phrase in before, phrase in after) == (False, True)


def test_the_parent_of_a_said_sign_is_left_out(migraine: Assessment, knowledge: Knowledge) -> None:
    """Somebody with a throbbing headache is not told of the headache as well."""
    child = knowledge.findings["throbbing_headache"]
    assert child.parent == "headache"
    sided = next(o for o in migraine.observations if o.finding.id == "unilateral_headache")
    headache = replace(sided, finding=knowledge.findings["headache"])
    cause = migraine.differential[0]
    said = next(e for e in cause.evidence_for if e.finding == "unilateral_headache")
    general = replace(said, finding="headache", label=headache.finding.label)
    precise = replace(said, finding=child.id, label=child.label)
    both = replace(
        migraine,
        differential=(replace(cause, evidence_for=(general, precise)),),
        observations=(headache, replace(headache, finding=child, origin=Origin.ANSWER)),
    )
    assert facts_of(both).signs == (child.phrase,)


def test_history_and_fields_are_no_signs(diagnoser: Diagnoser) -> None:
    """Age, sex and earlier diseases speak for a cause but are not told back as its signs."""
    text = "Je suis asthmatique, j'ai du mal à respirer et ça siffle."
    assessment = diagnoser.assess(text, Patient(age=20, sex="F"))
    kinds = {o.finding.phrase: o.finding.kind.value for o in assessment.observations}
    assert "history" in kinds.values()
    assert "history" not in {kinds[sign] for sign in facts_of(assessment).signs}


def test_the_alarm_is_the_rule_that_set_the_level(diagnoser: Diagnoser) -> None:
    """The label of the rule stands in the facts, ready for the middle of a sentence."""
    assessment = diagnoser.assess(CHEST, Patient())
    label = assessment.triage.reasons[0].label
    alarm = facts_of(assessment).alarm
    assert alarm == label[0].lower() + label[1:]
    assert alarm != label


def test_an_acronym_keeps_its_capitals(migraine: Assessment) -> None:
    """Only a word that is not all capitals loses its first one."""
    rule = Reason("x", "AVC récent", None, None)
    assert facts_of(with_triage(migraine, Urgency.EMERGENCY_DEPARTMENT, rule)).alarm == "AVC récent"


@pytest.mark.parametrize("reason", [LIKELY, Reason("too_little_understood", "Trop peu d'éléments", None, None)])
def test_without_a_rule_there_is_no_alarm(reason: Reason, migraine: Assessment) -> None:
    """A level from the causes, or from having understood little, is no alarm; nor is a milder rule beside it."""
    rule = Reason("milder", "Un signe plus léger", None, None)
    assert facts_of(with_triage(migraine, Urgency.DOCTOR_24_HOURS, reason)).alarm is None
    assert facts_of(with_triage(migraine, Urgency.DOCTOR_24_HOURS, rule, reason)).alarm is None


def advice_at(level: Urgency, urgency: Urgency, migraine: Assessment) -> str | None:
    """The advice kept at `level` when the likeliest cause calls for `urgency`."""
    cause = migraine.differential[0]
    mild = replace(cause, pathology=replace(cause.pathology, urgency=urgency))
    return facts_of(with_triage(replace(migraine, differential=(mild,)), level, LIKELY)).advice


def test_home_advice_of_a_milder_cause_is_left_out_of_an_emergency(migraine: Assessment) -> None:
    """In an emergency the advice stands only when its cause is as urgent; otherwise always."""
    left_out = {(level, urgency) for level in Urgency for urgency in Urgency if not advice_at(level, urgency, migraine)}
    milder = (Urgency.SELF_CARE, Urgency.DOCTOR_7_DAYS, Urgency.DOCTOR_24_HOURS)
    assert left_out == {
        *((Urgency.EMERGENCY_DEPARTMENT, urgency) for urgency in milder),
        *((Urgency.LIFE_THREATENING, urgency) for urgency in (*milder, Urgency.EMERGENCY_DEPARTMENT)),
    }


def test_advice_is_short(migraine: Assessment, knowledge: Knowledge) -> None:
    """Two sentences when there is one cause and no alarm, else one."""
    advice = knowledge.pathologies["migraine"].advice
    alone = facts_of(with_probabilities(migraine, 0.9))
    among = facts_of(with_probabilities(migraine, 0.5, 0.3))
    assert alone.advice is not None
    assert among.advice is not None
    assert (alone.advice.count(". ") + 1, among.advice.count(". ") + 1) == (2, 1)
    assert advice.startswith(alone.advice)
    assert alone.advice.startswith(among.advice)


def test_when_to_worry_fits_the_level(migraine: Assessment) -> None:
    """Who calls now needs no later alarm sign; who goes to the emergency department is told when to call."""
    worry = {level: facts_of(with_triage(migraine, level, LIKELY)).worry for level in Urgency}
    assert worry[Urgency.LIFE_THREATENING] is None
    assert (worry[Urgency.EMERGENCY_DEPARTMENT] or "").startswith("Appelez le 15 si cela s'aggrave")
    milder = {worry[level] for level in Urgency if level.rank < Urgency.EMERGENCY_DEPARTMENT.rank}
    assert [text.split(" si ")[0] for text in milder if text] == ["Appelez le 15"]
    assert worry[Urgency.EMERGENCY_DEPARTMENT] not in milder


def test_the_worry_of_a_milder_cause_is_left_out_of_an_emergency(diagnoser: Diagnoser) -> None:
    """A feverish baby sent to the emergency department is not told to consult if the fever lasts three days."""
    text = "Mon bébé de deux mois a de la fièvre, le nez bouché et il éternue."
    facts = facts_of(diagnoser.assess(text, Patient()))
    assert facts.level is Urgency.EMERGENCY_DEPARTMENT
    assert "plus de trois jours" not in (facts.worry or "")


def test_abstaining_leaves_only_questions(migraine: Assessment) -> None:
    """No cause, sign, advice or alarm sign; at most two questions."""
    questions = tuple(Question(f"q{i}", f"Question {i} ?", "") for i in range(4))
    facts = facts_of(replace(migraine, outcome=Outcome.ABSTAINED, questions=questions))
    assert facts == Facts(
        migraine.triage.level, "vous", abstained=True, probable=False, causes=(), signs=(),
        questions=("Question 0 ?", "Question 1 ?"),
    )  # fmt: skip


def test_an_answered_reply_asks_nothing(migraine: Assessment) -> None:
    """Questions have their own field in the answer."""
    assert migraine.questions
    assert facts_of(migraine).questions == ()


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("J'ai mal à la tête.", "vous"),
        ("Mon bebe tousse et il a de la fievre.", "votre bébé"),
        ("Ma grand-mère a de la fièvre et elle tousse.", "votre grand-mère"),
        ("ma mamie tousse et elle a de la fievre", "votre grand-mère"),
        ("Ma sœur a mal au ventre et elle vomit.", "votre sœur"),
        ("MA MERE A MAL AU VENTRE ET ELLE VOMIT.", "votre mère"),
    ],
)
def test_the_relative_is_called_with_accents(text: str, who: str, diagnoser: Diagnoser) -> None:
    """However it was typed, a reply writes the relative as a person would."""
    assert facts_of(diagnoser.assess(text, Patient())).who == who


def test_the_phone_of_the_rule_is_kept(migraine: Assessment) -> None:
    """The number that the triage gives is a fact."""
    rule = Reason("x", "Un signe", None, None)
    assert facts_of(with_triage(migraine, Urgency.EMERGENCY_DEPARTMENT, rule, phone="3114")).phone == "3114"


def test_texts_are_every_piece_that_may_be_quoted() -> None:
    """Causes, signs, questions, then what is there of alarm, phone, advice and worry."""
    facts = Facts(
        Urgency.SELF_CARE, "vous", abstained=False, probable=False, causes=("c",), signs=("s",), alarm="a", phone=None,
        advice="b", worry="w", questions=("q",),
    )  # fmt: skip
    assert facts.texts() == ("c", "s", "q", "a", "b", "w")


DIAGNOSER = Diagnoser(base())


def causes_of(assessment: Assessment) -> tuple[Cause, ...]:
    """The differential, empty when nothing is claimed."""
    return () if assessment.outcome is Outcome.ABSTAINED else assessment.differential


@settings(max_examples=100)
@given(messages())
def test_facts_hold_nothing_that_the_assessment_does_not(message: str) -> None:
    """For any message: at most three causes of the differential, at most three signs, all of them said."""
    assessment = DIAGNOSER.assess(message, Patient())
    facts = facts_of(assessment)
    said = {o.finding.phrase for o in assessment.observations if o.state is State.PRESENT}
    assert facts.level is assessment.triage.level
    assert facts.causes == tuple(c.pathology.phrase for c in causes_of(assessment))[: len(facts.causes)]
    assert len(facts.causes) <= 3
    assert len(facts.signs) <= 3
    assert set(facts.signs) <= said
