"""Loading the knowledge base: every problem is reported, and the repository's own has none."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from backend.core.canonical import canonical, not_canonical
from backend.core.errors import KnowledgeError
from backend.core.knowledge import DATA, Knowledge, load
from backend.core.lint import find_problems
from backend.core.lookalikes import PATH, find_lookalikes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return Path(shutil.copytree(DATA, tmp_path / "data"))


def change(folder: Path, name: str, edit: Any) -> None:  # noqa: ANN401 - a function on any JSON value
    """Apply `edit` to the JSON of a file."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    edit(content)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_the_repository_has_no_lint_problem(knowledge: Knowledge) -> None:
    """What `python -m backend.core.lint` prints is empty."""
    assert find_problems(knowledge) == []


def test_the_base_has_its_numbers(knowledge: Knowledge) -> None:
    """At least 350 pathologies, 900 findings with six wordings on average, 120 rules."""
    findings = [f for f in knowledge.findings.values() if not f.id.startswith("named_")]
    assert len(knowledge.pathologies) >= 350
    assert len(findings) >= 900
    assert sum(len(f.lay) for f in findings) >= 6 * len(findings)
    assert len(knowledge.red_flags) >= 120


def test_loading_is_fast() -> None:
    """A second of processor time is the budget, doubled for a slow machine; half a second is the aim."""
    started = time.process_time()
    load()
    assert time.process_time() - started < 2.0


def test_a_missing_file_is_named(folder: Path) -> None:
    """The message says which file is missing."""
    (folder / "cues.json").unlink()
    with pytest.raises(KnowledgeError, match=r"cues\.json: missing"):
        load(folder)


def test_all_problems_are_reported_together(folder: Path) -> None:
    """An unknown parent, an unknown finding of a disease and of a rule: three lines."""
    change(folder, "findings.json", lambda rows: rows[0].update(parent="nowhere"))
    change(folder, "pathologies.json", lambda rows: rows[0]["findings"].append({"id": "nope", "frequency": "frequent"}))
    change(folder, "red_flags.json", lambda rows: rows[0]["when"].append({"findings": ["nada"]}))
    with pytest.raises(KnowledgeError) as caught:
        load(folder)
    assert [word in str(caught.value) for word in ("nowhere", "nope", "nada")] == [True, True, True]


def test_an_unknown_key_is_refused(folder: Path) -> None:
    """A misspelt field never goes unnoticed."""
    change(folder, "pathologies.json", lambda rows: rows[0].update(urgencey="urgences"))
    with pytest.raises(KnowledgeError, match="urgencey"):
        load(folder)


def test_a_cycle_of_parents_is_refused(folder: Path) -> None:
    """A finding cannot be its own ancestor."""
    change(folder, "findings.json", lambda rows: rows[0].update(parent=rows[0]["id"]))
    with pytest.raises(KnowledgeError, match="own ancestor"):
        load(folder)


def test_the_version_changes_with_the_data(folder: Path, knowledge: Knowledge) -> None:
    """Answers carry the version of what they were made from."""
    change(folder, "pathologies.json", lambda rows: rows[0].update(advice="Reposez-vous bien au calme."))
    assert load(folder).version != knowledge.version


def test_the_data_is_written_canonically() -> None:
    """`make fmt` changes nothing."""
    assert not_canonical() == []


def test_canonical_is_json_and_stable() -> None:
    """The layout loses nothing, and laying it out again changes nothing."""
    value = [{"id": "x", "lay": ["mot " * 10] * 30, "n": None, "deep": [{"a": [1, 2]}]}]
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text


def test_lookalikes_are_up_to_date(knowledge: Knowledge) -> None:
    """The list is what the command makes from today's wordings."""
    assert json.loads(PATH.read_text(encoding="utf-8")) == find_lookalikes(knowledge)
