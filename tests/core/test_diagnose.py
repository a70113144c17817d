"""Whole requests, told as stories: what a person writes, and what is decided about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Answer, Assessment, Origin, Outcome, Patient, State, Urgency


@dataclass(frozen=True)
class Story:
    """A message with its fields, and what must be decided: the level, the number, the likeliest cause (None: any)."""

    text: str
    level: Urgency
    phone: str | None = None
    cause: str | None = None
    patient: Patient = field(default_factory=Patient)


STORIES = [
    Story(
        "J'ai mal au ventre en bas à droite depuis ce matin, avec des nausées et un peu de fièvre.",
        Urgency.EMERGENCY_DEPARTMENT, cause="appendicitis",
    ),
    Story(
        "J'ai mal à la tête d'un seul côté, ça tape, la lumière me gêne et je vois des points lumineux.",
        Urgency.DOCTOR_7_DAYS, cause="migraine", patient=Patient(32, "F"),
    ),
    Story(
        "J'ai une douleur dans la poitrine qui va dans le bras gauche et je transpire.",
        Urgency.LIFE_THREATENING, "15", "acute_myocardial_infarction", Patient(58, "M"),
    ),
    Story(
        "Mon bébé a de la fièvre, 38,5 ce matin.", Urgency.EMERGENCY_DEPARTMENT, "15", patient=Patient(age=0.15),
    ),
    Story("Mon bébé de deux mois a de la fièvre.", Urgency.EMERGENCY_DEPARTMENT, "15"),
    Story("Je veux mourir.", Urgency.EMERGENCY_DEPARTMENT, "3114"),
    Story(
        "J'ai le nez qui coule, j'éternue, j'ai un peu mal à la gorge mais pas de fièvre.",
        Urgency.SELF_CARE, cause="common_cold", patient=Patient(30, "F"),
    ),
    Story(
        "Ça me brûle quand je fais pipi, j'ai envie d'uriner sans arrêt et mes urines sont troubles.",
        Urgency.DOCTOR_24_HOURS, cause="cystitis", patient=Patient(28, "F"),
    ),
    Story(
        "Mon père a la bouche de travers et n'arrive plus à lever le bras droit depuis une heure.",
        Urgency.LIFE_THREATENING, "15", patient=Patient(72, "M"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.text[:50])
def test_a_story_gets_its_level_number_and_cause(story: Story, diagnoser: Diagnoser) -> None:
    """The classic presentations, in everyday words, end where a clinician would send them."""
    assessment = diagnoser.assess(story.text, story.patient)
    assert (assessment.triage.level, assessment.triage.phone) == (story.level, story.phone)
    if story.cause is not None:
        assert assessment.outcome is Outcome.ANSWERED
        assert assessment.differential[0].pathology.id == story.cause


def states(assessment: Assessment, finding: str) -> list[tuple[State, Origin]]:
    """What the assessment says of one finding."""
    return [(o.state, o.origin) for o in assessment.observations if o.finding.id == finding]


@pytest.mark.parametrize("state", [State.PRESENT, State.ABSENT, State.UNKNOWN])
@pytest.mark.parametrize("text", ["J'ai mal au ventre et de la fièvre.", "J'ai mal au ventre, pas de fièvre."])
def test_an_answer_beats_the_text(text: str, state: State, diagnoser: Diagnoser) -> None:
    """What the person answered replaces what the text seemed to say of that finding, once."""
    assessment = diagnoser.assess(text, Patient(), [Answer("fever", state)])
    assert states(assessment, "fever") == [(state, Origin.ANSWER)]


def test_an_answer_leaves_the_other_findings(diagnoser: Diagnoser) -> None:
    """The rest of the text counts as before."""
    text = "J'ai mal au ventre et de la fièvre."
    assessment = diagnoser.assess(text, Patient(), [Answer("fever", State.ABSENT)])
    assert states(assessment, "abdominal_pain") == states(diagnoser.assess(text, Patient()), "abdominal_pain")


def test_an_answer_changes_the_ranking(diagnoser: Diagnoser) -> None:
    """Confirming a telling sign makes its cause likelier, denying it less likely."""
    text = "J'ai mal au ventre et j'ai la nausée."
    found = {
        state: probability_of(diagnoser.assess(text, Patient(), [Answer("right_lower_abdominal_pain", state)], 10))
        for state in (State.PRESENT, State.UNKNOWN, State.ABSENT)
    }
    assert found[State.ABSENT] < found[State.UNKNOWN] < found[State.PRESENT]


def probability_of(assessment: Assessment, cause: str = "appendicitis") -> float:
    """The probability of a cause, zero when it is not shown."""
    return next((c.probability for c in assessment.differential if c.pathology.id == cause), 0.0)


def test_unknown_evidence_is_ignored_and_listed(diagnoser: Diagnoser) -> None:
    """Answers about findings that this knowledge base does not have change nothing and are named, in order."""
    text = "J'ai mal au ventre."
    answers = [Answer("gone_in_2030", State.PRESENT), Answer("fever", State.PRESENT), Answer("nope", State.ABSENT)]
    assessment = diagnoser.assess(text, Patient(), answers)
    same = diagnoser.assess(text, Patient(), [Answer("fever", State.PRESENT)])
    assert assessment.ignored_evidence == ("gone_in_2030", "nope")
    assert [c.probability for c in assessment.differential] == [c.probability for c in same.differential]
    assert same.ignored_evidence == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (Patient(), Patient(67, "M")),
        (Patient(age=5), Patient(5, "M")),
        (Patient(sex="F"), Patient(67, "F")),
        (Patient(8, "F", pregnant=False), Patient(8, "F", pregnant=False)),
    ],
)
def test_fields_beat_the_text(fields: Patient, expected: Patient, diagnoser: Diagnoser) -> None:
    """Age and sex of the request win; what it leaves out is read from the text."""
    assert diagnoser.assess("Mon mari, 67 ans, a mal au dos.", fields).patient == expected


@pytest.mark.parametrize(("pregnant", "state"), [(True, State.PRESENT), (False, State.ABSENT)])
def test_the_pregnancy_field_is_a_finding(pregnant: bool, state: State, diagnoser: Diagnoser) -> None:
    """It counts as an answer about the pregnancy, which an explicit answer to that question outweighs."""
    patient = Patient(28, "F", pregnant=pregnant)
    text = "J'ai mal au ventre."
    assert states(diagnoser.assess(text, patient), "pregnancy") == [(state, Origin.ANSWER)]
    answered = diagnoser.assess(text, patient, [Answer("pregnancy", State.UNKNOWN)])
    assert states(answered, "pregnancy") == [(State.UNKNOWN, Origin.ANSWER)]


@pytest.mark.parametrize("shown", [1, 3, 10])
def test_no_more_causes_than_asked_for(shown: int, diagnoser: Diagnoser) -> None:
    """The shown causes are the likeliest, in order, and the rest is one number."""
    text = "J'ai mal au ventre et de la fièvre."
    some, ten = (diagnoser.assess(text, Patient(), (), most) for most in (shown, 10))
    shown_causes = [(c.pathology.id, c.probability) for c in some.differential]
    assert shown_causes == [(c.pathology.id, c.probability) for c in ten.differential][:shown]
    assert some.p_not_shown >= ten.p_not_shown


def test_findings_quote_the_text_as_sent(diagnoser: Diagnoser) -> None:
    """Each finding of the text has its place and the words that stand there."""
    text = "Bonjour,  j'ai MAL à la tête\n et de la fiévre."
    spans = [o for o in diagnoser.assess(text, Patient()).observations if o.origin is Origin.TEXT]
    assert {o.finding.id for o in spans} >= {"headache", "fever"}
    assert all(o.quote == text[o.start : o.end] for o in spans)


def test_what_nobody_understood_is_shown(diagnoser: Diagnoser) -> None:
    """A clause without any understood word is handed back with its place."""
    text = "J'ai mal au ventre. Le zygomorphe gribouille."
    (span,) = diagnoser.assess(text, Patient()).unmatched
    assert (span.quote, text[span.start : span.end]) == ("Le zygomorphe gribouille",) * 2


@pytest.mark.parametrize(
    ("text", "person"), [("J'ai mal à la tête.", "vous"), ("Ma belle-mère a mal à la tête.", "votre belle-mère")]
)
def test_the_assessment_says_whom_it_is_about(text: str, person: str, diagnoser: Diagnoser) -> None:
    """The reply addresses the writer or names the relative."""
    assert diagnoser.assess(text, Patient()).person == person


def test_a_relative_as_ill_as_the_writer_counts(diagnoser: Diagnoser) -> None:
    """When two persons have about as many complaints and no rule fires, the worse of the two sets the level."""
    own = "J'ai le nez qui coule, j'éternue et j'ai un peu mal à la gorge."
    relative = "Ma femme a mal en urinant, des urines troubles et envie d'uriner sans arrêt."
    texts = (own, relative, f"{own} {relative}")
    alone, hers, both = (diagnoser.assess(text, Patient()).triage for text in texts)
    assert alone.level.rank < hers.level.rank
    assert both.level is hers.level
    assert [reason.rule for reason in both.reasons] == ["likely_causes"]
