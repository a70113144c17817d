"""For people who review the knowledge base: one pathology as a readable page, and what changed between two versions.

    python -m backend.core.review show appendicitis
    python -m backend.core.review diff HEAD~3            # a Git revision against the files here
    python -m backend.core.review diff v1 v2             # two revisions, or two folders

Pages and differences are Markdown. How to read them is told in `docs/knowledge.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.core.entities import Frequency, Kind, Pathology
from backend.core.knowledge import DATA, Knowledge, load
from backend.core.ranking import Ranking
from backend.core.weights import BANDS, RATE_OF_CLASS

Row = Mapping[str, Any]
Version = Mapping[str, Mapping[str, Row]]

_REVIEWED = ("pathologies.json", "findings.json", "red_flags.json")
_KINDS = {
    Kind.SYMPTOM: "Symptoms", Kind.SIGN: "Signs", Kind.COURSE: "Time course, triggers and reliefs", Kind.RISK: "Risks",
    Kind.HISTORY: "History", Kind.CONTEXT: "Context",
}  # fmt: skip
_ORDER = {frequency: place for place, frequency in enumerate(Frequency)}
_RIVALS = 5


def page(pathology: Pathology, row: Row, knowledge: Knowledge, ranking: Ranking) -> str:
    """Everything that the base says of one disease, as Markdown; `row` is its line of `pathologies.json`."""
    sources, reviewed = ", ".join(row["sources"]) or "none", row["reviewed"] or "by no clinician yet"
    return "\n".join(
        [
            f"# {pathology.name} ({pathology.name_en})",
            "",
            f"also: {', '.join(pathology.aka) or 'nothing'}",
            f"id `{pathology.id}` · ICD-10 {', '.join(pathology.icd10)} · {pathology.group}",
            f"urgency **{pathology.urgency.value}** · {pathology.specialist} · sex {pathology.sex}",
            f"basis {row['basis']} · sources {sources} · reviewed {reviewed}",
            "",
            "| " + " | ".join(band.name for band in BANDS) + " |",
            "|---" * len(BANDS) + "|",
            "| " + " | ".join(_rate(pathology.prevalence[band.name]) for band in BANDS) + " |",
            "",
            f"**Advice.** {pathology.advice}",
            "",
            f"**When to worry.** {pathology.when_to_worry}",
            "",
            *_findings(pathology, knowledge, ranking),
            *_rules(pathology, knowledge),
            *_rivals(pathology, ranking),
        ]
    )


def _rate(prevalence: str) -> str:
    return "never" if prevalence == "never" else f"{prevalence} (1 in {round(1 / RATE_OF_CLASS[prevalence]):,})"


def _findings(pathology: Pathology, knowledge: Knowledge, ranking: Ranking) -> Iterator[str]:
    """The findings by kind, most frequent first, with what each weighs for this disease when said or denied."""
    weights = ranking.weights
    column = ranking.pathologies.index(pathology)
    links = sorted(pathology.links, key=lambda link: _ORDER[link.frequency])
    for kind, title in _KINDS.items():
        mine = [link for link in links if knowledge.findings[link.finding].kind is kind]
        if not mine:
            continue
        yield f"## {title}"
        yield ""
        yield "| finding | frequency | said (nats) | denied (nats) | first wordings |"
        yield "|---|---|---|---|---|"
        for link in mine:
            finding, row = knowledge.findings[link.finding], weights.row[link.finding]
            said, denied = weights.present_FD[row, column], weights.absent_FD[row, column]
            wordings = "; ".join(finding.lay[:3]).replace("|", "/")
            yield f"| {finding.label} `{finding.id}` | {link.frequency} | {said:+.1f} | {denied:+.1f} | {wordings} |"
        yield ""


def _rules(pathology: Pathology, knowledge: Knowledge) -> Iterator[str]:
    """The red-flag rules that can fire on findings that this disease shows."""
    shown = {link.finding for link in pathology.links if link.frequency is not Frequency.EXCLUDED}
    shown |= {parent for finding in shown for parent in knowledge.ancestors(finding)}
    rules = [
        rule
        for rule in knowledge.red_flags
        if any(c.findings and all(shown.intersection(wanted) for wanted in c.findings) for c in rule.when)
    ]
    yield "## Red flags within reach"
    yield ""
    yield from (f"- {rule.level.value}: {rule.label} `{rule.id}`" for rule in rules)
    yield "" if rules else "None.\n"


def _rivals(pathology: Pathology, ranking: Ranking) -> Iterator[str]:
    """The diseases with the most similar profile, and the findings that tell them apart best."""
    distance_D = distances(ranking)[ranking.pathologies.index(pathology)]
    yield "## Nearest diseases"
    yield ""
    for column in np.argsort(distance_D, kind="stable")[:_RIVALS]:
        rival = ranking.pathologies[int(column)]
        yield f"- {rival.name} `{rival.id}`: {float(distance_D[column]):.1f} nats apart"


def distances(ranking: Ranking) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How far apart two profiles are, (D, D): the symmetric Kullback-Leibler divergence of what patients show, in nats.

    The findings count as independent, each with its P(f | d). A disease is infinitely far from itself, for ranking.
    """
    p_FD = np.clip(ranking.weights.p_FD, 1e-4, 1 - 1e-4)
    log_odds_FD = np.log(p_FD) - np.log1p(-p_FD)
    cross_DD = p_FD.T @ log_odds_FD
    own_D = np.diag(cross_DD)
    apart_DD = own_D[:, None] + own_D[None, :] - cross_DD - cross_DD.T
    np.fill_diagonal(apart_DD, np.inf)
    return np.asarray(apart_DD)


