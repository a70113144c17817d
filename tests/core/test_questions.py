"""The next questions."""

from __future__ import annotations

import numpy as np
import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Answer, Patient, State
from backend.core.questions import information_gains


def test_a_question_that_splits_the_causes_gains_most() -> None:
    """A finding of one of two equal causes gains the whole bit; a finding of both gains nothing."""
    p_D = np.array([0.5, 0.5])
    gains = information_gains(p_D, 0.0, np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([0.0, 0.0]))
    assert gains == pytest.approx([np.log(2), 0.0])


def test_questions_are_new_few_and_explained(diagnoser: Diagnoser) -> None:
    """At most five, none about what was said, each with a reason."""
    assessment = diagnoser.assess("J'ai mal au ventre et de la fièvre.", Patient())
    told = {o.finding.id for o in assessment.observations}
    assert 1 <= len(assessment.questions) <= 5
    assert not told & {q.finding for q in assessment.questions}
    assert all(q.text.endswith("?") and q.why for q in assessment.questions)


def test_an_open_red_flag_is_asked_first(diagnoser: Diagnoser) -> None:
    """With a chest pain, the first question is about a sign that would call the 15."""
    first = diagnoser.assess("J'ai une douleur dans la poitrine.", Patient(age=55)).questions[0]
    assert "urgence" in first.why


def test_i_do_not_know_is_an_answer(diagnoser: Diagnoser) -> None:
    """An unknown answer changes no weight and the question is not asked again."""
    text = "J'ai mal au ventre et de la fièvre."
    before = diagnoser.assess(text, Patient())
    asked = before.questions[0].finding
    after = diagnoser.assess(text, Patient(), [Answer(asked, State.UNKNOWN)])
    assert asked not in {q.finding for q in after.questions}
    assert asked in {o.finding.id for o in after.observations}


@pytest.mark.parametrize(("age", "asked"), [(None, False), (40.0, False), (0.5, True)])
def test_alarm_questions_fit_the_age(diagnoser: Diagnoser, age: float | None, *, asked: bool) -> None:
    """A rule for children is only asked about where the patient is known to be one."""
    questions = diagnoser.assess("Il tousse et il a du mal à respirer.", Patient(age=age)).questions
    assert any("enfant qui lutte pour respirer" in question.why for question in questions) is asked
