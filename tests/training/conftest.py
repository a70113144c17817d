"""A run small enough for tests, made by the same commands as a real one, once a session."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from training.config import ScratchRun, load_scratch

ROOT = Path(__file__).parents[2]
# One thread: models this small are slower on several cores, above all on busy ones.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RENDER_CPU_COUNT": "1"}


@dataclass(frozen=True)
class TinyRun:
    """A configuration, the file it stands in, and how to run a stage on it."""

    config: Path

    @property
    def run(self) -> ScratchRun:
        """The loaded configuration."""
        return load_scratch(self.config)

    def stage(self, name: str) -> subprocess.CompletedProcess[str]:
        """`python -m training.<name> --config ...`, from the root of the repository."""
        command = [sys.executable, "-m", f"training.{name}", "--config", str(self.config)]
        return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def write_config(folder: Path) -> Path:
    """The configuration of a run of seconds in `folder`; everything it makes stays there."""
    content = {
        "name": "doctis-ai-tiny",
        "folder": str(folder / "runs" / "tiny"),
        "model": str(folder / "published" / "doctis-ai-tiny-Q4_K_M.gguf"),
        "synthesise": {"consultations": 40, "invented": 60, "held_out": 10},
        "tokenizer": {"vocabulary": 600},
        "pretrain": {
            "hidden": 256, "layers": 1, "heads": 4, "kv_heads": 4, "feed_forward": 256, "batch_tokens": 2048,
            "steps": 4, "learning_rate": 0.001, "warmup_steps": 1, "save_every_steps": 2,
        },
        "evaluate": {},
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def made(tiny: TinyRun, *stages: str) -> TinyRun:
    """The run after these stages."""
    for name in stages:
        done = tiny.stage(name)
        assert done.returncode == 0, done.stderr
    return tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run with its examples and its vocabulary."""
    return made(TinyRun(write_config(tmp_path_factory.mktemp("tiny"))), "synthesise", "tokenizer")


@pytest.fixture(scope="session")
def trained(tiny: TinyRun) -> TinyRun:
    """The same run down to the quantized model; the converter is fetched when the repository has no copy of it."""
    name = f"llama.cpp-{metadata.version('llama-cpp-python')}"
    fetched = ROOT / "runs" / name
    if fetched.is_dir():
        (tiny.run.folder.parent / name).symlink_to(fetched)
    return made(tiny, "pretrain", "to_gguf", "quantize")
