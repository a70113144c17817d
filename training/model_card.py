"""The model card of a release: `README.md` with the Hub's metadata, every figure from the run's own JSON files.

What a run did not record is said to be not recorded. Only names of files and data sets stand in it, no path of a
machine, no text of a consultation, and no date: the same release gives the same card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from backend.core.prompt import Style
from backend.engine.manifest import Manifest
from training.artefacts import manifest_of
from training.config import Run, ScratchRun, SourceKind, TuneRun
from training.paths import adapter_path, licences_path, model_path

NOT_A_DEVICE = "Not a medical device, not for diagnosis"
_OWN_LICENCE = "mit"
# Of https://huggingface.co/docs/hub/repositories-licenses, those that models and their data usually have.
_HUB_LICENCES = frozenset({
    "mit", "apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "gpl-3.0", "llama2", "llama3", "llama3.1", "llama3.2", "gemma", "openrail", "unknown",
})  # fmt: skip
_NOT_RECORDED = "not recorded"
_PURPOSE = (
    "This model puts the facts that Doctis AI has established into French words. No clinician has reviewed what it "
    "writes."
)
_ALWAYS = f"""\
- {NOT_A_DEVICE}: it must not decide on care. In an emergency in France call the 15 (or 112, or 114 by SMS).
- It is meant to run behind Doctis AI, whose rules set the urgency and whose guard refuses sentences that lower it, add
  a cause, a drug or a dose. Without them its text is unchecked.
