"""The configuration of a run: a YAML file checked against these models. Unknown keys are errors, all reported."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SynthesiseConfig(_Section):
    """Consultations drawn from the knowledge base."""

    consultations: int = Field(ge=10)
    invented: int = Field(ge=0, description="Extra examples whose causes and signs are invented words.")
    held_out: int = Field(200, ge=10, description="Unseen consultations for evaluation.")
    held_out_pathologies: int = Field(10, ge=1)
    held_out_wordings: float = Field(1 / 3, gt=0, lt=1)
    slots: bool = Field(True, description="False: the reply spells names out (plain copying).")


class TokenizerConfig(_Section):
    """The sentencepiece vocabulary."""

    vocabulary: int = Field(ge=300, le=32_000)


class PretrainConfig(_Section):
    """A Llama-architecture model from scratch. Row sizes are multiples of 256 for the K-quants."""

    hidden: int = Field(multiple_of=256)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    feed_forward: int = Field(multiple_of=256)
    context: int = Field(1024, ge=128)
    batch_tokens: int = Field(ge=256)
    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(0.05, ge=0)
    save_every_steps: int = Field(100, ge=1)
    bf16: bool = True


class EvaluateConfig(_Section):
    """Floors that a from-scratch model must reach; below any of them the run fails."""

    accepted_whole: float = Field(0.90, ge=0, le=1)
    first_cause_named: float = Field(0.98, ge=0, le=1)
    most_urgency_contradictions: int = Field(0, ge=0)


class RunConfig(_Section):
    """One run, start to end."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    seed: int = 17
    folder: Path
    model: Path = Field(description="Where the finished GGUF goes.")
    synthesise: SynthesiseConfig
    tokenizer: TokenizerConfig
    pretrain: PretrainConfig
    evaluate: EvaluateConfig


def load_config(path: Path) -> RunConfig:
    """Read a YAML configuration.

    Raises:
        ConfigError: with every problem in the file.
    """
    try:
        return RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def config_from_args(description: str) -> RunConfig:
    """The configuration named on the command line of a stage: `--config training/configs/mini.yaml`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True)
    return load_config(parser.parse_args().config)
