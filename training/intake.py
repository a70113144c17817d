"""The first pass of `prepare`: every record read and made into rows, in files of a work folder; can be continued.

Records are dealt in batches to the processes and their rows written in the order of reading, so that any number of
processes gives the same files. Now and then the sizes of the files are recorded: after a kill, what was written since
is cut off and reading goes on there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.cleaning import Reason, RejectedError
from training.config import TuneRun
from training.dialogues import DialogueMaker, Made
from training.errors import TrainingError
from training.sources import Record

ROWS, REJECTS, ENTRIES, BANDS, SHINGLES = "rows.jsonl", "rejects.jsonl", "entries.bin", "bands.bin", "shingles.bin"
_FILES = (ROWS, REJECTS, ENTRIES, BANDS, SHINGLES)
_STATE = "state.json"
ENTRY = np.dtype([
    ("source", "<u2"), ("side", "u1"), ("number", "<u4"), ("exact", "<u8"), ("question", "<u8"), ("start", "<i8"),
    ("count", "<i4"), ("tokens", "<u4"), ("language", "S3"),
])  # fmt: skip
_BATCH = 32
_BATCHES_AHEAD = 4
_SAVE_EVERY_RECORDS = 2_048

Outcome = list[Made] | Reason


class Intake:
    """A work folder being filled. `digest` stands for the inputs and settings: another one starts afresh."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest
        state = self._load()
        if state is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            state = {"digest": digest, "records": 0, "shingles": 0, "sizes": dict.fromkeys(_FILES, 0), "done": False}
        self.records: int = state["records"]
        self.is_done: bool = state["done"]
        self._shingles: int = state["shingles"]
        self._sizes: dict[str, int] = state["sizes"]

    def path(self, name: str) -> Path:
        """One of the files."""
        return self._folder / name

    def _load(self) -> dict[str, Any] | None:
        path = self._folder / _STATE
        if not path.is_file():
            return None
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whole = all(
            (self._folder / name).is_file() and (self._folder / name).stat().st_size >= size
            for name, size in state["sizes"].items()
        )
        return state if state["digest"] == self._digest and whole else None

    def fill(self, run: TuneRun, records: Iterator[Record]) -> Iterator[int]:
        """Read on from where the last run stopped; yields how many records are done, all runs together."""
        with ExitStack() as stack:
            files = {name: stack.enter_context(self.path(name).open("ab")) for name in _FILES}
            for name, file in files.items():
                file.truncate(self._sizes[name])
            saved = self.records
            for batch, outcomes in _made(run, islice(records, self.records, None)):
                for record, outcome in zip(batch, outcomes, strict=True):
                    self._write(files, record, outcome)
                self.records += len(batch)
                if self.records - saved >= _SAVE_EVERY_RECORDS:
                    self._save(files)
                    saved = self.records
                yield self.records
            self.is_done = True
            self._save(files)

    def _write(self, files: dict[str, Any], record: Record, outcome: Outcome) -> None:
        place = {"source": record.source, "file": record.file, "line": record.line}
        if isinstance(outcome, Reason):
            files[REJECTS].write(_line({**place, "reason": outcome.value}))
            return
        for made in outcome:
            count = len(made.shingles) // 4
            entry = np.array(
                (record.source, record.side, record.number, made.exact, made.question, self._shingles, count,
                 made.tokens, made.language.encode()), dtype=ENTRY,
            )  # fmt: skip
            self._shingles += count
            files[ROWS].write(_line(place)[:-1] + b"\t" + made.row.encode() + b"\n")
            files[ENTRIES].write(entry.tobytes())
            files[BANDS].write(made.bands)
            files[SHINGLES].write(made.shingles)

    def _save(self, files: dict[str, Any]) -> None:
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        self._sizes = {name: file.tell() for name, file in files.items()}
        state = {
            "digest": self._digest, "records": self.records, "shingles": self._shingles, "sizes": self._sizes,
            "done": self.is_done,
        }  # fmt: skip
        partial = self.path(_STATE + ".part")
        partial.write_text(json.dumps(state), encoding="utf-8")
        partial.replace(self.path(_STATE))

    def entries(self) -> npt.NDArray[np.void]:
        """What is known of every row, in order."""
        return np.fromfile(self.path(ENTRIES), dtype=ENTRY)

    def rows(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Where every row comes from, and the row, in order."""
        with self.path(ROWS).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                place, row = line.rstrip("\n").split("\t", 1)
                yield json.loads(place), row

    def rejects(self) -> Iterator[dict[str, Any]]:
        """The records that made no row."""
        with self.path(REJECTS).open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield json.loads(line)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _made(run: TuneRun, records: Iterator[Record]) -> Iterator[tuple[list[Record], list[Outcome]]]:
    """Batches and what became of them, in the order of reading; only a few are under way at any time."""
    if run.prepare.processes == 1:
        maker = DialogueMaker(run)
        for batch in _batches(records):
            yield batch, _outcomes(maker, batch)
        return
    waiting: deque[tuple[list[Record], Future[list[Outcome]]]] = deque()
    # Not forked: the tokenizer's threads do not survive a fork.
    with ProcessPoolExecutor(run.prepare.processes, get_context("spawn"), _start, (run.model_dump_json(),)) as pool:
        try:
            for batch in _batches(records):
                waiting.append((batch, pool.submit(_make_there, batch)))
                if len(waiting) >= _BATCHES_AHEAD * run.prepare.processes:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process of prepare ended (out of memory?); run it again with fewer `processes`, it goes on there"
            ) from error


def _outcomes(maker: DialogueMaker, batch: list[Record]) -> list[Outcome]:
    found: list[Outcome] = []
    for record in batch:
        try:
            found.append(maker.make(record))
        except RejectedError as rejected:
            found.append(rejected.reason)
    return found


_makers: list[DialogueMaker] = []


def _start(run: str) -> None:
    """Ready a process; it ends with its parent, which a killed parent cannot ask for."""
    parent = parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _makers.append(DialogueMaker(TuneRun.model_validate_json(run)))


def _make_there(batch: list[Record]) -> list[Outcome]:
    return _outcomes(_makers[0], batch)
