"""The commands for reviewers: a page, differences between versions, weak spots."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backend.core.entities import Frequency
from backend.core.knowledge import DATA, Knowledge
from backend.core.ranking import Ranking
from backend.core.review import differences, distances, main, page, read_version
from backend.core.weak_spots import find_weak_spots


@pytest.fixture(scope="module")
def ranking(knowledge: Knowledge) -> Ranking:
    """The ranking of the repository's base."""
    return Ranking(knowledge)


def test_a_page_holds_the_whole_entry(knowledge: Knowledge, ranking: Ranking) -> None:
    """Every finding with its class, both texts, the codes, the rules within reach and the nearest diseases."""
    pathology = knowledge.pathologies["appendicitis"]
    text = page(pathology, read_version(str(DATA))["pathologies.json"]["appendicitis"], knowledge, ranking)
    for link in pathology.links:
        assert f"`{link.finding}` | {link.frequency} |" in text
    for part in (pathology.name, pathology.advice, pathology.when_to_worry, *pathology.icd10, "by no clinician yet"):
        assert part in text
    assert "right_lower_pain_with_fever_or_vomiting" in text.split("## Red flags within reach")[1]
    assert "mesenteric_adenitis" in text.split("## Nearest diseases")[1]


def test_a_page_is_printed_by_id_or_by_part_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Both find the disease; an unknown one is an error."""
    assert main(["show", "appendicitis"]) == 0
    by_id = capsys.readouterr().out
    assert main(["show", "Appendicite"]) == 0
    assert by_id in capsys.readouterr().out
    assert main(["show", "maladie imaginaire"]) == 1
    assert "maladie imaginaire" in capsys.readouterr().err


def test_differences_name_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed class, a removed wording and a new entry are told; nothing else is."""
    folder = Path(shutil.copytree(DATA, tmp_path / "data"))
    rows = json.loads((folder / "pathologies.json").read_text(encoding="utf-8"))
    entry = next(row for row in rows if row["id"] == "appendicitis")
    link = next(link for link in entry["findings"] if link["id"] == "fever")
    was, link["frequency"] = link["frequency"], Frequency.VERY_RARE.value
    rows.append({**entry, "id": "a_new_one", "name": "une nouvelle"})
    (folder / "pathologies.json").write_text(json.dumps(rows), encoding="utf-8")
    findings = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    gone = findings[0]["lay"].pop()
    (folder / "findings.json").write_text(json.dumps(findings), encoding="utf-8")
    told = list(differences(read_version(str(DATA)), read_version(str(folder))))
    assert f"  findings fever: {was} -> very_rare" in told
    assert "+ a_new_one: une nouvelle" in told
    assert f"  lay - {gone}" in told
    changes = [line for line in told if line.startswith("  ")]
    assert len(changes) == 2
    assert main(["diff", str(DATA), str(DATA)]) == 0
    assert "changed\n" in capsys.readouterr().out


def test_an_unknown_version_is_an_error() -> None:
    """Neither a folder nor a revision."""
    with pytest.raises(SystemExit, match="neither a folder nor a Git revision"):
        read_version("no-such-revision")


def test_distances_are_symmetric_and_positive(ranking: Ranking) -> None:
    """Two different profiles are apart, in both directions alike; a disease has no distance to itself."""
    apart = distances(ranking)
    assert apart.shape == (len(ranking.pathologies),) * 2
    assert (apart > 0).all()
    assert abs(apart[0, 1] - apart[1, 0]) < 1e-6


def test_some_weak_spots_are_not_tolerated(knowledge: Knowledge, ranking: Ranking) -> None:
    """Thin entries, findings without use, kinds more frequent than what they are a kind of."""
    found = find_weak_spots(knowledge, ranking)
    forbidden = ("findings of no entry", "findings more frequent", "entries with fewer than 13")
    assert {sort: spots for sort, spots in found.items() if sort.startswith(forbidden) and spots} == {}
