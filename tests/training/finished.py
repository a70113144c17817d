"""A fine-tune that passed the gate, as far as `publish` looks: small files of the right names, with their manifests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from backend.core.prompt import Style, prompt_id
from backend.engine.manifest import Manifest, manifest_path, sha256_of
from training.artefacts import write_manifest
from training.config import TuneRun, load_config
from training.paths import adapter_path, comparison_path, evaluation_path, licences_path, model_path, quantized_path

NAME = "doctis-ai-tested"
SECRET = "J'ai mal à la tête depuis hier"
"""A patient's words in the evaluation; they are published nowhere."""
BASE_REVISION = "a" * 40
LICENCES: dict[str, Any] = {
    "sources": [
        {
            "kind": "medquad", "name": "lavita/MedQuAD", "revision": "b" * 40, "files": 1, "sha256": "c" * 64,
            "licence": "cc-by-4.0", "attribution": "Ben Abacha and Demner-Fushman, 2019", "read": 47441, "kept": 16000,
            "dropped": {}, "train_rows": 15500, "held_out_rows": 500, "languages": {"en": 16000},
        },
        {
            "kind": "jsonl", "name": "own.jsonl", "revision": None, "files": 1, "sha256": "d" * 64,
            "licence": "proprietary", "attribution": "", "read": 10, "kept": 9, "dropped": {}, "train_rows": 8,
            "held_out_rows": 1, "languages": {"fr": 9},
        },
    ]
}  # fmt: skip


def share(value: float) -> dict[str, Any]:
    """A share as `evaluate` writes it."""
    return {"share": value, "n": 40, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}


def contestant(loss: float) -> dict[str, Any]:
    """The figures of one model as `evaluate` writes them."""
    return {
        "loss": {"loss": loss, "n": 200, "tokens": 9000, "low": loss - 0.1, "high": loss + 0.1},
        "accepted": share(0.9), "urgency_contradictions": 0, "stop_rate": share(1.0), "french": share(1.0),
        "dosage_refusals": {"share": None, "n": 0, "low": None, "high": None}, "tokens_per_s": 12.3,
        "replies": [{"text": SECRET, "reply": "Bonjour.", "accepted": True}],
    }  # fmt: skip


def make_finished(folder: Path, **sections: dict[str, Any]) -> Path:
    """Write the run; the path of its configuration."""
    content = {
        "name": NAME, "folder": str(folder / "run"),
        "base": {"model": "microsoft/Phi-3-mini-4k-instruct", "revision": BASE_REVISION, "style": "phi3",
                 "gguf_name": "Phi-3-mini-4k-instruct-doctis", "licence": "mit"},
        "prepare": {"sources": [{"kind": "medquad", "licence": "cc-by-4.0"}]},
        "quantize": {"types": ["Q4_K_M", "Q8_0"]},
        **sections,
    }  # fmt: skip
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    run = load_config(config)
    assert isinstance(run, TuneRun)
    run.folder.mkdir()
    licences_path(run).write_text(json.dumps(LICENCES), encoding="utf-8")
    for path, stage, facts in (
        (adapter_path(run), "qlora", {"seconds": 5400, "device": "Tesla T4", "precision": "float16", "rows": 15508}),
        (model_path(run), "merge", {"parameters": 3_821_079_552}),
    ):
        path.mkdir()
        (path / "weights").write_text(stage, encoding="utf-8")
        write_manifest(path, stage, [], {}, run.seed, **facts)
    for kind in run.quantize.types:
        write_model(run, kind)
    figures = {
        kind: {"bytes": 3000, "types": {"Q4_K": 10, "F32": 5}, "perplexity": 3.1, "f16_perplexity": 3.0,
               "mean_kl": 0.012, "p99_kl": 0.4, "same_top": 0.97}
        for kind in run.quantize.types
    }  # fmt: skip
    comparison = {
        "f16": {"bytes": 9000, "types": {"F16": 15}}, "odd_rows": [], "replies": 40, "quantizations": figures,
    }  # fmt: skip
    files = [quantized_path(run, kind) for kind in run.quantize.types]
    comparison_path(run).write_text(json.dumps(comparison), encoding="utf-8")
    write_manifest(comparison_path(run), "quantize", files, run.quantize, run.seed)
    judge(run)
    return config


def write_model(run: TuneRun, kind: str, *, content: bytes | None = None, prompt: str | None = None) -> None:
    """A file that begins like a GGUF, with both of its manifests."""
    file = quantized_path(run, kind)
    file.write_bytes(content or b"GGUF" + hashlib.sha256(kind.encode()).digest() * 100)
    card = Manifest(
        name=run.name, sha256=sha256_of(file), style=Style.PHI3, prompt_id=prompt or prompt_id(Style.PHI3),
        tokenizer_sha256="e" * 64, run={"base": run.base.model},
    )  # fmt: skip
    manifest_path(file).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_manifest(file, "quantize", [], {"type": kind}, run.seed)


def judge(run: TuneRun, problems: tuple[str, ...] = ()) -> None:
    """The evaluation of the files as they are now."""
    names = ("base", "tuned", "merged", *run.quantize.types)
    comparison = json.loads(comparison_path(run).read_text(encoding="utf-8"))
    verdict = {
        "passed": not problems, "problems": list(problems), "quantizations": comparison["quantizations"],
        "contestants": {name: contestant(2.0 - i / 10) for i, name in enumerate(names)},
    }  # fmt: skip
    report = evaluation_path(run)
    report.write_text(json.dumps(verdict, ensure_ascii=False), encoding="utf-8")
    inputs = [*(quantized_path(run, kind) for kind in run.quantize.types), comparison_path(run)]
    write_manifest(report, "evaluate", inputs, run.evaluate, run.seed)
