"""Artefacts and their manifests: what was made from what, with which settings, so that stages resume and never mix.

A stage asks `is_done` first (same inputs, same settings, output untouched: nothing to do) and writes its manifest
last, after the artefact is complete: a killed stage leaves no manifest and is run again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from backend.engine.manifest import sha256_of
from training.errors import StaleArtefactError

_TOOLS = ("torch", "transformers", "peft", "bitsandbytes", "sentencepiece", "llama-cpp-python", "numpy")


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of every file of a folder."""
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


def manifest_of(artefact: Path) -> Path:
    """Where the manifest of an artefact lies."""
    return artefact.with_name(artefact.name + ".manifest.json")


def _settings(config: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    if isinstance(config, BaseModel):
        return config.model_dump(mode="json")
    return dict(config)


def is_done(artefact: Path, inputs: Sequence[Path], config: Mapping[str, Any] | BaseModel, seed: int) -> bool:
    """Whether the artefact exists and was made from these inputs with these settings."""
    path = manifest_of(artefact)
    if not artefact.exists() or not path.is_file():
        return False
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return bool(
        manifest["sha256"] == sha256(artefact)
        and manifest["config"] == _settings(config)
        and manifest["seed"] == seed
        and manifest["inputs"] == {file.name: sha256(file) for file in inputs}
    )


def write_manifest(
    artefact: Path, stage: str, inputs: Sequence[Path], config: Mapping[str, Any] | BaseModel, seed: int,
    **facts: Any,  # noqa: ANN401 - any JSON value that the stage wants to record
) -> None:  # fmt: skip
    """Record how an artefact was made; written atomically, last."""
    content = {
        "stage": stage,
        "sha256": sha256(artefact),
        "inputs": {file.name: sha256(file) for file in inputs},
        "config": _settings(config),
        "seed": seed,
        "commit": _commit(),
        "python": platform.python_version(),
        "tools": {tool: _version(tool) for tool in _TOOLS},
        **facts,
    }
    path = manifest_of(artefact)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_input(artefact: Path, command: str) -> dict[str, Any]:
    """The manifest of an input artefact.

    Raises:
        StaleArtefactError: it is missing or changed since; the message names the command that makes it.
    """
    path = manifest_of(artefact)
    if not artefact.exists() or not path.is_file():
        raise StaleArtefactError(f"{artefact} is missing; make it with: {command}")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if manifest["sha256"] != sha256(artefact):
        raise StaleArtefactError(f"{artefact} differs from its manifest; make it again with: {command}")
    return manifest


def _version(tool: str) -> str | None:
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - git of the developer's own path
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def say(message: str) -> None:
    """One line of progress for the person who runs the stage."""
    print(message, file=sys.stderr, flush=True)
