"""The knowledge base as matrices of weights of evidence (nats), one row per finding, one column per pathology.

Every cause is compared with "another cause, outside the knowledge base", which shows each finding at its background
rate (the leak). For a cause d and a finding f said to be present,

    weight = log( P(f | d) / P(f | background) )

and for an absent one log((1 - P(f | d)) / (1 - P(f | background))): the weight of evidence of naive Bayes with a leak
(Good 1950; for frequency classes and leaks in medicine, Miller 1982 and Shwe 1991). `P(f | d)` comes from the HPO
frequency class of the entry, the background from the whole base weighted by prevalence.

Shapes: F findings, D pathologies, B age bands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.core.entities import Frequency, Kind, Pathology
from backend.core.knowledge import Knowledge

Array = NDArray[np.float64]
Table = NDArray[np.float32]

# Middle of each HPO class, as a probability among people who have the disease and describe it.
P_OF_CLASS = {
    Frequency.OBLIGATE: 0.97,
    Frequency.VERY_FREQUENT: 0.88,
    Frequency.FREQUENT: 0.50,
    Frequency.OCCASIONAL: 0.15,
    Frequency.VERY_RARE: 0.03,
    Frequency.EXCLUDED: 0.001,
}
# Share of consultations of which a disease of the class is the cause, in its age band (see docs/knowledge.md).
RATE_OF_CLASS = {
    "very_common": 1 / 30, "common": 1 / 150, "uncommon": 1 / 700, "rare": 1 / 4_000, "very_rare": 1 / 30_000,
    "never": 1 / 3_000_000,
}  # fmt: skip
# P(sex | disease), women first.
SEX_SHARE = {
    "both": (0.5, 0.5), "F": (0.999, 0.001), "M": (0.001, 0.999), "F_mostly": (0.75, 0.25), "M_mostly": (0.25, 0.75),
}  # fmt: skip


class Band(NamedTuple):
    """An age band: its name, first age in years, and share of consultations (general knowledge, rounded)."""

    name: str
    first_age: float
    share: float


BANDS = (
    Band("infant", 0.0, 0.06), Band("child", 2.0, 0.12), Band("young", 15.0, 0.27), Band("adult", 40.0, 0.28),
    Band("senior", 65.0, 0.27),
)  # fmt: skip


def band_of(age: float) -> int:
    """Index in `BANDS` of an age in years."""
    return max(index for index, band in enumerate(BANDS) if age >= band.first_age)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The few global numbers of the ranking; the effect of each is in `docs/log.md`."""

    p_other: float = 0.05
    """Prior share of consultations whose cause is outside the base."""
    prior_power: float = 0.4
    """Prevalence is raised to this power: patients who write are not a random sample of consultations."""
    calibration: float = 0.75
    """Every weight is multiplied by this."""
    group_damping: float = 0.7
    """Share of its weight that the second finding of a group keeps (its square for the third, and so on)."""
    said: float = 0.5
    """How often patients mention a finding that they have, as far as silence counts."""
    most_silent: float = 3.0
    """Most that a cause loses by all silence together, in nats: a long profile is no reason to come later."""
    said_obligate: float = 0.8
    """The same for what defines a disease ("pregnancy")."""
    least_missed: float = 0.3
    """Silence counts against a cause for findings at least this frequent in it."""
    unlisted: tuple[float, float, float, float, float] = (0.1, 0.27, 0.5, 0.9, 1.4)
    """Nats lost by a cause that does not list a present finding, by importance 1 to 5."""
    sibling: float = 1.0
    """Nats lost when a cause lists other kinds of a symptom than the one said (pain elsewhere)."""
    named: float = 2.0
    """Most that the mere name of a disease may weigh for it, in nats."""
    background_kinds: float = 0.8
    """Share of its weight that a risk factor or a known disease keeps: it is background, not a symptom."""
    background_floor: tuple[float, float, float, float, float] = (0.025, 0.015, 0.01, 0.005, 0.0025)
    """Least background rate of a finding, by importance 1 to 5."""


class _Weight(NamedTuple):
    present: float
    absent: float
    p: float


def _kind_scale(kind: Kind, parameters: Parameters) -> float:
    return parameters.background_kinds if kind in (Kind.RISK, Kind.HISTORY) else 1.0


