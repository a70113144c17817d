"""The four kinds of source, read one row at a time: JSONL, ChatDoctor, MedQuAD, and our own consultations.

A source is a file, a folder, a glob, or a data set of the Hub, which is fetched once into the Hub's cache. What cannot
be read is a record too, with its file, its line and the reason: nothing is skipped in silence.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from training.cleaning import Reason, RejectedError
from training.config import SourceConfig, SourceKind
from training.errors import TrainingError
from training.readers import read_rows

HUB_NAMES = {SourceKind.CHATDOCTOR: "lavita/ChatDoctor-HealthCareMagic-100k", SourceKind.MEDQUAD: "lavita/MedQuAD"}
_SUFFIXES = (".jsonl", ".json", ".parquet", ".xml")
_BLOCK_BYTES = 1 << 20
# What a row of each kind of file holds exactly once, to know beforehand how many there are.
_ROW_MARKS = {".jsonl": b"\n", ".json": b'"output"', ".xml": b"<QAPair "}
_GENERIC_INSTRUCTIONS = (
    "if you are a doctor", "you are a doctor", "answer the medical question", "answer this medical question",
    "answer the question", "below is an instruction", "si vous êtes médecin", "si tu es médecin", "tu es un médecin",
    "vous êtes un médecin", "réponds à la question", "répondez à la question",
)  # fmt: skip


class Side(IntEnum):
    """Where a row may go: the split decides, or the source has decided."""

    ANY = 0
    TRAIN = 1
    HELD_OUT = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One row as read, or what is wrong with it. `number` counts the source's records from 1."""

    source: int
    number: int
    file: str
    line: int
    content: Mapping[str, Any] | None
    problem: Reason | None = None
    side: Side = Side.ANY


@dataclass(frozen=True, slots=True)
class Place:
    """The files of a source, in an order that depends on their names only, and the revision they are of."""

    root: Path
    files: tuple[Path, ...]
    revision: str | None

    def name_of(self, file: Path) -> str:
        """A file's name for reports, the same on every machine."""
        return file.relative_to(self.root).as_posix()


def locate(source: SourceConfig) -> Place:
    """Find the files of a source that is not synthesised; a data set of the Hub is fetched, or found in the cache.

    Raises:
        TrainingError: there is nothing to read.
    """
    revision = None
    if source.path is None:
        root = _fetch(source.repo or HUB_NAMES[source.kind], source.revision)
        revision = root.name
        found = [root]
    else:
        found = [Path(name) for name in sorted(glob.glob(source.path, recursive=True))]  # noqa: PTH207 - may be absolute
        root = found[0] if len(found) == 1 and found[0].is_dir() else _parent_of(found)
    files = {
        file
        for one in found
        for file in (one.rglob("*") if one.is_dir() else [one])
        if file.is_file() and (file.suffix in _SUFFIXES or file == one)
    }
    if not files:
        raise TrainingError(f"{source.path or source.repo}: no {', '.join(_SUFFIXES)} file to read there")
    return Place(root, tuple(sorted(files, key=lambda file: file.relative_to(root).as_posix())), revision)


def _parent_of(found: list[Path]) -> Path:
    parents = [set(one.parents) for one in found]
    return max(set.intersection(*parents), key=lambda path: len(path.parts)) if parents else Path()


def _fetch(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for sources of the Hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        patterns = [f"*{suffix}" for suffix in _SUFFIXES]
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TrainingError(
            f"{repo} cannot be fetched from the Hub ({type(error).__name__}); try again, or give a local copy as `path`"
        ) from error


def survey(place: Place) -> tuple[str, int]:
    """The SHA-256 of the files (names and contents) and about how many rows they hold, without keeping them."""
    digest, rows = hashlib.sha256(), 0
    for file in place.files:
        digest.update(place.name_of(file).encode() + b"\0")
        mark = _ROW_MARKS.get(file.suffix)
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                rows += block.count(mark) if mark else 0
        if file.suffix == ".parquet":
            rows += _parquet_rows(file)
    return digest.hexdigest(), rows


def file_hash(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parquet_rows(file: Path) -> int:
    import pyarrow.parquet  # noqa: PLC0415 - comes with `datasets`

    return int(pyarrow.parquet.ParquetFile(file).metadata.num_rows)


def read(index: int, place: Place) -> Iterator[Record]:
    """The records of the source at `index` of the configuration."""
    number = 0
    for file in place.files:
        for line, content in read_rows(file):
            number += 1
            problem = content if isinstance(content, Reason) else None
            row = None if isinstance(content, Reason) else content
            yield Record(index, number, place.name_of(file), line, row, problem)


def turns_of(source: SourceConfig, content: Mapping[str, Any]) -> tuple[str, str]:
    """The user's turn and the answer of a row, as they stand in it.

    Raises:
        RejectedError: a key is missing, or its value is no text.
    """
    if source.kind is SourceKind.MEDQUAD:
        return _text_of(content, "question"), _text_of(content, "answer")
    asked, answer = _text_of(content, "input", needed=False), _text_of(content, "output")
    if source.kind is SourceKind.CHATDOCTOR and "instruction" not in content:
        return asked, answer
    instruction = _text_of(content, "instruction", needed=source.instruction != "ignore")
    if source.instruction == "ignore" or (asked.strip() and source.instruction == "auto" and _is_generic(instruction)):
        return asked, answer
    if source.kind is SourceKind.CHATDOCTOR and _is_generic(instruction):
        return asked, answer
    return "\n\n".join(part for part in (instruction.strip(), asked.strip()) if part), answer


def _text_of(content: Mapping[str, Any], key: str, *, needed: bool = True) -> str:
    if key not in content and needed:
        raise RejectedError(Reason.MISSING_KEY)
    value = content.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RejectedError(Reason.WRONG_TYPE)
    return value


def _is_generic(instruction: str) -> bool:
    return instruction.strip().casefold().startswith(_GENERIC_INSTRUCTIONS)
