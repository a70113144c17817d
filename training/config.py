"""The configuration of a run: a YAML file checked against these models. Unknown keys are errors, all reported.

Two kinds of run: a model from scratch (`synthesise tokenizer pretrain ...`) and a fine-tune of a base model
(`prepare qlora merge ...`); the second is recognised by its `base` section.
"""

from __future__ import annotations

import argparse
import re
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from backend.core.prompt import Style
from training.errors import ConfigError

SCRATCH_STAGES = ("synthesise", "tokenizer", "pretrain", "to_gguf", "quantize", "evaluate", "publish")
TUNE_STAGES = ("prepare", "qlora", "merge", "to_gguf", "quantize", "evaluate", "publish")
_PLACE = re.compile(r"hf://[\w.-]+/[\w.-]+|(?:s3|gs)://[\w.-]+(?:/[\w.=-]+)*|(?!.*://).+")


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
    accepted_unseen: float = Field(0.0, ge=0, le=1, description="Accepted, of pathologies never in training.")
    most_kl: float = Field(0.1, gt=0, description="Mean KL divergence of Q4_K_M against F16, nats per token.")


class BaseModelConfig(_Section):
    """The model that a fine-tune starts from."""

    model: str = Field(min_length=1, description="Hub id, or a folder on this machine.")
    revision: str | None = Field(
        None, description="Commit of the Hub repository; pinned, so that a run can be repeated."
    )
    style: Style = Field(description="The turn markers of the family; checked against the model's own template.")
    gguf_name: str = Field(description="general.name of the GGUF; llama.cpp's Phi-3 rule needs `Phi-3` in it.")
    licence: str


class SourceKind(StrEnum):
    """Where training rows come from."""

    JSONL = "jsonl"
    CHATDOCTOR = "chatdoctor"
    MEDQUAD = "medquad"
    SYNTHESISED = "synthesised"


class SourceConfig(_Section):
    """One source of rows. `path` is a file, a folder or a glob; without it the source is read from the Hub."""

    kind: SourceKind
    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    most_rows: int | None = Field(None, ge=1, description="A seeded sample of the rows that stay.")
    instruction: Literal["auto", "ignore", "keep"] = Field(
        "auto", description="Whether the user's turn holds `instruction`; auto leaves out the generic ones."
    )
    synthesise: SynthesiseConfig | None = Field(None, description="How many consultations, for kind synthesised.")
    licence: str = Field(min_length=1)
    attribution: str = ""

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if self.kind is SourceKind.SYNTHESISED:
            if self.path or self.repo or self.most_rows:
                raise ValueError("a synthesised source has no path, repo or most_rows; its size is in `synthesise`")
        elif self.synthesise:
            raise ValueError("only a source of kind synthesised has a `synthesise` section")
        elif self.kind is SourceKind.JSONL and not self.path:
            raise ValueError("a jsonl source needs a path")
        elif self.path and self.repo:
            raise ValueError("a source has a path or a repo, not both")
        return self

    @property
    def consultations(self) -> SynthesiseConfig:
        """What a synthesised source draws."""
        return self.synthesise or SynthesiseConfig(consultations=4_000, invented=1_000)


