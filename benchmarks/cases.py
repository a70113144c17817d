"""Cases with an agreed answer, and how far the service agrees: diagnosis, urgency, assertions, harmless changes.

A folder of cases holds any of `vignettes.jsonl` and `ddxplus.jsonl` (text, age, sex, accepted `icd10` codes and
`names`), `triage.jsonl` (`acceptable` levels and a `floor`), `assertions.jsonl` (`expect`: a `cue` of the text and its
state) and `perturb.json` (sentences that must not lower any level, by kind). None of these is part of the project.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from backend.core.entities import Assessment, Pathology, Patient, Urgency
from backend.core.text import plain

Case = Mapping[str, Any]
Assess = Callable[[str, Patient], Assessment]
TOPS = (1, 3, 5)
_CODES_COMPARED = 3
_LONGEST_SPAN = 10
_BINS = 10


@dataclass(slots=True)
class Figures:
    """The figures of one file; `shares` are (hits, n), `reliability` (stated, happened, n) for each bin."""

    name: str
    n: int
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    reliability: list[tuple[float, float, int]] = field(default_factory=list)
    misses: list[dict[str, Any]] = field(default_factory=list)


def read_cases(path: Path) -> list[Case]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * ((share * (1 - share) / n + spread / (4 * n)) ** 0.5) / (1 + spread)
    return middle - half, middle + half


def is_accepted(pathology: Pathology, case: Case) -> bool:
    """Whether one of its first three codes is, or is under, an accepted code, or its name an accepted name."""
    codes = tuple(str(code).upper() for code in case["icd10"])
    if any(code.startswith(codes) for code in pathology.icd10[:_CODES_COMPARED]):
        return True
    names = {plain(name) for name in case["names"]}
    return bool(names.intersection((plain(pathology.name), plain(pathology.name_en))))


def patient_of(case: Case) -> Patient:
    """The fields of a request."""
    return Patient(case.get("age"), case.get("sex"), case.get("pregnant"))


def diagnosis(name: str, cases: Sequence[Case], known: Sequence[Pathology], assess: Assess) -> Figures:
    """Rank of the first accepted cause; coverage; Brier score and calibration error of the first cause."""
    figures = Figures(name, len(cases))
    ranks, stated, times = [], [], []
    for case in cases:
        started = time.perf_counter()
        assessment = assess(case["text"], patient_of(case))
        times.append(1000 * (time.perf_counter() - started))
        places = [i for i, c in enumerate(assessment.differential, 1) if is_accepted(c.pathology, case)]
        ranks.append(places[0] if places and assessment.outcome.value == "answered" else 99)
        stated.append(assessment.differential[0].probability)
        if ranks[-1] > 1:
            got = [cause.pathology.id for cause in assessment.differential[: TOPS[-1]]]
            figures.misses.append({"id": case["id"], "wanted": case["gold"], "rank": ranks[-1], "got": got})
    for top in TOPS:
        figures.shares[f"first {top}"] = (sum(rank <= top for rank in ranks), len(cases))
    figures.shares["covered"] = (sum(any(is_accepted(p, case) for p in known) for case in cases), len(cases))
    unnamed = [rank for rank, case in zip(ranks, cases, strict=True) if not case.get("named_in_text")]
    if len(unnamed) < len(cases):
        for top in TOPS:
            figures.shares[f"disease not named, first {top}"] = (sum(rank <= top for rank in unnamed), len(unnamed))
    right = np.array([rank == 1 for rank in ranks], dtype=float)
    figures.counts["Brier score of the first cause"] = float(np.mean((np.array(stated) - right) ** 2))
    figures.reliability = reliability(np.array(stated), right)
    error = sum(n * abs(p - happened) for p, happened, n in figures.reliability) / max(1, len(cases))
    figures.counts["calibration error (10 bins)"] = error
    _time(figures, times)
    return figures


def reliability(stated: Any, right: Any) -> list[tuple[float, float, int]]:  # noqa: ANN401 - arrays of floats
    """For each tenth of probability that occurs: mean stated probability, share right, number."""
    bins = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    return [
        (float(stated[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in range(_BINS)
        if (bins == b).any()
    ]


def urgency(name: str, cases: Sequence[Case], assess: Assess) -> Figures:
    """Accepted levels, safe ones (not below the floor), over-triage, and emergencies below their floor."""
    figures = Figures(name, len(cases))
    accepted = safe = over = below = 0
    for case in cases:
        level = assess(case["text"], patient_of(case)).triage.level
        is_safe = level.rank >= Urgency(case["floor"]).rank
        is_accepted_level = level.value in case["acceptable"]
        accepted += is_accepted_level
        safe += is_safe
        over += is_safe and not is_accepted_level
        below += not is_safe and Urgency(case["label"]).rank >= Urgency.EMERGENCY_DEPARTMENT.rank
        if not is_accepted_level:
            figures.misses.append({"id": case["id"], "wanted": case["label"], "got": level.value, "safe": is_safe})
    figures.shares = {"accepted": (accepted, len(cases)), "safe": (safe, len(cases)), "over-triage": (over, len(cases))}
    figures.counts["emergencies below their floor"] = below
    return figures


def assertions(name: str, cases: Sequence[Case], assess: Assess) -> Figures:
    """What the text says of each cue: captured by a finding, and in the right state."""
    figures = Figures(name, len(cases))
    captured = right = invented = denied = wanted = 0
    for case in cases:
        observations = assess(case["text"], patient_of(case)).observations
        for expected in case["expect"]:
            wanted += 1
            start = case["text"].find(expected["cue"])
            end = start + len(expected["cue"])
            near: dict[str, float] = {}
            for o in observations:
                if o.start is None or o.end is None or o.start >= end or o.end <= start:
                    continue
                if o.end - o.start <= 2 * (end - start) + _LONGEST_SPAN:
                    share = (min(o.end, end) - max(o.start, start)) / (max(o.end, end) - min(o.start, start))
                    near[o.state.value] = max(share, near.get(o.state.value, 0.0))
            best = {state for state, share in near.items() if share == max(near.values())}
            captured += bool(best)
            right += best == {expected["state"]}
            invented += expected["state"] != "present" and "present" in best
            denied += expected["state"] == "present" and bool(best) and best != {"present"}
            if best != {expected["state"]}:
                figures.misses.append({"id": case["id"], "wanted": expected, "got": sorted(best)})
    figures.shares = {"captured": (captured, wanted), "right when captured": (right, captured)}
    figures.counts = {"invented": invented, "denied by mistake": denied}
    return figures


def perturbed(name: str, cases: Sequence[Case], sentences: Mapping[str, Sequence[str]], assess: Assess) -> Figures:
    """How often a sentence that says nothing of the patient lowers the level."""
    figures = Figures(name, len(cases))
    tried = falls = 0
    for case, (kind, group) in product(cases, sentences.items()):
        own = assess(case["text"], patient_of(case)).triage.level
        for sentence in group:
            for text in (f"{case['text']} {sentence}", f"{sentence} {case['text']}"):
                tried += 1
                if assess(text, patient_of(case)).triage.level.rank < own.rank:
                    falls += 1
                    figures.misses.append({"id": case["id"], "kind": kind, "sentence": sentence})
    figures.counts = {"changed messages": tried, "falls": falls}
    return figures


def _time(figures: Figures, times: Sequence[float]) -> None:
    figures.counts["p50 ms"], figures.counts["p95 ms"] = (float(np.percentile(times, q)) for q in (50, 95))