def read_version(where: str) -> Version:
    """The reviewed files of a folder, or of `data/` at a Git revision, by file and id.

    Raises:
        SystemExit: neither a folder nor a revision of this repository.
    """
    rows: dict[str, dict[str, Row]] = {}
    for name in _REVIEWED:
        folder = Path(where)
        if folder.is_dir():
            text = (folder / name).read_text(encoding="utf-8")
        else:
            command = ["git", "-C", str(DATA.parent), "show", f"{where}:{DATA.name}/{name}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
            if done.returncode:
                raise SystemExit(f"{where}: neither a folder nor a Git revision that holds data/{name}")
            text = done.stdout
        rows[name] = {row["id"]: row for row in json.loads(text)}
    return rows


def differences(old: Version, new: Version) -> Iterator[str]:
    """What changed, one line a change, grouped by file and entry."""
    for name in _REVIEWED:
        before, after = old[name], new[name]
        changed = [i for i in after if i in before and before[i] != after[i]]
        added, removed = [i for i in after if i not in before], [i for i in before if i not in after]
        yield f"# {name}: {len(added)} added, {len(removed)} removed, {len(changed)} changed"
        yield from (f"+ {i}: {_called(after[i])}" for i in added)
        yield from (f"- {i}: {_called(before[i])}" for i in removed)
        for i in changed:
            yield f"## {i} ({_called(after[i])})"
            for key in dict.fromkeys((*before[i], *after[i])):
                yield from _changes(key, before[i].get(key), after[i].get(key))
        yield ""


def _called(row: Row) -> str:
    return str(row.get("name") or row.get("label"))


def _changes(key: str, before: Any, after: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if before == after:
        return
    if isinstance(before, list) and isinstance(after, list):
        ours, theirs = ({_item(x)[0]: _item(x)[1] for x in side} for side in (before, after))
        yield from (f"  {key} - {i} {value}".rstrip() for i, value in ours.items() if i not in theirs)
        yield from (f"  {key} + {i} {value}".rstrip() for i, value in theirs.items() if i not in ours)
        yield from (f"  {key} {i}: {ours[i]} -> {theirs[i]}" for i in ours if i in theirs and ours[i] != theirs[i])
    elif isinstance(before, dict) and isinstance(after, dict):
        for part in dict.fromkeys((*before, *after)):
            yield from _changes(f"{key}.{part}", before.get(part), after.get(part))
    else:
        yield f"  {key}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(after, ensure_ascii=False)}"


def _item(value: Any) -> tuple[str, str]:  # noqa: ANN401 - any JSON value
    """What an item of a list is known by, and the rest of it: a finding and its frequency, or the item itself."""
    if isinstance(value, dict) and "id" in value:
        return str(value["id"]), ", ".join(f"{v}" for k, v in value.items() if k != "id")
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)), ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print one pathology as a page")
    show.add_argument("pathology", help="its id, or a part of its French name")
    compare = commands.add_parser("diff", help="print what changed between two versions")
    compare.add_argument("old", help="a Git revision or a folder")
    compare.add_argument("new", nargs="?", default=str(DATA), help="the same; the files here when left out")
    options = parser.parse_args(arguments)
    if options.command == "diff":
        print("\n".join(differences(read_version(options.old), read_version(options.new))))
        return 0
    knowledge = load()
    wanted = options.pathology
    found = [p for p in knowledge.pathologies.values() if wanted == p.id] or [
        p for p in knowledge.pathologies.values() if wanted.lower() in p.name.lower()
    ]
    if not found:
        print(f"no pathology is called {wanted!r}; `GET /pathologies` lists them", file=sys.stderr)
        return 1
    rows = read_version(str(DATA))["pathologies.json"]
    ranking = Ranking(knowledge)
    print("\n\n".join(page(p, rows[p.id], knowledge, ranking) for p in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
