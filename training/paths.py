"""Where a run keeps what its stages make, and the command that makes it; no stage is imported for that."""

from __future__ import annotations

from pathlib import Path

from training.config import Run


def command_of(stage: str) -> str:
    """The command that runs a stage, for messages."""
    return f"python -m training.{stage} --config <configuration>"


def train_path(run: Run) -> Path:
    """Rows to train on (`synthesise` or `prepare`)."""
    return run.folder / "train.jsonl"


def held_out_path(run: Run) -> Path:
    """Rows kept out of training."""
    return run.folder / "held_out.jsonl"


def rejects_path(run: Run) -> Path:
    """Every row that was dropped: file, line and reason."""
    return run.folder / "rejects.jsonl"


def licences_path(run: Run) -> Path:
    """Per source: licence, attribution, hash and counts."""
    return run.folder / "licences.json"


def card_path(run: Run) -> Path:
    """The description of the data, for people."""
    return run.folder / "data_card.md"


def tokenizer_path(run: Run) -> Path:
    """The sentencepiece model of a run from scratch."""
    return run.folder / "tokenizer.model"


def adapter_path(run: Run) -> Path:
    """The LoRA adapter of a fine-tune."""
    return run.folder / "adapter"


def checkpoints_path(run: Run) -> Path:
    """Checkpoints of the training in progress."""
    return run.folder / "checkpoints"


def model_path(run: Run) -> Path:
    """The 16-bit Hugging Face model folder: trained from scratch, or merged."""
    return run.folder / "hf"


def gguf_path(run: Run) -> Path:
    """The F16 GGUF."""
    return run.folder / "model-f16.gguf"


def quantized_path(run: Run, kind: str = "Q4_K_M") -> Path:
    """A quantized GGUF, before the gate."""
    return run.folder / f"{run.name}-{kind}.gguf"


def comparison_path(run: Run) -> Path:
    """Sizes, tensor types, perplexity and KL divergence of every quantization, as JSON."""
    return run.folder / "quantizations.json"


def evaluation_path(run: Run) -> Path:
    """The figures of `evaluate` and the gate's verdict, as JSON."""
    return run.folder / "evaluation.json"
