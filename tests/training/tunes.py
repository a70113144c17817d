"""Fine-tunes of seconds: a tiny base, a few rows as `prepare` leaves them, and the stages run as commands."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from backend.core.prompt import Style
from tests.training.bases import chat_rows
from training.artefacts import write_manifest
from training.config import TuneRun, load_tune
from training.paths import held_out_path, train_path

ROOT = Path(__file__).parents[2]
# One thread: models this small are slower on several cores, above all on busy ones. No Hub: nothing is downloaded.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
# What the libraries say of themselves and of each other; nothing of it is ours to change.
QUIET = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft
]
TWO_PROCESSES = ROOT / "training" / "configs" / "accelerate" / "two_cpu_processes.yaml"
QLORA: dict[str, Any] = {
    "batch": 2, "accumulation": 2, "epochs": 1, "steps": 6, "save_every_steps": 2, "evaluate_every_steps": 3,
    "longest_tokens": 256, "learning_rate": 0.002, "dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Tune:
    """A configuration file of a fine-tune, and how to run a stage on it."""

    config: Path

    @property
    def run(self) -> TuneRun:
        """The loaded configuration."""
        return load_tune(self.config)

    def stage(self, name: str) -> subprocess.CompletedProcess[str]:
        """`python -m training.<name> --config ...`."""
        return self._run([sys.executable, "-m", f"training.{name}"])

    def here(self, name: str) -> None:
        """The same stage in this process, which spares the seconds of importing everything again."""
        main = importlib.import_module(f"training.{name}").main
        before, threads = sys.argv, torch.get_num_threads()
        sys.argv = [name, "--config", str(self.config)]
        torch.set_num_threads(1)
        try:
            main()
        finally:
            sys.argv = before
            torch.set_num_threads(threads)

    def launched(self, name: str) -> subprocess.CompletedProcess[str]:
        """The same stage in two processes, by `accelerate launch`."""
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(TWO_PROCESSES)]
        return self._run([*command, "-m", f"training.{name}"])

    def script(self, code: str) -> subprocess.CompletedProcess[str]:
        """A program that runs a stage in a way of its own."""
        return self._run([sys.executable, "-c", code])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        command = [*command, "--config", str(self.config)]
        return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def make_tune(folder: Path, base: Path, style: Style, rows: int = 20, qlora: dict[str, Any] | None = None) -> Tune:
    """A fine-tune in `folder` with rows as `prepare` writes them, manifests included."""
    content = {
        "name": "tiny-tune",
        "folder": str(folder / "run"),
        "base": {
            "model": str(base),
            "style": style.value,
            "gguf_name": "Phi-3-tiny" if style is Style.PHI3 else "tiny",
            "licence": "mit",
        },
        "prepare": {"sources": [{"kind": "jsonl", "path": "own.jsonl", "licence": "mit"}]},
        "qlora": {**QLORA, **(qlora or {})},
    }
    folder.mkdir(parents=True, exist_ok=True)
    tune = Tune(folder / "tune.yaml")
    tune.config.write_text(yaml.safe_dump(content), encoding="utf-8")
    if style is not Style.SLOTS:
        write_rows(train_path(tune.run), chat_rows(rows))
        write_rows(held_out_path(tune.run), chat_rows(6, seed=100))
    return tune


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A file of rows with the manifest that the next stage wants to see."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    write_manifest(path, "prepare", [], {}, 17)
