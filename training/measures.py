"""The same held-out items given to every model of a fine-tune, and the figures of each.

What is measured of a model is kept in `evaluation.part.json` at once: a killed evaluation goes on with the next model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.core.facts import Facts
from backend.core.guard import Guard
from training.artefacts import say, sha256
from training.compare import context_for
from training.config import TuneRun
from training.contestants import Contestant, GgufContestant, load_base, load_merged, load_tuned
from training.errors import TrainingError
from training.items import Item, Reader, read_rows
from training.judging import dose_questions, holds_dose, is_french, judge, mean_loss, share
from training.paths import adapter_path, held_out_path, model_path, quantized_path
from training.synthesise import facts_from_json


@dataclass(frozen=True, slots=True)
class Consultation:
    """What a patient wrote, the facts about it, and the prompt that the server would make."""

    text: str
    facts: Facts
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that each model is asked."""

    items: tuple[Item, ...]
    consultations: tuple[Consultation, ...]
    dose_questions: tuple[Consultation, ...]

    def context(self, reply_tokens: int) -> int:
        """Tokens that hold the longest item or prompt with its reply."""
        prompts = [Item(one.prompt, ()) for one in (*self.consultations, *self.dose_questions)]
        return max(context_for(self.items), context_for(prompts, reply_tokens))


def make_plan(run: TuneRun, reader: Reader) -> Plan:
    """Held-out rows for the loss, those with facts for replies, and the same patients asking for a dose.

    Raises:
        TrainingError: no held-out row has facts, so that no reply can be judged.
    """
    rows = read_rows(held_out_path(run))
    known = [(facts_from_json(row["facts"]), str(row["text"])) for row in rows if "facts" in row]
    if not known:
        raise TrainingError(
            f"{held_out_path(run)}: no row has facts, so no reply can be judged; add a `synthesised` source to prepare"
        )
    asked = [
        (facts, f"{text} {question}")
        for (facts, text), question in zip(
            _cycle(known, run.evaluate.dose_questions),
            _cycle(dose_questions(), run.evaluate.dose_questions),
            strict=True,
        )
    ]
    return Plan(
        tuple(reader.item(row) for row in _spread(rows, run.evaluate.items)),
        tuple(Consultation(text, facts, reader.prompt(facts, text)) for facts, text in known[: run.evaluate.replies]),
        tuple(Consultation(text, facts, reader.prompt(facts, text)) for facts, text in asked),
    )


def measure_all(run: TuneRun, reader: Reader, guard: Guard, threads: int) -> dict[str, dict[str, Any]]:
    """Figures and replies of base, tuned, merged and each quantization."""
    plan = make_plan(run, reader)
    context = plan.context(run.evaluate.reply_tokens)
    makers: dict[str, Callable[[], Contestant]] = {
        "base": lambda: load_base(run, reader.end_ids),
        "tuned": lambda: load_tuned(run, reader.end_ids),
        "merged": lambda: load_merged(run, reader.end_ids),
    }
    inputs: dict[str, list[Path]] = {"base": [], "tuned": [adapter_path(run)], "merged": [model_path(run)]}
    for kind in run.quantize.types:
        file = quantized_path(run, kind)
        makers[kind] = partial(GgufContestant, file, context, threads)
        inputs[kind] = [file]
    kept = run.folder / "evaluation.part.json"
    known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    asked = [
        sha256(held_out_path(run)),
        run.evaluate.model_dump(mode="json"),
        run.base.model_dump(mode="json"),
        run.seed,
    ]
    figures = {}
    for name, make in makers.items():
        key = json.dumps([name, asked, [sha256(path) for path in inputs[name]]], sort_keys=True)
        if key not in known:
            contestant = make()
            known[key] = measure(contestant, plan, reader, guard, run, name)
            contestant.close()
            kept.write_text(json.dumps(known, ensure_ascii=False) + "\n", encoding="utf-8")
        figures[name] = known[key]
        say(f"evaluate: {summary(name, figures[name])}")
    return figures


def measure(
    contestant: Contestant, plan: Plan, reader: Reader, guard: Guard, run: TuneRun, name: str
) -> dict[str, Any]:
    """The figures of one model, and its replies as they came."""
    losses = [contestant.loss(item) for item in tqdm(plan.items, desc=f"{name}: loss", unit="row", leave=False)]
    replies, tokens, ended = [], 0, []
    started = time.monotonic()
    asked = [*plan.consultations, *plan.dose_questions]
    for one in tqdm(asked, desc=f"{name}: replies", unit="reply", leave=False):
        ids, stopped = contestant.reply(one.prompt, run.evaluate.reply_tokens)
        text = reader.text(ids, one.facts)
        tokens += len(ids)
        ended.append(stopped)
        dose = holds_dose(text, one.facts, guard)
        replies.append(
            {"text": one.text, "reply": text, "ended": stopped, "dose": dose, **judge(text, one.facts, guard)}
        )
    seconds = time.monotonic() - started
    consulted, dosed = replies[: len(plan.consultations)], replies[len(plan.consultations) :]
    return {
        "loss": mean_loss(losses, [len(item.reply) for item in plan.items], run.seed),
        "accepted": share([row["accepted"] for row in consulted]),
        "urgency_contradictions": sum(row["urgency_contradicted"] for row in consulted),
        "stop_rate": share(ended),
        "french": share([is_french(row["reply"]) for row in consulted]),
        "dosage_refusals": share([not row["dose"] for row in dosed]),
        "tokens_per_s": round(tokens / max(seconds, 1e-9), 1),
        "replies": replies,
    }


def summary(name: str, figures: dict[str, Any]) -> str:
    """One line about a model."""
    shares = " ".join(
        f"{key} {figures[key]['share']:.0%} [{figures[key]['low']:.0%}-{figures[key]['high']:.0%}]"
        for key in ("accepted", "stop_rate", "french", "dosage_refusals")
    )
    loss = figures["loss"]
    return (
        f"{name}: loss {loss['loss']:.4f} [{loss['low']:.4f}-{loss['high']:.4f}] {shares} "
        f"urgency contradicted {figures['urgency_contradictions']} {figures['tokens_per_s']} tokens/s"
    )


def _cycle(values: Sequence[Any], wanted: int) -> Iterator[Any]:
    return (values[index % len(values)] for index in range(wanted))


def _spread(rows: Sequence[dict[str, Any]], wanted: int) -> list[dict[str, Any]]:
    step = max(1, len(rows) // wanted)
    return list(rows[::step][:wanted])
