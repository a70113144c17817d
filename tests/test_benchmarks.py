"""The measuring tools themselves: intervals, accepted causes, drawn patients and their ceiling."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.core.diagnose import Diagnoser
from backend.core.knowledge import Knowledge
from benchmarks import consistency, interview
from benchmarks.cases import is_accepted, reliability, wilson
from benchmarks.evaluate import case_figures
from benchmarks.model_ranking import mcnemar


def test_an_interval_holds_the_share() -> None:
    """Five of ten: the published Wilson interval."""
    low, high = wilson(5, 10)
    assert low == pytest.approx(0.2366, abs=1e-3)
    assert high == pytest.approx(0.7634, abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_cause_is_accepted_by_code_or_by_name(knowledge: Knowledge) -> None:
    """A child of an accepted code counts, a sibling does not; accents and case of a name do not matter."""
    appendicitis = knowledge.pathologies["appendicitis"]
    assert is_accepted(appendicitis, {"icd10": ["K35"], "names": []})
    assert not is_accepted(appendicitis, {"icd10": ["K36"], "names": []})
    assert is_accepted(appendicitis, {"icd10": [], "names": ["APPENDICITE"]})


def test_reliability_sorts_into_tenths() -> None:
    """Mean stated probability, share right and number of each bin that occurs."""
    low, high = reliability(np.array([0.05, 0.05, 0.95]), np.array([0.0, 1.0, 1.0]))
    assert low == pytest.approx((0.05, 0.5, 2))
    assert high == pytest.approx((0.95, 1.0, 1))


def test_mcnemar_is_exact() -> None:
    """Nothing discordant is no evidence; ten to none is two in 1,024."""
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(10, 0) == pytest.approx(2 / 1024)
    assert mcnemar(3, 9) == mcnemar(9, 3)


@pytest.mark.parametrize("evenly", [True, False])
def test_nothing_beats_the_ceiling_by_much(diagnoser: Diagnoser, *, evenly: bool) -> None:
    """Bayes' rule with the true probabilities is best but for chance, and the ranking comes near it."""
    (own, best), _ = consistency.measure(diagnoser.knowledge, diagnoser.ranking, 300, evenly=evenly)
    assert (own <= best + 0.03).all()
    assert own[0] >= 0.9 * best[0]


def test_three_answers_help(diagnoser: Diagnoser) -> None:
    """The first cause is right more often after three questions."""
    steps = interview.measure(diagnoser, 100)
    assert steps[-1][0] > steps[0][0]


def test_every_kind_of_case_is_measured(diagnoser: Diagnoser, tmp_path: Path) -> None:
    """A folder with one case of each kind gives figures for each."""

    def write(name: str, case: dict[str, object]) -> None:
        (tmp_path / name).write_text(json.dumps(case), encoding="utf-8")

    text = "J'ai mal au ventre en bas à droite et de la fièvre, pas de diarrhée."
    write("vignettes.jsonl", {"id": 1, "text": text, "icd10": ["K35"], "names": [], "gold": "appendicitis"})
    write("triage.jsonl", {"id": 1, "text": text, "label": "urgences", "acceptable": ["urgences"], "floor": "urgences"})
    write("assertions.jsonl", {"id": 1, "text": text, "expect": [{"cue": "diarrhée", "state": "absent"}]})
    (tmp_path / "perturb.json").write_text('{"noise": ["Merci."]}', encoding="utf-8")
    found = {figures.name: figures for figures in case_figures(tmp_path, diagnoser)}
    assert found["vignettes.jsonl"].shares["first 1"] == (1, 1)
    assert found["triage.jsonl"].shares["safe"] == (1, 1)
    assert found["assertions.jsonl"].shares["right when captured"] == (1, 1)
    assert found["perturb.json on triage.jsonl"].counts == {"changed messages": 2, "falls": 0}
