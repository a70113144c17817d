"""The configuration of a run: what is wrong in it is found before hours are spent, all of it at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config import ScratchRun, TuneRun, config_from_args, load_config, load_scratch
from training.errors import ConfigError, TrainingError

SHIPPED = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))
PLAIN: dict[str, Any] = {
    "name": "tiny",
    "folder": "runs/tiny",
    "model": "runs/tiny/published/tiny-Q4_K_M.gguf",
    "synthesise": {"consultations": 20, "invented": 5},
    "tokenizer": {"vocabulary": 400},
    "pretrain": {
        "hidden": 256, "layers": 1, "heads": 4, "kv_heads": 4, "feed_forward": 256, "batch_tokens": 512, "steps": 2,
        "learning_rate": 0.001, "warmup_steps": 0,
    },
    "evaluate": {},
}  # fmt: skip


def written(folder: Path, **changes: object) -> Path:
    """A configuration file; a change names its key with dots for sections ("pretrain.steps") as double underscores."""
    content = copy.deepcopy(PLAIN)
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configuration_loads(path: Path) -> None:
    """Every file in training/configs is complete and within bounds, and named after its model."""
    run = load_config(path)
    if isinstance(run, TuneRun):
        assert run.base.revision, "a base is pinned"
        return
    assert run.model.name == f"{run.name}-Q4_K_M.gguf"
    assert run.pretrain.hidden % run.pretrain.heads == 0
    assert run.pretrain.heads % run.pretrain.kv_heads == 0
    assert run.pretrain.warmup_steps < run.pretrain.steps


def test_the_embedded_and_the_smoke_model_have_a_configuration() -> None:
    """The two that the Makefile names exist, each with a folder of its own."""
    assert {"mini.yaml", "smoke.yaml"} <= {path.name for path in SHIPPED}
    folders = [load_config(path).folder for path in SHIPPED]
    assert len(set(folders)) == len(folders)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    """Seed, held-out shares, context and floors need not be written."""
    run = load_scratch(written(tmp_path))
    assert (run.seed, run.synthesise.held_out, run.pretrain.context) == (17, 200, 1024)
    assert run.evaluate.most_urgency_contradictions == 0


@pytest.mark.parametrize(
    "key", ["stepps", "synthesise__held_outt", "tokenizer__size", "pretrain__bf_16", "evaluate__accepted"]
)
def test_an_unknown_key_is_refused(key: str, tmp_path: Path) -> None:
    """A misspelt setting never silently keeps its default; the message names the file and the key."""
    with pytest.raises(ConfigError, match=rf"run\.yaml: {key.replace('__', '.')}: Extra inputs"):
        load_config(written(tmp_path, **{key: 1}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Tiny Model"),
        ("synthesise__consultations", 9),
        ("synthesise__invented", -1),
        ("synthesise__held_out", 9),
        ("synthesise__held_out_pathologies", 0),
        ("synthesise__held_out_wordings", 0.0),
        ("synthesise__held_out_wordings", 1.0),
        ("tokenizer__vocabulary", 299),
        ("tokenizer__vocabulary", 32_001),
        ("pretrain__hidden", 300),
        ("pretrain__feed_forward", 700),
        ("pretrain__layers", 0),
        ("pretrain__steps", 0),
        ("pretrain__learning_rate", 0.0),
        ("pretrain__context", 64),
        ("pretrain__batch_tokens", 255),
        ("evaluate__accepted_whole", 1.01),
        ("evaluate__first_cause_named", -0.1),
        ("pretrain__steps", "many"),
    ],
)
def test_a_value_out_of_bounds_is_refused(key: str, value: object, tmp_path: Path) -> None:
    """Numbers outside their range, row sizes the quantizer cannot use and wrong types are named."""
    with pytest.raises(ConfigError, match=key.replace("__", r"\.")):
        load_config(written(tmp_path, **{key: value}))


def test_every_problem_is_reported_together(tmp_path: Path) -> None:
    """Three mistakes are three lines."""
    path = written(tmp_path, pretrain__steps=0, tokenizer__vocabulary=1, evaluate__more=1)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["name: [", "", "just words"])
def test_a_file_that_is_no_configuration_is_named(text: str, tmp_path: Path) -> None:
    """Broken YAML, an empty file or a plain sentence: the message starts with the file."""
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A wrong path on the command line is a configuration error, which a caller may take for a ValueError."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml") as caught:
        load_config(tmp_path / "nowhere.yaml")
    assert isinstance(caught.value, TrainingError)
    assert isinstance(caught.value, ValueError)


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    """What the manifest records is what ran."""
    run = load_scratch(written(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        run.pretrain.steps = 5  # type: ignore[misc]  # the point of the test


def test_the_command_line_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage is started with `--config <file>` and nothing else."""
    path = written(tmp_path)
    monkeypatch.setattr("sys.argv", ["stage", "--config", str(path)])
    assert config_from_args("A stage.") == ScratchRun.model_validate(PLAIN)
    monkeypatch.setattr("sys.argv", ["stage"])
    with pytest.raises(SystemExit):
        config_from_args("A stage.")