- It writes French. The figures hold for the held-out items above and for these files; nothing was tried with patients.
- All figures stand in `figures.json`."""


@dataclass(frozen=True, slots=True)
class Model:
    """A quantized file with its hash, its size in bytes and its manifest."""

    kind: str
    file: Path
    sha256: str
    size: int
    card: Manifest


def write_card(
    path: Path, run: Run, models: Sequence[Model], served: Model, verdict: Mapping[str, Any],
    comparison: Mapping[str, Any], repository: str | None,
) -> Path:  # fmt: skip
    """Write the card; `repository` is where the Hub will have it, if it will."""
    trained = json.loads(manifest_of(_trained_path(run)).read_text(encoding="utf-8"))
    licences = licences_path(run)
    data = json.loads(licences.read_text(encoding="utf-8"))["sources"] if licences.is_file() else None
    body = "\n".join([
        f"# {run.name}", "",
        f"> **{NOT_A_DEVICE}.** {_PURPOSE}", "",
        _origin(run), "",
        "## Files", "", *_files(models, comparison), "",
        "## How to serve it", "", *_serving(served, repository), "",
        "## Figures", "", *_figures(verdict), "", f"Limits of the gate: {_gate(run)}.", "",
        "### What quantization costs", "", *_quantization(comparison), "",
        "## Data", "", *_data(run, data), "",
        "## Training", "", *_training(run, trained, served), "",
        "## Limits", "", *_limits(verdict, data), "",
    ])  # fmt: skip
    card = ModelCard(f"---\n{_metadata(run, data, licence_of(run)).to_yaml()}\n---\n\n{body}")
    path.write_text(str(card).rstrip() + "\n", encoding="utf-8", newline="\n")
    return path


def licence_of(run: Run) -> str:
    """The licence of the model: the configuration's, the base's, or our own."""
    return run.publish.licence or (run.base.licence if isinstance(run, TuneRun) else _OWN_LICENCE)


def base_name(run: TuneRun) -> str:
    """What the base is called; a folder by its last part."""
    return Path(run.base.model).name if _is_folder(run.base.model) else run.base.model


def _is_folder(model: str) -> bool:
    return model.count("/") != 1 or Path(model).is_dir() or model.startswith((".", "/", "~"))


def _trained_path(run: Run) -> Path:
    return adapter_path(run) if isinstance(run, TuneRun) else model_path(run)


def _metadata(run: Run, data: Sequence[Mapping[str, Any]] | None, licence: str) -> ModelCardData:
    known = licence.lower() in _HUB_LICENCES
    base = base_name(run) if isinstance(run, TuneRun) and not _is_folder(run.base.model) else None
    sets = [str(source["name"]) for source in data or () if str(source["name"]).count("/") == 1]
    return ModelCardData(
        language=["fr"],
        license=licence.lower() if known else "other",
        license_name=None if known else licence,
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=sets or None,
        library_name="gguf",
        pipeline_tag="text-generation",
        tags=["gguf", "llama.cpp", "medical", "french", "doctis-ai"],
    )


def _origin(run: Run) -> str:
    if not isinstance(run, TuneRun):
        return "A Llama-architecture model trained from scratch on synthesised consultations; no downloaded weights."
    revision = f" at revision `{run.base.revision}`" if run.base.revision else ""
    return (
        f"{base_name(run)}{revision} ({run.base.licence}), fine-tuned with QLoRA, merged in 16 bits and quantized with "
        "llama.cpp. Published only because it passed the gate: no measure below is worse than the base's beyond its "
        "margin."
    )


def _files(models: Sequence[Model], comparison: Mapping[str, Any]) -> list[str]:
    rows = []
    for model in models:
        types = comparison["quantizations"].get(model.kind, {}).get("types", {})
        told = ", ".join(f"{count} {name}" for name, count in types.items()) or _NOT_RECORDED
        rows.append([f"`{model.file.name}`", f"{model.size / 2**20:.1f}", told, f"`{model.sha256}`"])
    odd = comparison.get("odd_rows") or []
    note = f"Tensors with rows that are no multiple of 256, stored as a larger type: {len(odd)}." if odd else ""
    beside = "Beside each lies its manifest (`.gguf.json`). `sha256sum -c SHA256SUMS` checks a download."
    return [*_table(["file", "MiB", "tensors", "SHA-256"], rows), "", f"{beside} {note}".strip()]


def _serving(served: Model, repository: str | None) -> list[str]:
    name = served.file.name
    if repository:
        lines = [f"DOCTIS_MODEL_REPO={repository}", f"DOCTIS_MODEL_FILE={name}"]
    else:
        lines = [f"DOCTIS_MODEL_PATH=models/{name}"]
    lines += [f"DOCTIS_MODEL_SHA256={served.sha256}", f"DOCTIS_MODEL_PROMPT={served.card.style.value}"]
    if served.card.style is Style.SLOTS:
        other = "It answers in slots that only Doctis AI fills in: other runtimes show placeholders."
    else:
        other = (
            "In another runtime, give it messages and let the chat template of the file write the prompt: one of "
            "another family, or a second beginning-of-text token, makes it worse."
        )
    told = "Settings of Doctis AI; pin `DOCTIS_MODEL_REVISION` to a commit." if repository else "Settings of Doctis AI:"
    return [told, "", "```bash", *lines, "```", "", other]


def _figures(verdict: Mapping[str, Any]) -> list[str]:
    contestants = verdict.get("contestants")
    if not contestants:
        rows = [[key.replace("_", " "), _cell(value)] for key, value in verdict.items() if _is_figure(key, value)]
        told = "Held-out consultations, replies of the served file judged by the service's guard."
        return [told, "", *_table(["measure", "value"], rows)]
    keys = [key for key, value in next(iter(contestants.values())).items() if _is_figure(key, value)]
    rows = [[name, *(_cell(figures.get(key)) for key in keys)] for name, figures in contestants.items()]
    told = "The same held-out items for every model, with 95 % intervals; loss in nats per token of the reply."
    return [told, "", *_table(["model", *(key.replace("_", " ") for key in keys)], rows)]


def _gate(run: Run) -> str:
    limits = run.evaluate if isinstance(run, (TuneRun, ScratchRun)) else None
    return _listed(limits.model_dump(mode="json") if limits else {})


def _is_figure(key: str, value: object) -> bool:
    if isinstance(value, Mapping):
        return "share" in value or "loss" in value
    return key != "passed" and isinstance(value, (int, float))


def _cell(value: Any) -> str:  # noqa: ANN401 - any figure of the evaluation
    if value is None:
        return "not measured"
    if isinstance(value, Mapping):
        if value.get("share") is not None:
            return f"{value['share']:.1%} [{value['low']:.0%}, {value['high']:.0%}], n = {value['n']}"
        if value.get("loss") is not None:
            return f"{value['loss']:.4f} [{value['low']:.4f}, {value['high']:.4f}], n = {value['n']}"
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _quantization(comparison: Mapping[str, Any]) -> list[str]:
    quantized = comparison["quantizations"]
    rows = [
        [
            kind, f"{row['bytes'] / 2**20:.1f}", f"{row['perplexity']:.4f}", f"{row['mean_kl']:.5f}",
            f"{row['p99_kl']:.5f}", f"{row['same_top']:.2%}",
        ]
        for kind, row in quantized.items()
    ]  # fmt: skip
    first = next(iter(quantized.values()))
    rows.append(
        ["F16", f"{comparison['f16']['bytes'] / 2**20:.1f}", f"{first['f16_perplexity']:.4f}", "0", "0", "100%"]
    )
    heads = ["type", "MiB", "perplexity", "mean KL", "99th percentile KL", "same likeliest token"]
    told = f"On {comparison['replies']} held-out replies; KL divergence against F16 in nats per token."
    return [told, "", *_table(heads, rows)]


def _data(run: Run, data: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if isinstance(run, ScratchRun):
        drawn = run.synthesise
        told = (
            f"{drawn.consultations} consultations and {drawn.invented} examples of invented words, synthesised from "
            f"the knowledge base of Doctis AI ({_OWN_LICENCE}); {drawn.held_out} consultations and "
            f"{drawn.held_out_pathologies} pathologies were kept out of training. No patient data."
        )
        return [told]
    if not data:
        return [f"Sources and licences: {_NOT_RECORDED}."]
    rows = [
        [
            source["name"], source["licence"], source.get("attribution") or "", source.get("revision") or "",
            source["read"], source["train_rows"], source["held_out_rows"],
        ]
        for source in data
    ]  # fmt: skip
    heads = ["source", "licence", "attribution", "revision", "rows read", "trained on", "held out"]
    return [*_table(heads, rows), "", "Each source keeps its licence; `data_card.md` says what was done to the rows."]


def _training(run: Run, made: Mapping[str, Any], served: Model) -> list[str]:
    settings = run.qlora if isinstance(run, TuneRun) else run.pretrain if isinstance(run, ScratchRun) else None
    hyper = _listed(settings.model_dump(mode="json") if settings else {})
    seconds, device = made.get("seconds"), made.get("device")
    took = f"{seconds / 60:.0f} minutes" if seconds is not None else f"time {_NOT_RECORDED}"
    processes = made.get("processes")
    where = f"on {device}" if device else f"hardware {_NOT_RECORDED}"
    where += f", {processes} processes" if processes and processes > 1 else ""
    versions = {"python": made.get("python"), **made.get("tools", {}), **made.get("libraries", {})}
    facts = {
        "precision": made.get("precision"),
        "rows": made.get("rows"),
        "tokens": made.get("tokens"),
        "steps": made.get("steps"),
        "parameters": made.get("parameters"),
        "trainable parameters": made.get("trainable_parameters"),
        "held-out loss before": made.get("held_out_loss_of_base"),
        "held-out loss after": made.get("held_out_loss"),
    }
    origin = {
        "seed": run.seed,
        "commit": f"`{made.get('commit') or _NOT_RECORDED}`",
        "prompt": f"`{served.card.prompt_id}`",
        "tokenizer SHA-256": f"`{served.card.tokenizer_sha256}`",
    }
    return [
        f"- Time and hardware: {took}, {where}.",
        f"- Hyper-parameters: {hyper}.",
        f"- Facts: {_listed(facts)}.",
        f"- Versions: {_listed(versions)}.",
        f"- Origin: {_listed(origin)}.",
    ]


def _limits(verdict: Mapping[str, Any], data: Sequence[Mapping[str, Any]] | None) -> list[str]:
    lines = [_ALWAYS]
    if any(source["kind"] == SourceKind.CHATDOCTOR for source in data or ()):
        lines.append("- Answers of the forum were written in English by unknown doctors, and were not checked.")
    n = verdict.get("n")
    if isinstance(n, int) and n < 1_000:
        lines.append(f"- Judged on {n} consultations only: rare faults cannot be seen.")
    return lines


def _listed(facts: Mapping[str, Any]) -> str:
    known = [f"{key} {_cell(value)}" for key, value in facts.items() if value is not None]
    return ", ".join(known) or _NOT_RECORDED


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]
