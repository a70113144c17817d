"""Judge the finished GGUF through the real engine and the real guard, on unseen consultations; publish it or refuse.

Half of the consultations are about pathologies that were never in training, all in wordings kept out of it. A model
below a floor of the configuration is not copied to its place. The figures go to `evaluation.json`.

    python -m training.evaluate --config training/configs/mini.yaml
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.core.facts import Facts
from backend.core.guard import Guard, Refusal, load_guard, split_reply
from backend.core.knowledge import load
from backend.core.prompt import slot_values
from backend.engine.host import usable_cpus
from backend.engine.llama import LlamaModel
from backend.engine.manifest import manifest_path
from training.artefacts import read_input, say, write_manifest
from training.config import EvaluateConfig, ScratchRun, scratch_from_args
from training.errors import TrainingError
from training.paths import command_of, evaluation_path, held_out_path, quantized_path
from training.synthesise import facts_from_json, pieces_of

_REPLY_TOKENS = 256
_CONTEXT_TOKENS = 1024


def main() -> None:
    """Run the stage."""
    run = scratch_from_args(__doc__ or "")
    source = quantized_path(run)
    read_input(source, command_of("quantize"))
    read_input(held_out_path(run), command_of("synthesise"))
    examples = [json.loads(line) for line in held_out_path(run).read_text(encoding="utf-8").splitlines()]
    figures, replies = evaluate(source, examples)
    report = evaluation_path(run)
    report.write_text(
        json.dumps({**figures, "replies": replies}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    write_manifest(report, "evaluate", [source, held_out_path(run)], run.evaluate, run.seed)
    for key, value in figures.items():
        say(f"evaluate: {key} = {value}")
    problems = gate(figures, run.evaluate)
    if problems:
        raise TrainingError("the model is not good enough, nothing was published:\n" + "\n".join(problems))
    publish(source, run)


def evaluate(model_file: Path, examples: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures over all examples, and the replies as they came."""
    guard = load_guard(load())
    model = LlamaModel(model_file, _CONTEXT_TOKENS, usable_cpus(os.environ))
    replies = []
    started = time.monotonic()
    for example in examples:
        facts = facts_from_json(example["facts"])
        slots = slot_values(facts)
        text = "".join(
            slots.get(p, p) for p in model.generate(model.encode(pieces_of(example)), _REPLY_TOKENS, lambda: False)
        )
        replies.append(
            {"origin": example["origin"], "text": example["text"], "reply": text, **judge(text, facts, guard)}
        )
    seconds = time.monotonic() - started
    model.close()
    with_cause = [r for r in replies if r["first_cause_named"] is not None]
    figures = {
        "n": len(replies),
        "accepted_whole": sum(r["accepted"] for r in replies) / len(replies),
        "first_cause_named": sum(r["first_cause_named"] for r in with_cause) / max(1, len(with_cause)),
        "urgency_contradicted": sum(r["urgency_contradicted"] for r in replies),
        "three_to_six_sentences": sum(3 <= r["sentences"] <= 6 for r in replies) / len(replies),
        "distinct_first_sentences": len({r["reply"].split(".")[0] for r in replies}),
        "refusals": dict(Counter(r["refused"] for r in replies if r["refused"])),
        "seconds_per_reply": round(seconds / len(replies), 3),
    }
    return figures, replies


def judge(text: str, facts: Facts, guard: Guard) -> dict[str, Any]:
    """What the service would make of a reply."""
    sentences = split_reply(text)
    refused = next((r for s in sentences if (r := guard.refuse(s, facts)) is not None), None)
    stated = guard.states_action(sentences, facts.level)
    named = facts.causes[0] in text if facts.causes else None
    return {
        "refused": refused.value if refused else None,
        "accepted": refused is None and stated and named is not False,
        "first_cause_named": named,
        "urgency_contradicted": refused is Refusal.URGENCY or not stated,
        "sentences": len(sentences),
    }


def gate(figures: dict[str, Any], floors: EvaluateConfig) -> list[str]:
    """Why the model must not be published; empty when it may."""
    problems = []
    for key in ("accepted_whole", "first_cause_named"):
        if figures[key] < getattr(floors, key):
            problems.append(f"{key} is {figures[key]:.3f}, the floor is {getattr(floors, key)}")
    if figures["urgency_contradicted"] > floors.most_urgency_contradictions:
        problems.append(f"urgency contradicted {figures['urgency_contradicted']} times")
    return problems


def publish(source: Path, run: ScratchRun) -> None:
    """Copy the model and its manifest to where the server looks for them."""
    run.model.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, run.model)
    shutil.copy(manifest_path(source), manifest_path(run.model))
    say(f"evaluate: {run.model} published")


if __name__ == "__main__":
    main()
