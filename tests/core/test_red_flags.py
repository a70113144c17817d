"""Every red-flag rule on its own sentences, and the emergencies of the field's list."""

from __future__ import annotations

import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Answer, Patient, State
from backend.core.knowledge import load
from backend.core.lint import fires

RULES = load().red_flags
POSITIVE = [(rule.id, case) for rule in RULES for case in rule.positive]
NEGATIVE = [(rule.id, case) for rule in RULES for case in rule.negative]


@pytest.mark.parametrize(("rule", "case"), POSITIVE)
def test_a_rule_fires_on_its_positive_sentences(rule: str, case: object, diagnoser: Diagnoser) -> None:
    """Each positive sentence fires its own rule."""
    assert fires(next(r for r in RULES if r.id == rule), case, diagnoser)  # type: ignore[arg-type]  # a Case


@pytest.mark.parametrize(("rule", "case"), NEGATIVE)
def test_a_rule_is_silent_on_its_negative_sentences(rule: str, case: object, diagnoser: Diagnoser) -> None:
    """No negative sentence fires its own rule."""
    assert not fires(next(r for r in RULES if r.id == rule), case, diagnoser)  # type: ignore[arg-type]  # a Case


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("J'ai une douleur dans la poitrine qui descend dans le bras gauche et je transpire.", "15"),
        ("Ma bouche part de travers et je n'arrive plus à parler.", "15"),
        ("Le pire mal de tête de ma vie, arrivé d'un seul coup.", "15"),
        ("Ma fille de 2 ans a de la fièvre et des taches violettes qui ne s'effacent pas.", "15"),
        ("Je veux mourir ce soir, j'ai préparé des médicaments.", "15"),
        ("Il a avalé toute la boîte de médicaments et il est somnolent.", "15"),
        ("J'ai la langue qui gonfle et je respire mal depuis une piqûre de guêpe.", "15"),
    ],
)
def test_life_threatening_emergencies_call_the_15(text: str, phone: str, diagnoser: Diagnoser) -> None:
    """The classic emergencies, in everyday words."""
    triage = diagnoser.assess(text, Patient()).triage
    assert (triage.level.value, triage.phone) == ("urgence_vitale", phone)


def test_a_stated_plan_is_at_least_as_urgent_as_the_idea(diagnoser: Diagnoser) -> None:
    """The crisis inversion seen in 2026 in a general assistant must not happen here."""
    idea = diagnoser.assess("J'ai envie de mourir.", Patient()).triage
    plan = diagnoser.assess("J'ai préparé des médicaments pour mourir ce soir.", Patient()).triage
    assert plan.level.rank >= idea.level.rank >= 3
    assert idea.phone == "3114"
    assert "3114" in plan.message


def test_an_emergency_of_another_person_fires_too(diagnoser: Diagnoser) -> None:
    """The writer's own banal complaint does not hide the husband's chest pain."""
    own = "J'ai mal à la gorge, je tousse et j'ai le nez bouché."
    text = f"{own} Mon mari a une douleur dans la poitrine qui va dans le bras."
    assert diagnoser.assess(text, Patient()).triage.level.value == "urgence_vitale"


def test_an_answer_completes_a_rule(diagnoser: Diagnoser) -> None:
    """A rule half said in the text fires when the answer to a question adds the rest."""
    before = diagnoser.assess("J'ai une douleur dans la poitrine.", Patient()).triage
    answers = [Answer("pain_radiating_arm_jaw", State.PRESENT)]
    after = diagnoser.assess("J'ai une douleur dans la poitrine.", Patient(), answers).triage
    assert before.level.rank < after.level.rank == 4


def test_age_may_come_from_the_field_or_from_the_text(diagnoser: Diagnoser) -> None:
    """Either suffices for a rule about infants."""
    for text, age in (("Mon bébé de deux mois a de la fièvre.", None), ("Elle a de la fièvre.", 0.15)):
        assert diagnoser.assess(text, Patient(age=age)).triage.level.rank >= 3
