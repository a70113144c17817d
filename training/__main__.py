"""Run the stages of a configuration in order, each in a process of its own; finished ones have nothing to do.

Stops at the first stage that fails, with its exit code; the same command goes on from there. `--list` says which
stages are done, from files and manifests alone: whether a changed setting makes one run again, the stage itself says.

    python -m training --config training/configs/smoke.yaml
    python -m training --config training/configs/smoke.yaml --list
    python -m training --config training/configs/smoke.yaml --from quantize
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from training.artefacts import manifest_of, say, sha256
from training.config import SCRATCH_STAGES, TUNE_STAGES, Run, TuneRun, load_config
from training.errors import ConfigError
from training.paths import (
    adapter_path,
    comparison_path,
    evaluation_path,
    gguf_path,
    held_out_path,
    model_path,
    quantized_path,
    tokenizer_path,
    train_path,
)
from training.publish import record_path

_KILLED_BY_SIGNAL = 128


class State(StrEnum):
    """What is known of a stage."""

    DONE = "done"
    NOT_DONE = "not done"
    OUT_OF_DATE = "out of date"
    REFUSED = "the gate refused"


def main() -> int:
    """Run or list the stages; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--list", action="store_true", help="say which stages are done, and run none")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="begin with this stage")
    asked = parser.parse_args()
    try:
        run = load_config(asked.config)
    except ConfigError as error:
        parser.error(str(error))
    stages = stages_of(run)
    if asked.first not in (None, *stages):
        parser.error(f"--from {asked.first}: the stages of {run.name} are: {', '.join(stages)}")
    if asked.list:
        hash_of = cache(sha256)  # reads each file once, however many stages used it
        for stage in stages:
            print(f"{stage:<12} {state_of(run, stage, hash_of)}")
        return 0
    return run_stages(stages[stages.index(asked.first or stages[0]) :], asked.config)


def stages_of(run: Run) -> tuple[str, ...]:
    """The stages of a run, in order."""
    return TUNE_STAGES if isinstance(run, TuneRun) else SCRATCH_STAGES


def run_stages(stages: tuple[str, ...], config: Path) -> int:
    """Run stages one after another; the exit code of the first that fails, or 0."""
    for number, stage in enumerate(stages, 1):
        say(f"training: {stage} ({number} of {len(stages)})")
        started = time.monotonic()
        command = [sys.executable, "-m", f"training.{stage}", "--config", str(config)]
        code = subprocess.run(command, check=False).returncode  # noqa: S603 - our own arguments
        if code:
            say(f"training: {stage} failed; run the same command again when it is put right: {' '.join(command)}")
            return code if code > 0 else _KILLED_BY_SIGNAL - code
        say(f"training: {stage} took {time.monotonic() - started:.0f} s")
    return 0


def artefacts_of(run: Run, stage: str) -> tuple[Path, ...]:
    """What a stage makes."""
    quantized = tuple(quantized_path(run, kind) for kind in run.quantize.types)
    made: Mapping[str, tuple[Path, ...]] = {
        "synthesise": (train_path(run), held_out_path(run)),
        "prepare": (train_path(run), held_out_path(run)),
        "tokenizer": (tokenizer_path(run),),
        "pretrain": (model_path(run),),
        "qlora": (adapter_path(run),),
        "merge": (model_path(run),),
        "to_gguf": (gguf_path(run),),
        "quantize": (*quantized, comparison_path(run)),
        "evaluate": (evaluation_path(run),),
        "publish": (record_path(run),),
    }
    return made[stage]


def state_of(run: Run, stage: str, hash_of: Callable[[Path], str] = sha256) -> State:
    """Whether the files of a stage are there, unchanged, and made of what the run has now."""
    paths = artefacts_of(run, stage)
    if not all(path.exists() and manifest_of(path).is_file() for path in paths):
        return State.NOT_DONE
    for path in paths:
        manifest: dict[str, Any] = json.loads(manifest_of(path).read_text(encoding="utf-8"))
        inputs = {run.folder / name: digest for name, digest in manifest["inputs"].items()}
        expected = {path: manifest["sha256"], **{file: digest for file, digest in inputs.items() if file.exists()}}
        if any(hash_of(file) != digest for file, digest in expected.items()):
            return State.OUT_OF_DATE
    if stage == "evaluate" and not json.loads(evaluation_path(run).read_text(encoding="utf-8"))["passed"]:
        return State.REFUSED
    return State.DONE


if __name__ == "__main__":
    sys.exit(main())
