"""What the service makes of patients drawn from its own knowledge base, and of its model's replies.

A ceiling, not a clinical result: the cases come from the same frequencies that rank them. `answers` gives the drawn
findings as structured evidence (the ranking alone); `words` tells them in everyday French (understanding too), half
in wordings and about pathologies that the model has not seen in training. The model's replies are judged by the guard.

    python -m benchmarks.quality [--patients 300]
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from backend.core.diagnose import Diagnoser
from backend.core.entities import Answer, Patient, State
from backend.core.knowledge import load
from backend.settings import EMBEDDED_MODEL
from training.config import load_config
from training.evaluate import evaluate
from training.synthesise import Synthesiser, draw_findings, draw_patient

_CONFIG = Path("training/configs/mini.yaml")
_SEED = 5


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patients", type=int, default=300)
    options = parser.parse_args()
    diagnoser = Diagnoser(load())
    rng = random.Random(_SEED)
    pathologies = list(diagnoser.knowledge.pathologies.values())
    ranks = []
    for index in range(options.patients):
        pathology = pathologies[index % len(pathologies)]
        patient = draw_patient(pathology, rng)
        findings = draw_findings(pathology, diagnoser.knowledge, rng)
        answers = [Answer(finding.id, State.PRESENT) for finding in findings]
        ranks.append(_rank(diagnoser, pathology.id, "", Patient(patient.age, patient.sex), answers))
    _print("answers", ranks)
    synthesiser = Synthesiser(diagnoser, load_config(_CONFIG).synthesise, _SEED)
    examples = list(synthesiser.held_out())
    _print("words", [_rank(diagnoser, row["origin"], row["text"], Patient(), []) for row in examples])
    figures, _ = evaluate(EMBEDDED_MODEL, examples)
    for key, value in figures.items():
        print(f"model    {key} = {value}")
    return 0


def _rank(diagnoser: Diagnoser, wanted: str, text: str, patient: Patient, answers: list[Answer]) -> int | None:
    """The place of the drawn pathology among ten, from 0; None when it is not there."""
    found = [cause.pathology.id for cause in diagnoser.assess(text, patient, answers, 10).differential]
    return found.index(wanted) if wanted in found else None


def _print(what: str, ranks: list[int | None]) -> None:
    shares = [sum(rank is not None and rank < top for rank in ranks) / len(ranks) for top in (1, 3, 5)]
    print(f"{what:<8} first {shares[0]:.3f}, first three {shares[1]:.3f}, first five {shares[2]:.3f} (n={len(ranks)})")


if __name__ == "__main__":
    sys.exit(main())
