"""Self-consistency: patients drawn from the knowledge base, ranked from their findings, against the best possible.

A cause is drawn, evenly or by its prevalence; then an age and a sex by its profile, and each finding of its entry by
its frequency class, a third of those left unsaid. The ceiling is Bayes' rule with exactly these probabilities on the
same patients: nothing can do better, and the ranking, made for real messages, is meant to come near.

    python -m benchmarks.consistency [--patients 5000] [--pairs 20]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.core.entities import Observation, Origin, Patient, State
from backend.core.knowledge import Knowledge, load
from backend.core.ranking import Ranking
from backend.core.weights import BANDS, P_OF_CLASS, RATE_OF_CLASS, SEX_SHARE, Array, band_of
from training.synthesise import UNSAID, draw_patient

_SEED = 11
_TOPS = (1, 3, 5)
_NEVER = 1e-9


@dataclass(frozen=True, slots=True)
class Drawn:
    """One patient: the column of the true cause, and the rows of the findings said."""

    cause: int
    patient: Patient
    rows: tuple[int, ...]


class Population:
    """The generating model of one knowledge base: draws patients, and knows the best ranking of each."""

    def __init__(self, knowledge: Knowledge, *, evenly: bool) -> None:
        self._pathologies = list(knowledge.pathologies.values())
        self._row = {finding: row for row, finding in enumerate(knowledge.findings)}
        rates_DB = np.array([[RATE_OF_CLASS[p.prevalence[b.name]] for b in BANDS] for p in self._pathologies])
        joint_DB = rates_DB * np.array([band.share for band in BANDS])
        rates_D = joint_DB.sum(axis=1)
        self.share_D: Array = np.full(len(rates_D), 1 / len(rates_D)) if evenly else rates_D / rates_D.sum()
        self._log_band_DB = np.log(joint_DB / rates_D[:, None])
        self._log_sex_D2 = np.log(np.array([SEX_SHARE[p.sex] for p in self._pathologies]))
        said_FD = np.zeros((len(self._row), len(self._pathologies)))
        for column, pathology in enumerate(self._pathologies):
            for link in pathology.links:
                said_FD[self._row[link.finding], column] = P_OF_CLASS[link.frequency] * (1 - UNSAID)
        self._said_FD = said_FD
        self._log_said_FD = np.log(np.maximum(said_FD, _NEVER))
        self._log_unsaid_FD = np.log1p(-said_FD)

    def draw(self, rng: random.Random) -> Drawn:
        """One patient, who says at least one thing."""
        cause = rng.choices(range(len(self._pathologies)), self.share_D.tolist())[0]
        listed = np.flatnonzero(self._said_FD[:, cause])
        rows: tuple[int, ...] = ()
        while not rows:
            rows = tuple(int(row) for row in listed if rng.random() < self._said_FD[row, cause])
        return Drawn(cause, draw_patient(self._pathologies[cause], rng), rows)

    def best_order(self, drawn: Drawn) -> list[int]:
        """The causes, likeliest first, by Bayes' rule with the probabilities that drew the patient."""
        rows = list(drawn.rows)
        log_p_D = np.log(self.share_D) + self._log_unsaid_FD.sum(axis=0)
        log_p_D += (self._log_said_FD[rows] - self._log_unsaid_FD[rows]).sum(axis=0)
        if drawn.patient.age is not None:
            log_p_D += self._log_band_DB[:, band_of(drawn.patient.age)]
        log_p_D += self._log_sex_D2[:, 0 if drawn.patient.sex == "F" else 1]
        return [int(column) for column in np.argsort(-log_p_D, kind="stable")]


def measure(
    knowledge: Knowledge, ranking: Ranking, patients: int, *, evenly: bool
) -> tuple[Array, Counter[tuple[str, str]]]:
    """Share of patients whose cause is among the first 1, 3 and 5: (ranking, ceiling) as (2, 3); and confusions."""
    population = Population(knowledge, evenly=evenly)
    rng = random.Random(_SEED)
    findings = list(knowledge.findings.values())
    hits = np.zeros((2, len(_TOPS)))
    confused: Counter[tuple[str, str]] = Counter()
    for _ in range(patients):
        drawn = population.draw(rng)
        said = [Observation(findings[row], State.PRESENT, Origin.ANSWER) for row in drawn.rows]
        orders = (ranking.score(said, drawn.patient).order, population.best_order(drawn))
        for who, order in enumerate(orders):
            hits[who] += [drawn.cause in order[:top] for top in _TOPS]
        if orders[0][0] != drawn.cause:
            confused[ranking.pathologies[drawn.cause].id, ranking.pathologies[orders[0][0]].id] += 1
    return hits / patients, confused


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patients", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=20, help="confused pairs to list")
    options = parser.parse_args(arguments)
    knowledge = load()
    ranking = Ranking(knowledge)
    for evenly in (True, False):
        (own, best), confused = measure(knowledge, ranking, options.patients, evenly=evenly)
        print(f"causes drawn {'evenly' if evenly else 'by prevalence'}, {options.patients} patients")
        for top, reached, ceiling in zip(_TOPS, own, best, strict=True):
            print(f"  first {top}: {reached:.3f}, ceiling {ceiling:.3f}, ratio {reached / ceiling:.3f}")
        for (cause, taken_for), count in confused.most_common(options.pairs):
            print(f"    {count:3d}  {cause} taken for {taken_for}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
