"""A fine-tune small enough for tests, as `prepare`, `qlora` and `merge` leave it, made without running them."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from backend.core.prompt import SYSTEM_PROMPT, Style, user_text
from tests.training.bases import make_llama_base, make_phi3_base
from tests.training.conftest import ROOT
from training.artefacts import write_manifest
from training.config import TuneRun, load_tune
from training.items import reader_of
from training.paths import adapter_path, held_out_path, model_path, train_path
from training.replies import spell_out
from training.synthesise import facts_from_json

BASES: dict[Style, tuple[Callable[[Path], Path], str]] = {
    Style.PHI3: (make_phi3_base, "Phi-3-mini-4k-instruct-doctis"),
    Style.ZEPHYR: (make_llama_base, "tinyllama-doctis"),
}


@dataclass(frozen=True)
class Tuned:
    """A configuration and the file it stands in."""

    config: Path

    @property
    def run(self) -> TuneRun:
        """The loaded configuration."""
        return load_tune(self.config)

    def copy(self, folder: Path, **sections: dict[str, Any]) -> Tuned:
        """The same run in another folder, with sections changed; what was made is copied, and may be spoilt."""
        content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        for section, changes in sections.items():
            content[section] = content.get(section, {}) | changes
        shutil.copytree(self.run.folder, folder / "run", ignore=shutil.ignore_patterns("evaluation*"))
        content["folder"] = str(folder / "run")
        path = folder / "tuned.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return Tuned(path)


_MADE: dict[tuple[Style, Path], Tuned] = {}


def run_stage(name: str, tuned: Tuned) -> None:
    """A stage in this process, with the command line of a person."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [name, "--config", str(tuned.config)])
        patch.setenv("RENDER_CPU_COUNT", "1")
        importlib.import_module(f"training.{name}").main()


def quantized(style: Style, folders: pytest.TempPathFactory, synthesised: Path) -> Tuned:
    """A run of that style down to its quantized models, made once a session; the converter as `trained` has it."""
    if (style, synthesised) in _MADE:
        return _MADE[style, synthesised]
    folder = folders.mktemp(style.value)
    tuned = make_tuned(folder, style, synthesised)
    share_converter(tuned.run.folder.parent)
    run_stage("to_gguf", tuned)
    run_stage("quantize", tuned)
    _MADE[style, synthesised] = tuned
    return tuned


def share_converter(folder: Path) -> None:
    """Let the runs of a folder use the repository's converter and its environment, if there are."""
    name = f"llama.cpp-{metadata.version('llama-cpp-python')}"
    if (ROOT / "runs" / name).is_dir() and not (folder / name).exists():
        (folder / name).symlink_to(ROOT / "runs" / name)


def make_tuned(folder: Path, style: Style, synthesised: Path, steps: int = 12) -> Tuned:
    """Base, rows, adapter and merged model of a run of that style; `synthesised` are rows of `synthesise`."""
    maker, gguf_name = BASES[style]
    base = maker(folder / "base")
    content = {
        "name": f"doctis-ai-{style.value}", "folder": str(folder / "runs" / style.value),
        "base": {"model": str(base), "style": style.value, "gguf_name": gguf_name, "licence": "mit"},
        "prepare": {"sources": [{"kind": "synthesised", "licence": "mit"}]},
        "quantize": {"compare_tokens": 4_000},
        "evaluate": {"items": 4, "replies": 2, "dose_questions": 2, "reply_tokens": 8, "french_margin": 1.0,
                     "stop_rate_margin": 1.0, "contradictions_margin": 2, "dosage_refusal_margin": 1.0,
                     "most_kl": 1.0},
    }  # fmt: skip
    config = folder / "tuned.yaml"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    tuned = Tuned(config)
    run = tuned.run
    run.folder.mkdir(parents=True)
    rows = [_chat_row(json.loads(line)) for line in synthesised.read_text(encoding="utf-8").splitlines()]
    for path, part in ((train_path(run), rows[4:]), (held_out_path(run), rows[:4])):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8")
        write_manifest(path, "prepare", [], {}, run.seed)
    _train(run, base, rows[4:], steps)
    return tuned


def _chat_row(row: dict[str, Any]) -> dict[str, Any]:
    facts = facts_from_json(row["facts"])
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": user_text(facts, row["text"])},
        {"role": "assistant", "content": spell_out(row["reply"], facts)},
    ]
    return {"id": row["text"][:20], "source": "synthesised", "language": "fr", "messages": messages} | {
        "facts": row["facts"], "text": row["text"],
    }  # fmt: skip


def _train(run: TuneRun, base: Path, rows: list[dict[str, Any]], steps: int) -> None:
    """A few steps of LoRA in fp32, saved as an adapter and merged; the tokenizer's files come from the base."""
    shutil.copytree(base, model_path(run))
    items = [reader_of(run).item(row) for row in rows[:4]]
    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        item = items[step % len(items)]
        ids = torch.tensor([[*item.prompt, *item.reply]])
        labels = ids.clone()
        labels[0, : len(item.prompt)] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(adapter_path(run))
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(model_path(run))
    write_manifest(adapter_path(run), "qlora", [], {}, run.seed)
    write_manifest(model_path(run), "merge", [], {}, run.seed)
