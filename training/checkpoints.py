"""Checkpoints of a Trainer that can be trusted: complete, unchanged since, and of this very run.

The Trainer writes a checkpoint file by file, so a killed process leaves half of one, and it resumes from the folder
with the highest number. Here each finished checkpoint gets a list of its files and their hashes, written last; one
without a list, with another hash or of other settings is deleted, and training goes on from the last good one.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerState, TrainingArguments

from training.artefacts import say, sha256

_LIST = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class MarkComplete(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Lists the files of each checkpoint once all processes have written theirs."""

    def __init__(self, run: str, spent_s: float = 0.0) -> None:
        """`run` stands for the settings and data; `spent_s` are the seconds of the runs before this one."""
        self._run, self._spent_s, self._started = run, spent_s, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent so far, interrupted runs included up to their last checkpoint."""
        return self._spent_s + time.monotonic() - self._started

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ANN401 - unused
        """Called by the Trainer after it wrote a checkpoint."""
        processes = PartialState()
        processes.wait_for_everyone()
        if processes.is_main_process:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._run, self.seconds)
        processes.wait_for_everyone()


def mark_complete(checkpoint: Path, run: str, seconds: float) -> None:
    """Write the list that makes a checkpoint count."""
    content = {"run": run, "seconds": seconds, "files": _hashes(checkpoint)}
    partial = checkpoint / f"{_LIST}.part"
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(checkpoint / _LIST)


def last_complete(folder: Path, run: str) -> Path | None:
    """The newest checkpoint that is whole and of this run; all others are deleted."""
    kept = None
    numbered = [(int(found.group(1)), path) for path in folder.glob("*") if (found := _NAME.fullmatch(path.name))]
    for _, path in sorted(numbered, reverse=True):
        problem = "an older one" if kept else _problem(path, run)
        if problem is None:
            kept = path
            continue
        if kept is None:
            say(f"qlora: {path.name} is not used: {problem}")
        shutil.rmtree(path)
    return kept


def seconds_spent(checkpoint: Path) -> float:
    """Seconds of training up to a complete checkpoint."""
    return float(json.loads((checkpoint / _LIST).read_text(encoding="utf-8"))["seconds"])


def _problem(checkpoint: Path, run: str) -> str | None:
    """Why a checkpoint must not be used."""
    try:
        content = json.loads((checkpoint / _LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its writing was interrupted"
    if content["run"] != run:
        return "it is of other settings or rows"
    if content["files"] != _hashes(checkpoint):
        return "its files differ from its list"
    return None


def _hashes(checkpoint: Path) -> dict[str, str]:
    return {
        str(path.relative_to(checkpoint)): sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name not in (_LIST, f"{_LIST}.part")
    }
