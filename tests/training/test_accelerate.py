"""Beyond one process: the same settings under `accelerate launch` give the same losses; two CPU processes show it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("bitsandbytes", reason="needs the training environment")

from accelerate.commands.config.config_args import load_config_from_file

from backend.core.prompt import Style
from tests.training.bases import make_llama_base
from tests.training.conftest import TinyRun
from tests.training.tunes import ENVIRONMENT, QUIET, ROOT, TWO_PROCESSES, make_tune
from training.artefacts import read_input
from training.config import load_config
from training.errors import TrainingError
from training.paths import adapter_path, model_path

pytestmark = [pytest.mark.training, *QUIET]

CONFIGS = sorted(TWO_PROCESSES.parent.glob("*.yaml"))
CLOSE = 1e-3


def launched(stage: str, config: Path) -> subprocess.CompletedProcess[str]:
    """A stage in two CPU processes."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(TWO_PROCESSES), "-m",
        f"training.{stage}", "--config", str(config),
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_those_of_this_accelerate(path: Path) -> None:
    """Every key is known to it. Those for GPUs could not be run: none was at hand."""
    assert load_config_from_file(str(path)).num_processes >= 1


def test_two_processes_tune_like_one(tmp_path: Path) -> None:
    """Dropout 0, the same rows a step: each training loss and the held-out loss within 1e-3, one adapter written."""
    base = make_llama_base(tmp_path / "llama")
    one, two = (make_tune(tmp_path / name, base, Style.ZEPHYR) for name in ("one", "two"))
    one.here("qlora")
    done = launched("qlora", two.config)
    assert done.returncode == 0, done.stderr
    assert "6 steps of 4 rows, on 2 processes" in done.stderr
    found, expected = (read_input(adapter_path(tune.run), "") for tune in (two, one))
    assert (found["processes"], expected["processes"]) == (2, 1)
    assert found["held_out_loss"] == pytest.approx(expected["held_out_loss"], abs=CLOSE)
    losses, same = (
        json.loads((adapter_path(tune.run) / "losses.json").read_text(encoding="utf-8")) for tune in (two, one)
    )
    for curve in ("train", "held_out"):
        assert [step for step, _ in losses[curve]] == [step for step, _ in same[curve]]
        for (_, loss), (_, wanted) in zip(losses[curve], same[curve], strict=True):
            assert loss == pytest.approx(wanted, abs=CLOSE)
    assert done.stderr.count("going on") == 0
    assert done.stderr.count("written") == 1


def test_processes_that_cannot_share_a_step_are_refused(tmp_path: Path) -> None:
    """The rows of a step do not depend on the number of processes, so it must divide them."""
    tune = make_tune(tmp_path, make_llama_base(tmp_path / "llama"), Style.ZEPHYR, qlora={"accumulation": 3})
    done = launched("qlora", tune.config)
    assert done.returncode != 0
    assert "qlora.accumulation is 3: 2 processes cannot share it evenly" in done.stderr
    assert not adapter_path(tune.run).exists()


def test_two_processes_pretrain_like_one(tiny: TinyRun, tmp_path: Path) -> None:
    """The same batches, gradients weighted by reply tokens: the same weights but for rounding."""
    runs = [copied(tiny, tmp_path / name) for name in ("one", "two")]
    alone = subprocess.run(
        [sys.executable, "-m", "training.pretrain", "--config", str(runs[0])],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    done = launched("pretrain", runs[1])
    assert done.returncode == 0, done.stderr
    expected, found = (facts(config) for config in runs)
    assert (found["processes"], expected["processes"]) == (2, 1)
    assert found["tokens"] == expected["tokens"]
    assert found["last_loss"] == pytest.approx(expected["last_loss"], abs=CLOSE)
    assert done.stderr.count("hf written") == 1


def copied(tiny: TinyRun, folder: Path) -> Path:
    """The configuration of a run with the rows and vocabulary of another, in float32."""
    content = yaml.safe_load(tiny.config.read_text(encoding="utf-8"))
    content["folder"] = str(folder / "run")
    content["pretrain"] |= {"bf16": False, "steps": 6, "save_every_steps": 3}
    shutil.copytree(tiny.run.folder, folder / "run", ignore=shutil.ignore_patterns("hf*", "model*", "*.gguf*"))
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def facts(config: Path) -> dict[str, Any]:
    """What `pretrain` recorded."""
    return read_input(model_path(load_config(config)), "")


def test_several_gpus_without_a_launcher_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs and one process would mean DataParallel, which 4-bit weights do not survive; the message says how."""
    tune = make_tune(tmp_path, make_llama_base(tmp_path / "llama"), Style.ZEPHYR)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(TrainingError, match=r"accelerate launch .*CUDA_VISIBLE_DEVICES=0"):
        tune.here("qlora")
