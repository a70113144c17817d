"""Findings, age and sex -> probabilities of causes, as additive weights of evidence (see `weights.py`).

Three departures from naive Bayes, all visible in the weights shown: findings that say nearly the same (one group)
count fully once and are damped after that; a usual finding that nobody mentioned counts a little against; the
mere name of a disease weighs little. `prior_weight` plus the weights of a cause are its log-odds against the outside.

Not covered: several causes at once. Quality on the development cases: `docs/log.md`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from backend.core.entities import Cause, Evidence, Kind, Observation, Pathology, Patient, State
from backend.core.knowledge import Knowledge
from backend.core.weights import Array, Parameters, Weights, band_of


@dataclass(frozen=True, slots=True)
class _Item:
    """One piece of evidence with its weight for every cause, shape (D,); `quote` None when no words carry it."""

    finding: str
    label: str
    quote: str | None
    weights_D: Array


@dataclass(frozen=True)
class Scores:
    """Every cause scored: log-odds against the outside, probabilities, and what they are made of. Arrays are (D,)."""

    log_odds_D: Array
    p_D: Array
    p_other: float
    items: tuple[_Item, ...]
    silence_broken: frozenset[int]
    """The rows of `Weights.unsaid_UD` that do not count, because the patient spoke of the finding."""

    @cached_property
    def order(self) -> list[int]:
        """Columns of the causes, likeliest first; the order of the base settles ties."""
        return [int(column) for column in np.argsort(-self.log_odds_D, kind="stable")]


class Ranking:
    """Ranks the causes of one knowledge base. Frozen once built; `score` is a pure function."""

    def __init__(self, knowledge: Knowledge, parameters: Parameters | None = None) -> None:
        self.parameters = parameters or Parameters()
        self.weights = Weights(knowledge, self.parameters)
        self.urgency_D = np.array([pathology.urgency.rank for pathology in self.weights.pathologies])
        self._knowledge = knowledge
        self._findings = tuple(knowledge.findings.values())
        self._families: dict[str, list[int]] = defaultdict(list)
        for finding in knowledge.findings:
            for member in (finding, *knowledge.ancestors(finding)):
                self._families[member].append(self.weights.row[finding])
        self._unsaid_place = {row: place for place, row in enumerate(self.weights.unsaid_rows)}
        self._silent_D = self.weights.prior_D + self.weights.unsaid_UD.sum(axis=0, dtype=np.float64)

    @property
    def pathologies(self) -> tuple[Pathology, ...]:
        """The causes, in the order of the arrays."""
        return self.weights.pathologies

    def score(self, observations: Sequence[Observation], patient: Patient) -> Scores:
        """Score every cause. Cost: about 0.1 ms for 10 findings and 120 causes."""
        items = [*self._damp(self._items(observations)), *self._facts(patient)]
        spoken_of = {row for o in observations for row in self._rows_spoken_of(o)}
        broken = sorted(self._unsaid_place[row] for row in spoken_of if row in self._unsaid_place)
        log_odds_D = self._silent_D - self.weights.unsaid_UD[broken].sum(axis=0, dtype=np.float64)
        for item in items:
            log_odds_D = log_odds_D + item.weights_D
        p_D, p_other = probabilities(log_odds_D)
        return Scores(log_odds_D, p_D, p_other, tuple(items), frozenset(broken))

    def explain(self, scores: Scores, column: int) -> Cause:
        """One cause with the weight of every item for and against it, strongest first."""
        evidence = [Evidence(i.finding, i.label, float(i.weights_D[column]), i.quote) for i in scores.items]
        for place in np.flatnonzero(self.weights.unsaid_UD[:, column]):
            if int(place) not in scores.silence_broken:
                weight = float(self.weights.unsaid_UD[place, column])
                finding = self._findings[self.weights.unsaid_rows[place]]
                evidence.append(Evidence(finding.id, f"{finding.label} : non mentionné", weight, None))
        return Cause(
            pathology=self.pathologies[column],
            probability=float(scores.p_D[column]),
            prior_weight=float(self.weights.prior_D[column]),
            evidence_for=tuple(sorted((e for e in evidence if e.weight > 0), key=lambda e: (-e.weight, e.finding))),
            evidence_against=tuple(sorted((e for e in evidence if e.weight < 0), key=lambda e: (e.weight, e.finding))),
        )

    def _rows_spoken_of(self, observation: Observation) -> list[int]:
        """The finding, what it implies, and the kinds of it: none of these is "unsaid" any more."""
        finding = observation.finding.id
        return [*self._families[finding], *(self.weights.row[parent] for parent in self._knowledge.ancestors(finding))]

    def _items(self, observations: Sequence[Observation]) -> list[_Item]:
        """One item per finding that counts (present wins); a denied kind adds nothing to its denied parent."""
        best: dict[str, tuple[State, Observation]] = {}
        for observation in observations:
            state = counted_state(observation)
            held = best.get(observation.finding.id)
            if state is not None and (held is None or (state is State.PRESENT and held[0] is State.ABSENT)):
                best[observation.finding.id] = (state, observation)
        denied = {finding for finding, (state, _) in best.items() if state is State.ABSENT}
        items = []
        for finding, (state, observation) in sorted(best.items()):
            if state is State.ABSENT and denied.intersection(self._knowledge.ancestors(finding)):
                continue
            table_FD = self.weights.present_FD if state is State.PRESENT else self.weights.absent_FD
            weights_D = table_FD[self.weights.row[finding]].astype(np.float64)
            items.append(_Item(finding, observation.finding.label, observation.quote, weights_D))
        return items

    def _damp(self, items: Sequence[_Item]) -> list[_Item]:
        """In a group, for each cause, the strongest item counts fully, the next less, the third less again."""
        groups: dict[str, list[_Item]] = defaultdict(list)
        for item in items:
            groups[self._knowledge.group_of(item.finding)].append(item)
        damped: list[_Item] = []
        for group in groups.values():
            if len(group) == 1:
                damped.append(group[0])
                continue
            weights_ND = np.stack([item.weights_D for item in group])
            order_ND = np.argsort(-np.abs(weights_ND), axis=0, kind="stable")
            rank_ND = np.empty_like(order_ND)
            np.put_along_axis(rank_ND, order_ND, np.arange(len(group))[:, None], axis=0)
            shares_ND = weights_ND * self.parameters.group_damping**rank_ND
            damped += [
                _Item(item.finding, item.label, item.quote, share_D)
                for item, share_D in zip(group, shares_ND, strict=True)
            ]
        return damped

    def _facts(self, patient: Patient) -> list[_Item]:
        """Age and sex as evidence that no words carry."""
        facts = []
        if patient.age is not None:
            facts.append(_Item("age", "âge", None, self.weights.age_DB[:, band_of(patient.age)]))
        if patient.sex is not None:
            facts.append(_Item("sex", "sexe", None, self.weights.sex_D2[:, 0 if patient.sex == "F" else 1]))
        return facts


def counted_state(observation: Observation) -> State | None:
    """How an observation counts: present, absent, or not at all. A disease or exposure of the past still counts."""
    match observation.state:
        case State.PRESENT:
            return State.PRESENT
        case State.ABSENT:
            return State.ABSENT
        case State.PAST:
            lasting = observation.finding.kind in (Kind.HISTORY, Kind.RISK, Kind.CONTEXT)
            return State.PRESENT if lasting else None
        case State.OTHER:
            return State.PRESENT if observation.finding.about_others else None
        case State.UNKNOWN:
            return None


def probabilities(log_odds_D: Array) -> tuple[Array, float]:
    """Softmax of the log-odds against the outside, whose own is 0: probabilities of the causes, and `p_other`."""
    top = max(0.0, float(log_odds_D.max(initial=0.0)))
    exp_D = np.exp(log_odds_D - top)
    outside = float(np.exp(-top))
    total = float(exp_D.sum()) + outside
    p_D: Array = exp_D / total
    return p_D, outside / total
