"""Manifests: a stage is done only for the same inputs, settings, seed and untouched output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from training.artefacts import is_done, manifest_of, read_input, sha256, write_manifest
from training.errors import StaleArtefactError

CONFIG = {"size": 3}
SEED = 7
COMMAND = "python -m training.stage --config x.yaml"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input file."""
    path = tmp_path / "source.txt"
    path.write_text("in", encoding="utf-8")
    return path


@pytest.fixture
def artefact(tmp_path: Path, source: Path) -> Path:
    """A finished artefact with its manifest."""
    path = tmp_path / "made.bin"
    path.write_text("out", encoding="utf-8")
    write_manifest(path, "stage", [source], CONFIG, SEED, lines=1)
    return path


def test_a_finished_artefact_is_done(artefact: Path, source: Path) -> None:
    """Same inputs, settings and seed, output as it was: nothing to do."""
    assert is_done(artefact, [source], CONFIG, SEED)


@pytest.mark.parametrize(
    "change",
    [
        lambda artefact, _: artefact.write_text("other", encoding="utf-8"),
        lambda artefact, _: artefact.unlink(),
        lambda artefact, _: manifest_of(artefact).unlink(),
        lambda _, source: source.write_text("other", encoding="utf-8"),
    ],
    ids=["output changed", "output gone", "manifest gone", "input changed"],
)
def test_a_changed_file_is_not_done(change: Callable[[Path, Path], object], artefact: Path, source: Path) -> None:
    """Whatever was touched since, the stage runs again."""
    change(artefact, source)
    assert not is_done(artefact, [source], CONFIG, SEED)


@pytest.mark.parametrize(
    ("config", "seed"), [({"size": 4}, SEED), ({}, SEED), ({"size": 3, "more": None}, SEED), (CONFIG, SEED + 1)]
)
def test_other_settings_are_not_done(config: dict[str, object], seed: int, artefact: Path, source: Path) -> None:
    """A setting that differs, is missing or is new, or another seed, runs the stage again."""
    assert not is_done(artefact, [source], config, seed)


def test_another_set_of_inputs_is_not_done(artefact: Path, source: Path, tmp_path: Path) -> None:
    """One input more or less is another stage run, even when the others are the same."""
    more = tmp_path / "more.txt"
    more.write_text("in", encoding="utf-8")
    assert not is_done(artefact, [source, more], CONFIG, SEED)
    assert not is_done(artefact, [], CONFIG, SEED)


def test_a_model_is_a_config_too(tmp_path: Path, source: Path) -> None:
    """A section of the configuration is compared by its values."""

    class Section(BaseModel):
        folder: Path
        size: int

    path = tmp_path / "made.bin"
    path.write_text("out", encoding="utf-8")
    write_manifest(path, "stage", [source], Section(folder=Path("a"), size=1), SEED)
    assert is_done(path, [source], Section(folder=Path("a"), size=1), SEED)
    assert not is_done(path, [source], Section(folder=Path("a"), size=2), SEED)


def test_a_manifest_says_how_the_artefact_was_made(artefact: Path, source: Path) -> None:
    """Stage, hashes, settings, seed, commit, tool versions and what the stage adds of its own."""
    manifest = json.loads(manifest_of(artefact).read_text(encoding="utf-8"))
    assert manifest["stage"] == "stage"
    assert manifest["sha256"] == sha256(artefact)
    assert manifest["inputs"] == {"source.txt": sha256(source)}
    assert (manifest["config"], manifest["seed"], manifest["lines"]) == (CONFIG, SEED, 1)
    assert set(manifest) >= {"commit", "python", "tools"}
    assert "numpy" in manifest["tools"]


def test_a_manifest_is_written_at_once(artefact: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run killed while it writes leaves the old manifest whole, never half a new one."""
    before = manifest_of(artefact).read_bytes()

    def die(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(artefact, "stage", [source], {"size": 99}, SEED)
    assert manifest_of(artefact).read_bytes() == before
    assert is_done(artefact, [source], CONFIG, SEED)


def test_nothing_partial_is_left(artefact: Path) -> None:
    """After a manifest is written, only it and the artefact stand there."""
    names = {path.name for path in artefact.parent.iterdir()}
    assert names == {"source.txt", "made.bin", "made.bin.manifest.json"}


def test_an_input_gives_its_manifest(artefact: Path) -> None:
    """The next stage reads what the one before recorded."""
    assert read_input(artefact, COMMAND)["lines"] == 1


@pytest.mark.parametrize("gone", ["artefact", "manifest"])
def test_a_missing_input_names_the_command(gone: str, artefact: Path) -> None:
    """The message says which file is missing and what makes it."""
    (artefact if gone == "artefact" else manifest_of(artefact)).unlink()
    with pytest.raises(StaleArtefactError, match=r"made\.bin is missing.*python -m training\.stage --config x\.yaml"):
        read_input(artefact, COMMAND)


def test_a_changed_input_names_the_command(artefact: Path) -> None:
    """An input touched since its manifest was written is refused."""
    artefact.write_text("touched", encoding="utf-8")
    with pytest.raises(StaleArtefactError, match=r"made\.bin differs.*python -m training\.stage --config x\.yaml"):
        read_input(artefact, COMMAND)


def test_a_folder_is_hashed_by_names_and_contents(tmp_path: Path) -> None:
    """Renaming, editing, adding or moving a file changes the hash; the order of creation does not."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, ("a", "b")), (two, ("b", "a"))):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name, encoding="utf-8")
    assert sha256(one) == sha256(two)
    hashes = {sha256(one)}
    (two / "a").rename(two / "c")
    hashes.add(sha256(two))
    (two / "c").write_text("b", encoding="utf-8")
    hashes.add(sha256(two))
    (two / "deep").mkdir()
    (two / "c").rename(two / "deep" / "c")
    hashes.add(sha256(two))
    assert len(hashes) == 4
