"""Judge a finished model on held-out items, pass it through the gate, and write both down in `evaluation.json`.

A model from scratch is judged through the real engine and the real guard against absolute floors (half of the
consultations are about pathologies that were never in training, all in wordings kept out of it) and then copied to its
place. A fine-tune is compared with its base on the same items: base, adapter, merged and every quantization. A model
that fails is published nowhere, and the command says why.

    python -m training.evaluate --config training/configs/mini.yaml
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.core.guard import load_guard
from backend.core.knowledge import load
from backend.engine.host import usable_cpus
from backend.engine.llama import LlamaModel, quiet
from backend.engine.manifest import manifest_path
from training.artefacts import is_done, read_input, say, write_manifest
from training.config import EvaluateConfig, Run, ScratchRun, TuneRun, config_from_args
from training.embedded import evaluate
from training.errors import TrainingError
from training.gate import divergence_problems, measure_problems, slot_token_problems, template_problems, token_problems
from training.items import ChatReader, SlotReader, reader_of
from training.paths import (
    adapter_path,
    command_of,
    comparison_path,
    evaluation_path,
    held_out_path,
    model_path,
    quantized_path,
)

_REPLY_TOKENS = 256
_CONTEXT_TOKENS = 1024


def main() -> None:
    """Run the stage.

    Raises:
        TrainingError: the gate refuses the model.
    """
    run = config_from_args(__doc__ or "")
    quiet()
    if isinstance(run, TuneRun):
        inputs = [held_out_path(run), adapter_path(run), model_path(run)]
        for path, stage in zip(inputs, ("prepare", "qlora", "merge"), strict=True):
            read_input(path, command_of(stage))
        files = [quantized_path(run, kind) for kind in run.quantize.types]
    else:
        inputs, files = [held_out_path(run)], [quantized_path(run)]
        read_input(held_out_path(run), command_of("synthesise"))
    inputs += [*files, comparison_path(run)]
    for path in (*files, comparison_path(run)):
        read_input(path, command_of("quantize"))
    report = evaluation_path(run)
    if is_done(report, inputs, run.evaluate, run.seed):
        say("evaluate: nothing to do")
    else:
        found = judge_fine_tune(run) if isinstance(run, TuneRun) else judge_from_scratch(run)
        report.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        write_manifest(report, "evaluate", inputs, run.evaluate, run.seed)
        (run.folder / "evaluation.part.json").unlink(missing_ok=True)
    verdict = json.loads(report.read_text(encoding="utf-8"))
    if not verdict["passed"]:
        raise TrainingError("the model is not good enough, nothing was published:\n" + "\n".join(verdict["problems"]))
    say(f"evaluate: the gate is passed, {report}")
    if isinstance(run, ScratchRun):
        publish(files[0], run)


def judge_fine_tune(run: TuneRun) -> dict[str, Any]:
    """Verdict and figures of a fine-tune; the cheap checks first, so that hours are not spent on a broken file."""
    from training.measures import measure_all  # noqa: PLC0415 - loads peft and bitsandbytes, for a fine-tune only

    reader = reader_of(run)
    problems = identity_problems(run, [quantized_path(run, kind) for kind in run.quantize.types])
    comparison = _comparison(run)
    if problems:
        return {"passed": False, "problems": problems, "contestants": {}, **comparison}
    figures = measure_all(run, reader, load_guard(load()), usable_cpus(os.environ))
    problems = [*measure_problems(figures, run.evaluate), *divergence_problems(comparison, run.evaluate.most_kl)]
    return {"passed": not problems, "problems": problems, "contestants": figures, **comparison}


def judge_from_scratch(run: ScratchRun) -> dict[str, Any]:
    """Verdict and figures of a model from scratch."""
    source = quantized_path(run)
    made = read_input(held_out_path(run), command_of("synthesise"))
    examples = [json.loads(line) for line in held_out_path(run).read_text(encoding="utf-8").splitlines()]
    figures, replies = evaluate(source, examples, made["held_out_pathologies"])
    for key, value in figures.items():
        say(f"evaluate: {key} = {value}")
    comparison = _comparison(run)
    problems = [
        *identity_problems(run, [source]),
        *gate(figures, run.evaluate),
        *divergence_problems(comparison, run.evaluate.most_kl),
    ]
    return {"passed": not problems, "problems": problems, **figures, **comparison, "replies": replies}


def identity_problems(run: Run, files: Sequence[Path]) -> list[str]:
    """Whether each file reads the prompts that training wrote: same ids, same template."""
    reader = reader_of(run)
    problems: list[str] = []
    for file in files:
        server = LlamaModel(file, _CONTEXT_TOKENS, 1)
        if isinstance(reader, ChatReader):
            problems += [*token_problems(file, reader, server.encode), *template_problems(file, reader)]
        elif isinstance(reader, SlotReader):
            problems += slot_token_problems(file, reader, server.encode)
        server.close()
    return problems


def gate(figures: dict[str, Any], floors: EvaluateConfig) -> list[str]:
    """Which absolute floors the figures miss."""
    problems = []
    for key in ("accepted_whole", "first_cause_named", "accepted_unseen"):
        value = figures.get(key)
        if value is not None and value < getattr(floors, key):
            problems.append(f"{key} is {value:.3f}, the floor is {getattr(floors, key)}")
    if figures["urgency_contradicted"] > floors.most_urgency_contradictions:
        problems.append(f"urgency contradicted {figures['urgency_contradicted']} times")
    return problems


def publish(source: Path, run: ScratchRun) -> None:
    """Copy the model and its manifest to where the server looks for them."""
    run.model.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, run.model)
    shutil.copy(manifest_path(source), manifest_path(run.model))
    say(f"evaluate: {run.model} published")


def _comparison(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(comparison_path(run).read_text(encoding="utf-8"))
    return {"quantizations": content["quantizations"]}


if __name__ == "__main__":
    main()
