"""`python -m training`: the stages in order, each in its own process, and what is said about them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.training.conftest import ENVIRONMENT, ROOT, TinyRun, write_config
from tests.training.finished import judge, make_finished, write_model
from training.__main__ import State, artefacts_of, stages_of, state_of
from training.artefacts import manifest_of, write_manifest
from training.config import SCRATCH_STAGES, TUNE_STAGES, TuneRun, load_config
from training.paths import evaluation_path, quantized_path, train_path


def training(*options: str) -> subprocess.CompletedProcess[str]:
    """`python -m training ...` from the root of the repository."""
    command = [sys.executable, "-m", "training", *options]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_every_stage_has_a_module_and_artefacts(tmp_path: Path) -> None:
    """Both kinds of run; a stage that is only named would fail after hours."""
    for folder, config in ((tmp_path / "a", write_config), (tmp_path / "b", make_finished)):
        folder.mkdir()
        run = load_config(config(folder))
        for stage in stages_of(run):
            assert (ROOT / "training" / f"{stage}.py").is_file(), stage
            assert artefacts_of(run, stage)


def test_the_list_runs_nothing(tmp_path: Path) -> None:
    """Each stage with its state, in order."""
    done = training("--config", str(write_config(tmp_path)), "--list")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert lines == [[stage, "not done"] for stage in SCRATCH_STAGES]
    assert not (tmp_path / "runs").exists()


def test_the_list_of_a_fine_tune_knows_what_is_done(tmp_path: Path) -> None:
    """The files that are there with their manifests are done, the others not."""
    done = training("--config", str(make_finished(tmp_path)), "--list")
    states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    finished = {"qlora", "merge", "quantize", "evaluate"}
    assert states == {stage: "done" if stage in finished else "not done" for stage in TUNE_STAGES}


def test_what_changed_is_out_of_date(tmp_path: Path) -> None:
    """A touched artefact, and what was made of it."""
    run = load_config(make_finished(tmp_path))
    assert isinstance(run, TuneRun)
    write_model(run, "Q4_K_M", content=b"GGUF other")
    assert [state_of(run, stage) for stage in ("quantize", "evaluate")] == [State.OUT_OF_DATE] * 2
    train_path(run).write_text("{}", encoding="utf-8")
    (run.folder / "held_out.jsonl").write_text("{}", encoding="utf-8")
    for path in artefacts_of(run, "prepare"):
        write_manifest(path, "prepare", [], {}, run.seed)
    assert state_of(run, "prepare") is State.DONE
    train_path(run).write_text("{ }", encoding="utf-8")
    assert state_of(run, "prepare") is State.OUT_OF_DATE
    manifest_of(train_path(run)).unlink()
    assert state_of(run, "prepare") is State.NOT_DONE


def test_a_refused_model_is_shown(tmp_path: Path) -> None:
    """The evaluation is there, but it is no pass."""
    run = load_config(make_finished(tmp_path))
    assert isinstance(run, TuneRun)
    judge(run, ("worse",))
    assert state_of(run, "evaluate") is State.REFUSED


def test_a_failing_stage_stops_the_run(tmp_path: Path) -> None:
    """With its exit code and its message; no later stage is started."""
    config = make_finished(tmp_path)
    run = load_config(config)
    quantized_path(run).unlink()
    content = json.loads(evaluation_path(run).read_text(encoding="utf-8"))
    done = training("--config", str(config), "--from", "publish")
    assert done.returncode == 1
    assert "training: publish (1 of 1)" in done.stderr
    assert "missing; make it with: python -m training.quantize" in done.stderr
    assert "training: publish failed" in done.stderr
    assert json.loads(evaluation_path(run).read_text(encoding="utf-8")) == content
    first = training("--config", str(write_config(tmp_path)), "--from", "tokenizer")
    assert first.returncode == 1
    assert "pretrain" not in first.stderr


def test_the_stages_after_one_are_run(tmp_path: Path) -> None:
    """`--from publish` publishes what is there; the second time there is nothing to do."""
    content = yaml.safe_load(make_finished(tmp_path).read_text(encoding="utf-8"))
    config = tmp_path / "again.yaml"
    config.write_text(
        yaml.safe_dump(content | {"publish": {"destinations": [str(tmp_path / "out")]}}), encoding="utf-8"
    )
    for told in ("8 of 8 files sent", "nothing to do"):
        done = training("--config", str(config), "--from", "publish")
        assert done.returncode == 0, done.stderr
        assert told in done.stderr
        assert "DOCTIS_MODEL_PATH=" in done.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--from", "bake"], "--from bake: the stages of doctis-ai-tiny are: synthesise, tokenizer, pretrain"),
        (["--from", "qlora"], "--from qlora: the stages of doctis-ai-tiny are:"),
    ],
)
def test_an_unknown_stage_is_refused(options: list[str], told: str, tmp_path: Path) -> None:
    """The message lists those that there are."""
    done = training("--config", str(write_config(tmp_path)), *options)
    assert (done.returncode, told in done.stderr) == (2, True)


def test_a_wrong_configuration_is_told_without_a_traceback(tmp_path: Path) -> None:
    """Every problem, and exit code 2."""
    config = tmp_path / "wrong.yaml"
    config.write_text("name: x\nbase: {}\n", encoding="utf-8")
    done = training("--config", str(config))
    assert done.returncode == 2
    assert "base.model: Field required" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.training
def test_finished_stages_have_nothing_to_do(tiny: TinyRun) -> None:
    """The chain goes through what is done and stops where a stage cannot go on."""
    content = yaml.safe_load(tiny.config.read_text(encoding="utf-8"))
    content["pretrain"]["heads"] = 3  # which does not divide its width
    config = tiny.config.with_name("odd-heads.yaml")
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    done = training("--config", str(config))
    assert done.returncode == 1
    for told in ("synthesise: nothing to do", "tokenizer: nothing to do", "training: pretrain failed"):
        assert told in done.stderr
    assert "to_gguf" not in done.stderr
