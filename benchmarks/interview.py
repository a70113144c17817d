"""What three questions bring: patients who say one finding in three, before and after they answer.

A cause is drawn evenly, then an age, a sex and the findings by their frequencies; the patient says a third of them,
then answers the first question that the service would ask, three times, truthfully ("no" for what was not drawn).

    python -m benchmarks.interview [--patients 1000]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from backend.core.diagnose import Diagnoser
from backend.core.entities import Answer, Frequency, Patient, State
from backend.core.knowledge import load
from backend.core.weights import P_OF_CLASS
from training.synthesise import draw_patient

_SEED = 17
_SAID = 1 / 3
QUESTIONS = 3


def measure(diagnoser: Diagnoser, patients: int) -> list[tuple[float, float]]:
    """(first, first five) before any question and after each of three."""
    rng = random.Random(_SEED)
    pathologies = list(diagnoser.knowledge.pathologies.values())
    hits = [[0, 0] for _ in range(QUESTIONS + 1)]
    for _ in range(patients):
        pathology = rng.choice(pathologies)
        shown = {
            link.finding
            for link in pathology.links
            if link.frequency is not Frequency.EXCLUDED and rng.random() < P_OF_CLASS[link.frequency]
        }
        shown |= {parent for finding in shown for parent in diagnoser.knowledge.ancestors(finding)}
        drawn = draw_patient(pathology, rng)
        patient = Patient(drawn.age, drawn.sex)
        answers = [Answer(finding, State.PRESENT) for finding in sorted(shown) if rng.random() < _SAID]
        for step in range(QUESTIONS + 1):
            found = diagnoser.assess("", patient, answers, 5)
            order = [cause.pathology.id for cause in found.differential]
            hits[step][0] += order[0] == pathology.id
            hits[step][1] += pathology.id in order
            if found.questions:
                asked = found.questions[0].finding
                answers.append(Answer(asked, State.PRESENT if asked in shown else State.ABSENT))
    return [(first / patients, five / patients) for first, five in hits]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patients", type=int, default=1000)
    options = parser.parse_args(arguments)
    for step, (first, five) in enumerate(measure(Diagnoser(load()), options.patients)):
        print(f"after {step} questions: first {first:.3f}, first five {five:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
