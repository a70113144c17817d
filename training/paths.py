"""Where a run keeps what its stages make, and the command that makes it; no stage is imported for that."""

from __future__ import annotations

from pathlib import Path

from training.config import RunConfig


def command_of(stage: str) -> str:
    """The command that runs a stage, for messages."""
    return f"python -m training.{stage} --config <configuration>"


def tokenizer_path(run: RunConfig) -> Path:
    """Where a run keeps its sentencepiece model."""
    return run.folder / "tokenizer.model"


def model_path(run: RunConfig) -> Path:
    """Where a run keeps its Hugging Face model folder."""
    return run.folder / "hf"


def gguf_path(run: RunConfig) -> Path:
    """Where a run keeps its F16 GGUF."""
    return run.folder / "model-f16.gguf"


def quantized_path(run: RunConfig) -> Path:
    """Where a run keeps its Q4_K_M GGUF before evaluation."""
    return run.folder / f"{run.name}-Q4_K_M.gguf"
