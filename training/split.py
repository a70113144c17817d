"""Which rows are trained on, which are held out, and which are dropped as duplicates or beyond a sample.

Duplicates go first. What is left is held out by groups: rows that are similar, ask the same question or are parts of
one row stand together on one side. Our own consultations come with their side, and win over what resembles them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.cleaning import Reason
from training.config import TuneRun
from training.duplicates import Fingerprints, group
from training.intake import BANDS, SHINGLES, Intake
from training.sources import Side

TRAIN, HELD_OUT = 0, 1
DROPPED = {
    2: Reason.EXACT_DUPLICATE, 3: Reason.NEAR_DUPLICATE, 4: Reason.OVERLAPS_HELD_OUT, 5: Reason.BEYOND_MOST_ROWS,
}  # fmt: skip
_CODES = {reason: code for code, reason in DROPPED.items()}

Decisions = npt.NDArray[np.uint8]


def decide(run: TuneRun, intake: Intake) -> Decisions:
    """What becomes of every row: 0 train, 1 held out, or the code of the reason why it is dropped."""
    entries = intake.entries()
    decisions: Decisions = np.zeros(len(entries), dtype=np.uint8)
    prints = Fingerprints(
        entries["exact"], entries["start"], entries["count"].astype(np.int64), intake.path(BANDS), intake.path(SHINGLES)
    )
    alike, related = group(prints, run.prepare.near_duplicate)
    _drop_duplicates(entries, alike.firsts(), decisions)
    free = np.flatnonzero(entries["side"] == Side.ANY)
    # The parts of a split row ask the same question too.
    related.join_equal(entries["question"][free], free)
    same_record = entries["source"].astype(np.uint64) << np.uint64(32) | entries["number"]
    _keep_most_rows(run, entries, same_record, decisions)
    _hold_out(run, entries, related.firsts(), decisions)
    return decisions


def _drop_duplicates(entries: npt.NDArray[np.void], groups: npt.NDArray[np.int64], decisions: Decisions) -> None:
    """One row of a group stays, a held-out one before others; a held-out patient's words are in no other row."""
    held_out = entries["side"] == Side.HELD_OUT
    stays = np.full(len(entries), -1, dtype=np.int64)
    for row in (*np.flatnonzero(held_out), *np.flatnonzero(~held_out)):
        first = stays[groups[row]]
        if first < 0:
            stays[groups[row]] = row
        elif held_out[first] and not held_out[row]:
            decisions[row] = _CODES[Reason.OVERLAPS_HELD_OUT]
        elif entries["exact"][first] == entries["exact"][row]:
            decisions[row] = _CODES[Reason.EXACT_DUPLICATE]
        else:
            decisions[row] = _CODES[Reason.NEAR_DUPLICATE]
    asked = np.isin(entries["question"], entries["question"][held_out])
    decisions[asked & ~held_out & (decisions == TRAIN)] = _CODES[Reason.OVERLAPS_HELD_OUT]


def _keep_most_rows(
    run: TuneRun, entries: npt.NDArray[np.void], records: npt.NDArray[np.uint64], decisions: Decisions
) -> None:
    for index, source in enumerate(run.prepare.sources):
        if source.most_rows is None:
            continue
        left = np.flatnonzero((entries["source"] == index) & (decisions == TRAIN))
        numbers = np.unique(records[left])
        drawn = np.random.default_rng([run.seed, index]).permutation(len(numbers))[: source.most_rows]
        decisions[left[~np.isin(records[left], numbers[drawn])]] = _CODES[Reason.BEYOND_MOST_ROWS]


def _hold_out(run: TuneRun, entries: npt.NDArray[np.void], groups: npt.NDArray[np.int64], decisions: Decisions) -> None:
    """Hold out whole groups, drawn, until the share is reached; our own consultations know their side."""
    decisions[(entries["side"] == Side.HELD_OUT) & (decisions == TRAIN)] = HELD_OUT
    free = np.flatnonzero((entries["side"] == Side.ANY) & (decisions == TRAIN))
    firsts, sizes = np.unique(groups[free], return_counts=True)
    room = run.prepare.most_test_rows - int((decisions == HELD_OUT).sum())
    wanted = min(room, max(1, round(run.prepare.test_share * len(free))))
    taken = []
    for place in np.random.default_rng([run.seed, len(run.prepare.sources)]).permutation(len(firsts)):
        # One group is never all there is: something must be left to train on.
        if sizes[place] <= wanted and len(firsts) > 1:
            taken.append(firsts[place])
            wanted -= int(sizes[place])
        if wanted <= 0:
            break
    decisions[free[np.isin(groups[free], taken)]] = HELD_OUT
