"""Where the knowledge base is thin: `python -m backend.core.weak_spots` counts weak spots of each sort and lists some.

Nothing here is an error; it tells a reviewer where a look is worth most. Sorts: entries with few findings; entries
with nothing telling; pairs of entries that findings hardly tell apart; a finding more frequent than the one it is a
kind of; findings that one entry or none uses; wordings that two findings claim.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from backend.core.entities import NAMED, Frequency
from backend.core.knowledge import Knowledge, load
from backend.core.ranking import Ranking
from backend.core.review import distances

_FEW_FINDINGS = 13
_CLOSE_NATS = 9.0
_TELLING_NATS = 2.5
_FEWEST_TELLING = 3
_CLASSES = {frequency: place for place, frequency in enumerate(reversed(Frequency))}


def find_weak_spots(knowledge: Knowledge, ranking: Ranking) -> Mapping[str, Sequence[str]]:
    """The weak spots of each sort, worst first."""
    return {
        f"entries with fewer than {_FEW_FINDINGS} findings": list(_thin(knowledge)),
        f"entries with fewer than {_FEWEST_TELLING} findings that weigh {_TELLING_NATS} nats": list(_pale(ranking)),
        f"pairs of entries less than {_CLOSE_NATS} nats apart": list(_close(ranking)),
        "findings more frequent than the one they are a kind of": list(_out_of_order(knowledge)),
        "findings of no entry and no rule": list(_unused(knowledge)),
        "findings of one entry only": list(_used_once(knowledge)),
        "wordings claimed by two findings": list(_shared(knowledge)),
    }


def _thin(knowledge: Knowledge) -> Iterator[str]:
    entries = sorted(knowledge.pathologies.values(), key=lambda p: len(p.links))
    yield from (f"{p.id}: {len(p.links)}" for p in entries if len(p.links) < _FEW_FINDINGS)


def _pale(ranking: Ranking) -> Iterator[str]:
    for column, pathology in enumerate(ranking.pathologies):
        rows = [ranking.weights.row[link.finding] for link in pathology.links]
        telling = int((ranking.weights.present_FD[rows, column] >= _TELLING_NATS).sum())
        if telling < _FEWEST_TELLING:
            yield f"{pathology.id}: {telling}"


def _close(ranking: Ranking) -> Iterator[str]:
    apart_DD = distances(ranking)
    firsts, seconds = np.nonzero(np.triu(apart_DD < _CLOSE_NATS, 1))
    names = [p.id for p in ranking.pathologies]
    pairs = sorted(zip(firsts, seconds, strict=True), key=lambda pair: float(apart_DD[pair]))
    yield from (f"{names[one]}, {names[two]}: {apart_DD[one, two]:.1f}" for one, two in pairs)


def _out_of_order(knowledge: Knowledge) -> Iterator[str]:
    for pathology in knowledge.pathologies.values():
        classes = {link.finding: link.frequency for link in pathology.links}
        for finding, frequency in classes.items():
            for parent in knowledge.ancestors(finding):
                if parent in classes and _CLASSES[classes[parent]] < _CLASSES[frequency]:
                    yield f"{pathology.id}: {finding} {frequency}, {parent} {classes[parent]}"


def _uses(knowledge: Knowledge) -> Counter[str]:
    return Counter(link.finding for p in knowledge.pathologies.values() for link in p.links)


def _rule_findings(knowledge: Knowledge) -> set[str]:
    return {f for rule in knowledge.red_flags for c in rule.when for wanted in c.findings for f in wanted}


def _unused(knowledge: Knowledge) -> Iterator[str]:
    used = set(_uses(knowledge)) | _rule_findings(knowledge)
    used |= {p.history_finding for p in knowledge.pathologies.values()}
    used |= {parent for finding in used for parent in knowledge.ancestors(finding)}
    yield from sorted(f for f in set(knowledge.findings) - used if not knowledge.is_vague(f))


def _used_once(knowledge: Knowledge) -> Iterator[str]:
    for finding, uses in sorted(_uses(knowledge).items()):
        if uses == 1 and not finding.startswith(NAMED):
            yield finding


def _shared(knowledge: Knowledge) -> Iterator[str]:
    owners: dict[tuple[object, ...], dict[str, str]] = defaultdict(dict)
    for wording in knowledge.lexicon.wordings:
        keys = wording.keys if wording.ordered else tuple(sorted(wording.keys))
        if knowledge.is_finding(wording.target) and not wording.target.startswith(NAMED):
            owners[keys, wording.ordered, wording.phrase][wording.target] = " ".join(wording.words)
    for found in owners.values():
        if len(found) > 1:
            yield "; ".join(f"{target} {words!r}" for target, words in sorted(found.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=10, help="list at most this many of each sort")
    options = parser.parse_args(arguments)
    knowledge = load()
    for sort, spots in find_weak_spots(knowledge, Ranking(knowledge)).items():
        print(f"{len(spots):4d} {sort}")
        for spot in spots[: options.most]:
            print(f"       {spot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