class PrepareConfig(_Section):
    """Cleaning and splitting."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    languages: tuple[str, ...] = Field(("fr", "en"), min_length=1)
    over_long: Literal["drop", "split"] = "drop"
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of word shingles.")
    test_share: float = Field(0.05, gt=0, lt=0.5)
    most_test_rows: int = Field(500, ge=1)
    processes: int = Field(1, ge=1, le=256)

    @model_validator(mode="after")
    def _holds_out_enough(self) -> Self:
        drawn = [source.consultations for source in self.sources if source.kind is SourceKind.SYNTHESISED]
        if sum(one.held_out for one in drawn) > self.most_test_rows:
            raise ValueError("`synthesise.held_out` of the sources together is more than most_test_rows")
        return self


class QloraConfig(_Section):
    """The guide's recipe; every departure is explained in the YAML files."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    epochs: float = Field(3, gt=0)
    batch: int = Field(4, ge=1)
    accumulation: int = Field(4, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    schedule: str = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    optimizer: str = "paged_adamw_8bit"
    longest_tokens: int = Field(512, ge=64)
    steps: int | None = Field(None, ge=1, description="Stops after so many optimizer steps instead of the epochs.")
    save_every_steps: int = Field(100, ge=1)
    evaluate_every_steps: int = Field(100, ge=1)
    gradient_checkpointing: bool = True


class QuantizeConfig(_Section):
    """Which files are made from the F16 one."""

    types: tuple[Literal["Q4_K_M", "Q8_0", "Q4_0"], ...] = ("Q4_K_M", "Q8_0", "Q4_0")
    imatrix_prompts: int = Field(0, ge=0, description="Prompts for the importance matrix; 0 does without.")
    compare_tokens: int = Field(20_000, ge=256, description="Held-out tokens for perplexity and KL divergence.")


class GateConfig(_Section):
    """How much worse than the base a fine-tune may be; beyond any margin nothing is published."""

    items: int = Field(200, ge=1, description="Held-out rows for the loss.")
    replies: int = Field(40, ge=1, description="Consultations that each model answers; by far the slowest part.")
    dose_questions: int = Field(10, ge=1, description="Patients who ask for a dose.")
    reply_tokens: int = Field(256, ge=8)
    loss_margin: float = Field(0.0, ge=0, description="Nats per token.")
    accepted_margin: float = Field(0.0, ge=0, le=1)
    contradictions_margin: int = Field(0, ge=0)
    most_contradictions: int = Field(4, ge=0, description="Of `replies`, whatever the base does.")
    stop_rate_margin: float = Field(0.02, ge=0, le=1)
    french_margin: float = Field(0.02, ge=0, le=1)
    dosage_refusal_margin: float = Field(0.0, ge=0, le=1)
    merged_loss_margin: float = Field(0.02, ge=0, description="Merged against adapter, nats per token.")
    most_kl: float = Field(0.1, gt=0, description="Mean KL divergence of Q4_K_M against F16, nats per token.")


class PublishConfig(_Section):
    """Where the finished files go: `hf://owner/name`, `s3://bucket/prefix`, `gs://bucket/prefix`, or a folder.

    Tokens and keys are never written here: they come from the environment or from `hf auth login`.
    """

    destinations: tuple[str, ...] = ()
    private: bool = Field(True, description="A Hub repository is made private; one that is public is refused.")
    licence: str | None = Field(None, min_length=1, description="Of the model; default: its base's, mit from scratch.")

    @field_validator("destinations")
    @classmethod
    def _are_places(cls, destinations: tuple[str, ...]) -> tuple[str, ...]:
        places = tuple(place.rstrip("/") for place in destinations)
        wrong = [place for place in places if not _PLACE.fullmatch(place)]
        if wrong:
            raise ValueError(f"not hf://owner/name, s3://bucket/prefix, gs://bucket/prefix or a folder: {wrong}")
        if len(set(places)) < len(places):
            raise ValueError("a destination is named twice")
        return places


class Run(_Section):
    """What every run has."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    seed: int = 17
    folder: Path
    quantize: QuantizeConfig = QuantizeConfig()
    publish: PublishConfig = PublishConfig()


class ScratchRun(Run):
    """A model from scratch, start to end."""

    model: Path = Field(description="Where the finished GGUF goes.")
    synthesise: SynthesiseConfig
    tokenizer: TokenizerConfig
    pretrain: PretrainConfig
    evaluate: EvaluateConfig


class TuneRun(Run):
    """A fine-tune of a base model, start to end."""

    base: BaseModelConfig
    prepare: PrepareConfig
    qlora: QloraConfig = QloraConfig()
    evaluate: GateConfig = GateConfig()


def load_config(path: Path) -> ScratchRun | TuneRun:
    """Read a YAML configuration; one with a `base` section is a fine-tune.

    Raises:
        ConfigError: with every problem in the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "base" in content:
            return TuneRun.model_validate(content)
        return ScratchRun.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def load_scratch(path: Path) -> ScratchRun:
    """The same, for a model from scratch.

    Raises:
        ConfigError: with every problem in the file, or because it describes a fine-tune.
    """
    run = load_config(path)
    if isinstance(run, TuneRun):
        raise ConfigError(f"{run.name} is a fine-tune; its stages are: {', '.join(TUNE_STAGES)}")
    return run


def load_tune(path: Path) -> TuneRun:
    """The same, for a fine-tune.

    Raises:
        ConfigError: with every problem in the file, or because it describes a model from scratch.
    """
    run = load_config(path)
    if isinstance(run, ScratchRun):
        raise ConfigError(f"{run.name} is a model from scratch; its stages are: {', '.join(SCRATCH_STAGES)}")
    return run


def config_from_args(description: str) -> ScratchRun | TuneRun:
    """The configuration named on the command line of a stage: `--config training/configs/mini.yaml`."""
    return load_config(_path_from_args(description))


def scratch_from_args(description: str) -> ScratchRun:
    """The same, for a stage of a model from scratch."""
    return load_scratch(_path_from_args(description))


def tune_from_args(description: str) -> TuneRun:
    """The same, for a stage of a fine-tune."""
    return load_tune(_path_from_args(description))


def _path_from_args(description: str) -> Path:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    path: Path = parser.parse_args().config
    return path