class Weights:
    """All weights of one knowledge base, calibrated. Building takes about 0.15 s for 570 pathologies.

    Attributes:
        prior_D: log-odds of each cause against the outside before any evidence.
        present_FD, absent_FD: weights of a finding present or absent, single precision.
        unsaid_UD: weights of a finding unmentioned, one row for each of the findings `unsaid_rows` of `present_FD`.
        age_DB, sex_D2: weights of the age band and of the sex (women first).
        p_FD: P(f | d); background_F: P(f | background).
    """

    def __init__(self, knowledge: Knowledge, parameters: Parameters) -> None:
        self._knowledge = knowledge
        self._parameters = parameters
        self.pathologies: tuple[Pathology, ...] = tuple(knowledge.pathologies.values())
        self.row = {finding: index for index, finding in enumerate(knowledge.findings)}
        rates_DB = np.array([[RATE_OF_CLASS[p.prevalence[band.name]] for band in BANDS] for p in self.pathologies])
        rates_D = rates_DB @ np.array([band.share for band in BANDS])
        sex_D2 = np.array([SEX_SHARE[p.sex] for p in self.pathologies])
        scale = parameters.calibration
        self.age_DB: Array = np.log(rates_DB / rates_D[:, None]) * scale
        self.sex_D2: Array = np.log(sex_D2 / 0.5) * scale
        tempered_D = rates_D**parameters.prior_power
        share_D = (1.0 - parameters.p_other) * tempered_D / tempered_D.sum()
        self.prior_D: Array = np.log(share_D / parameters.p_other)
        listed = [self._listed(pathology) for pathology in self.pathologies]
        self.background_F = self._background(listed, rates_D / rates_D.sum())
        self.present_FD, self.absent_FD, self.p_FD = self._tables(listed)
        kinds_F = np.array([_kind_scale(f.kind, parameters) for f in knowledge.findings.values()])
        self.present_FD *= (scale * kinds_F)[:, None].astype(np.float32)
        self.absent_FD *= (scale * kinds_F)[:, None].astype(np.float32)
        self.unsaid_rows, self.unsaid_UD = self._unsaid(listed)

    def _listed(self, pathology: Pathology) -> dict[str, float]:
        """P(f | d) of the findings that an entry lists, and of its own name."""
        own = {link.finding: P_OF_CLASS[link.frequency] for link in pathology.links}
        own.setdefault(pathology.history_finding, P_OF_CLASS[Frequency.OCCASIONAL])
        return own

    def _background(self, listed: Sequence[Mapping[str, float]], share_D: Array) -> Array:
        """P(f) in a consultation whatever its cause, children counted for their parents."""
        rate_F = np.zeros(len(self.row))
        for own, share in zip(listed, share_D, strict=True):
            implied = dict(own)
            for finding, p in own.items():
                for parent in self._knowledge.ancestors(finding):
                    implied[parent] = max(implied.get(parent, 0.0), p)
            for finding, p in implied.items():
                rate_F[self.row[finding]] += share * p
        floors = self._parameters.background_floor
        floor_F = np.array([floors[f.importance - 1] for f in self._knowledge.findings.values()])
        background_F: Array = np.clip(np.maximum(rate_F, floor_F), 0.0, 0.6)
        return background_F

    def _tables(self, listed: Sequence[Mapping[str, float]]) -> tuple[Table, Table, Table]:
        """Weights when present, when absent, and P(f | d), each (F, D), before calibration."""
        shape = (len(self.row), len(self.pathologies))
        present_FD: Table = np.zeros(shape, dtype=np.float32)
        absent_FD: Table = np.zeros(shape, dtype=np.float32)
        p_FD: Table = np.zeros(shape, dtype=np.float32)
        children: dict[str, list[str]] = defaultdict(list)
        for finding in self._knowledge.findings:
            for parent in self._knowledge.ancestors(finding):
                children[parent].append(finding)
        unlisted = self._parameters.unlisted
        loss_F = np.array([unlisted[f.importance - 1] for f in self._knowledge.findings.values()])
        present_FD[:] = -loss_F[:, None]
        p_FD[:] = (self.background_F * np.exp(-loss_F))[:, None]
        silent = set(self.row.values())
        for column, (own, pathology) in enumerate(zip(listed, self.pathologies, strict=True)):
            touched = set(own)
            touched.update(child for finding in own for child in children[finding])
            touched.update(parent for finding in own for parent in self._knowledge.ancestors(finding))
            for finding in touched:
                weight = self._weight(finding, own, children)
                row = self.row[finding]
                present_FD[row, column], absent_FD[row, column], p_FD[row, column] = weight
                silent.discard(row)
            name = self._knowledge.findings[pathology.history_finding]
            if name.kind is Kind.HISTORY:
                row = self.row[name.id]
                present_FD[row, column] = min(present_FD[row, column], self._parameters.named)
        for row in silent:  # what no entry lists says nothing of any
            present_FD[row], p_FD[row] = 0.0, self.background_F[row]
        return present_FD, absent_FD, p_FD

    def _weight(self, finding: str, own: Mapping[str, float], children: Mapping[str, Sequence[str]]) -> _Weight:
        """The weight of a finding that the entry lists, or whose parent or child it lists."""
        background = float(self.background_F[self.row[finding]])
        listed = [own[f] for f in (finding, *children[finding]) if f in own]
        if listed:
            p = max(listed)
            return _Weight(float(np.log(p / background)), float(np.log((1 - p) / (1 - background))), p)
        parent = next(parent for parent in self._knowledge.ancestors(finding) if parent in own)
        at_parent = float(np.log(own[parent] / self.background_F[self.row[parent]]))
        rivals = any(child in own for child in children[parent])
        return _Weight(at_parent - (self._parameters.sibling if rivals else 0.0), 0.0, min(own[parent], background))

    def _unsaid(self, listed: Sequence[Mapping[str, float]]) -> tuple[tuple[int, ...], Table]:
        """Weights of the silence about each usual finding, and the rows of those findings.

        A patient who has a finding mentions it with probability s, so that silence weighs log((1 - s P(f | d)) /
        (1 - s P(f | background))).
        """
        parameters = self._parameters
        counted = sorted({self.row[f] for own in listed for f, p in own.items() if p >= parameters.least_missed})
        place = {row: index for index, row in enumerate(counted)}
        unsaid_UD: Table = np.zeros((len(counted), len(listed)), dtype=np.float32)
        for column, own in enumerate(listed):
            for finding, p in own.items():
                if p >= parameters.least_missed:
                    row = self.row[finding]
                    said = parameters.said_obligate if p >= P_OF_CLASS[Frequency.OBLIGATE] else parameters.said
                    silence = np.log1p(-said * p) - np.log1p(-said * self.background_F[row])
                    unsaid_UD[place[row], column] = parameters.calibration * silence
        total_D = -unsaid_UD.sum(axis=0)
        unsaid_UD *= np.minimum(1.0, parameters.most_silent / np.maximum(total_D, 1e-6))
        return tuple(counted), unsaid_UD
