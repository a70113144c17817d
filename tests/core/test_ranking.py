"""Weights of evidence: they add up, and each part does what its parameter says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Observation, Origin, Patient, State
from backend.core.knowledge import Knowledge
from backend.core.ranking import Ranking, probabilities
from backend.core.weights import Parameters, band_of

NO_ONE = Patient()


def said(knowledge: Knowledge, *findings: str, state: State = State.PRESENT) -> list[Observation]:
    """Findings as answers."""
    return [Observation(knowledge.findings[f], state, Origin.ANSWER) for f in findings]


def test_probabilities_are_a_softmax_against_the_outside() -> None:
    """Log-odds 0 for one cause means as likely as the outside."""
    p_D, p_other = probabilities(np.array([0.0, -math.inf]))
    assert p_D[0] == pytest.approx(0.5)
    assert p_other == pytest.approx(0.5)


def test_the_guides_examples_rank_first(diagnoser: Diagnoser) -> None:
    """The two sentences of the original guide."""
    appendicitis = diagnoser.assess(
        "J'ai mal au ventre en bas à droite depuis ce matin, avec des nausées et un peu de fièvre", NO_ONE
    )
    migraine = diagnoser.assess("J'ai mal à la tête et je vois des points lumineux", NO_ONE)
    assert appendicitis.differential[0].pathology.id == "appendicitis"
    assert appendicitis.triage.level.rank >= 3
    assert migraine.differential[0].pathology.id == "migraine"


def test_what_no_cause_lists_changes_no_rank(knowledge: Knowledge) -> None:
    """Pain without a place says nothing of any cause, present or denied."""
    ranking = Ranking(knowledge)
    fever = said(knowledge, "fever", "cough")
    alone = ranking.score(fever, NO_ONE).p_D
    for state in (State.PRESENT, State.ABSENT):
        beside = ranking.score([*fever, *said(knowledge, "pain_unspecified", state=state)], NO_ONE).p_D
        assert np.allclose(alone, beside, atol=1e-6)


def test_a_second_finding_of_a_group_is_damped(knowledge: Knowledge) -> None:
    """Fever and chills say nearly the same: together they weigh less than the sum."""
    ranking = Ranking(knowledge)
    column = [p.id for p in ranking.pathologies].index("pneumonia")
    weights = {
        names: ranking.explain(ranking.score(said(knowledge, *names), NO_ONE), column)
        for names in (("fever",), ("chills",), ("fever", "chills"))
    }
    total = {names: sum(e.weight for e in cause.evidence_for) for names, cause in weights.items()}
    assert max(total[("fever",)], total[("chills",)]) < total[("fever", "chills")]
    assert total[("fever", "chills")] < total[("fever",)] + total[("chills",)]


def test_an_absent_usual_finding_speaks_against(knowledge: Knowledge) -> None:
    """Denying the abdominal pain lowers appendicitis."""
    ranking = Ranking(knowledge)
    column = [p.id for p in ranking.pathologies].index("appendicitis")
    without = ranking.score([], NO_ONE).log_odds_D[column]
    denied = ranking.score(said(knowledge, "abdominal_pain", state=State.ABSENT), NO_ONE).log_odds_D[column]
    assert denied < without


def test_a_child_finding_counts_for_a_cause_that_lists_the_parent(knowledge: Knowledge) -> None:
    """Someone with a throbbing headache has a headache."""
    ranking = Ranking(knowledge)
    row = ranking.weights.row["throbbing_headache"]
    column = [p.id for p in ranking.pathologies].index("concussion")
    assert ranking.weights.present_FD[row, column] > 0


def test_age_and_sex_weigh_without_words(knowledge: Knowledge) -> None:
    """Evidence from the fields has no quote."""
    ranking = Ranking(knowledge)
    scores = ranking.score(said(knowledge, "cough"), Patient(age=1.0, sex="M"))
    evidence = ranking.explain(scores, scores.order[0])
    facts = [e for e in (*evidence.evidence_for, *evidence.evidence_against) if e.finding in ("age", "sex")]
    assert facts
    assert all(e.quote is None for e in facts)


def test_bands_start_at_their_first_age() -> None:
    """Two years is a child, fifteen a young adult."""
    assert [band_of(a) for a in (0.0, 1.99, 2.0, 14.9, 15.0, 40.0, 65.0, 120.0)] == [0, 0, 1, 1, 2, 3, 4, 4]


def test_parameters_change_what_they_say(knowledge: Knowledge) -> None:
    """Without calibration the weights are larger."""
    plain, scaled = (Ranking(knowledge, Parameters(calibration=c)).weights for c in (1.0, 0.5))
    assert np.allclose(plain.present_FD * 0.5, scaled.present_FD)
