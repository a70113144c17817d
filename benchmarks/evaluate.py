"""Every measure of understanding, ranking and urgency in one run: a dated table (Markdown, JSON) and two plots.

The project's own cases always: the base's counts, patients drawn from it (their findings as answers; a few findings and
three questions; messages in lay wordings, half of them wordings kept out of the model's training), and the embedded
model's replies. Cases from elsewhere (see `cases.py`) when a folder holds them. `--ablation` adds what each part of the
ranking brings on those.

    python -m benchmarks.evaluate [--cases FOLDER] [--ablation] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from backend.core.diagnose import Diagnoser
from backend.core.entities import NAMED, Assessment, Observation, Patient, State
from backend.core.knowledge import Knowledge, load
from backend.core.lexicon import Lexicon
from backend.core.ranking import Ranking, Scores
from backend.core.weights import Parameters
from backend.settings import EMBEDDED_MODEL
from benchmarks import consistency, interview
from benchmarks.cases import Case, Figures, assertions, diagnosis, perturbed, read_cases, urgency, wilson
from training.config import load_scratch
from training.embedded import evaluate as evaluate_replies
from training.synthesise import Synthesiser

_CONFIG = Path("training/configs/mini.yaml")
_RANKED_FILES = ("vignettes.jsonl", "ddxplus.jsonl")
_SEED = 5


def own_figures(diagnoser: Diagnoser, *, quick: bool) -> list[Figures]:
    """The measures that need nothing but the project."""
    knowledge = diagnoser.knowledge
    named = sum(finding.startswith(NAMED) for finding in knowledge.findings)
    counts = Figures("knowledge base", len(knowledge.pathologies))
    counts.counts = {
        "pathologies": len(knowledge.pathologies), "findings": len(knowledge.findings) - named,
        "wordings": sum(len(f.lay) for f in knowledge.findings.values()), "red-flag rules": len(knowledge.red_flags),
    }  # fmt: skip
    found = [counts]
    patients = 500 if quick else 5000
    for evenly in (True, False):
        (own, best), _ = consistency.measure(knowledge, diagnoser.ranking, patients, evenly=evenly)
        drawn = Figures(f"patients drawn {'evenly' if evenly else 'by prevalence'}, findings as answers", patients)
        for top, reached, ceiling in zip((1, 3, 5), own, best, strict=True):
            drawn.shares[f"first {top}"] = (round(reached * patients), patients)
            drawn.counts[f"first {top}, share of the ceiling"] = reached / ceiling
        found.append(drawn)
    patients //= 5
    asked = Figures("patients who say one finding in three, three questions", patients)
    for step, (first, _) in enumerate(interview.measure(diagnoser, patients)):
        asked.shares[f"first 1 after {step} questions"] = (round(first * patients), patients)
    found.append(asked)
    if not quick:
        found.append(_told(diagnoser))
    return found


def _told(diagnoser: Diagnoser) -> Figures:
    """Messages in lay wordings, and the embedded model's replies to them."""
    examples = list(Synthesiser(diagnoser, load_scratch(_CONFIG).synthesise, _SEED).held_out())
    told = Figures("drawn patients' messages, and the embedded model's replies", len(examples))
    orders = [[c.pathology.id for c in diagnoser.assess(e["text"], Patient()).differential] for e in examples]
    for top in (1, 3, 5):
        hits = sum(e["origin"] in order[:top] for e, order in zip(examples, orders, strict=True))
        told.shares[f"first {top}"] = (hits, len(examples))
    figures, _ = evaluate_replies(EMBEDDED_MODEL, examples)
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    told.counts = {f"replies: {key}": float(value) for key, value in numbers.items()}
    return told


def case_figures(folder: Path, diagnoser: Diagnoser) -> list[Figures]:
    """The measures on the files of `folder` that are there."""

    def assess(text: str, patient: Patient) -> Assessment:
        return diagnoser.assess(text, patient, (), 10)

    found = []
    known = list(diagnoser.knowledge.pathologies.values())
    for name in _RANKED_FILES:
        if (folder / name).exists():
            found.append(diagnosis(name, read_cases(folder / name), known, assess))
    triage = folder / "triage.jsonl"
    if triage.exists():
        found.append(urgency(triage.name, read_cases(triage), assess))
    if (folder / "assertions.jsonl").exists():
        found.append(assertions("assertions.jsonl", read_cases(folder / "assertions.jsonl"), assess))
    if triage.exists() and (folder / "perturb.json").exists():
        sentences = json.loads((folder / "perturb.json").read_text(encoding="utf-8"))
        found.append(perturbed("perturb.json on triage.jsonl", read_cases(triage), sentences, assess))
    return found


# --- ablation --------------------------------------------------------------------------------------------------------


class _AllPresent(Ranking):
    """Takes every mention for affirmed."""

    def score(self, observations: Sequence[Observation], patient: Patient) -> Scores:
        return super().score([replace(o, state=State.PRESENT) for o in observations], patient)


class _NobodyInParticular(Ranking):
    """Forgets age and sex."""

    def score(self, observations: Sequence[Observation], patient: Patient) -> Scores:  # noqa: ARG002 - forgotten
        return super().score(observations, Patient())


class _NoTypos(Lexicon):
    """Corrects no spelling."""

    def corrections_of_any(self, word: str) -> tuple[str, ...]:  # noqa: ARG002 - the shape of the method
        return ()


def ablations(knowledge: Knowledge) -> dict[str, Callable[[], Diagnoser]]:
    """The service without one of its parts."""
    base = Parameters()

    def ranked(parameters: Parameters) -> Diagnoser:
        return Diagnoser(knowledge, Ranking(knowledge, parameters))

    def without_typos() -> Diagnoser:
        lexicon = copy.copy(knowledge.lexicon)
        lexicon.__class__ = _NoTypos
        return Diagnoser(replace(knowledge, lexicon=lexicon))

    return {
        "everything": lambda: ranked(base),
        "assertion (all affirmed)": lambda: Diagnoser(knowledge, _AllPresent(knowledge)),
        "damping of similar findings": lambda: ranked(replace(base, group_damping=1.0)),
        "silence about usual findings": lambda: ranked(replace(base, said=0.0, said_obligate=0.0)),
        "prevalence": lambda: ranked(replace(base, prior_power=0.0)),
        "age and sex": lambda: Diagnoser(knowledge, _NobodyInParticular(knowledge)),
        "spelling correction": without_typos,
    }


def ablation_table(folder: Path, knowledge: Knowledge) -> Iterable[str]:
    """First one and first five on each file of ranked cases, without each part."""
    files: dict[str, list[Case]] = {n: read_cases(folder / n) for n in _RANKED_FILES if (folder / n).exists()}
    yield "| without | " + " | ".join(f"{name}, first 1 / first 5" for name in files) + " |"
    yield "|---" * (len(files) + 1) + "|"
    for part, build in ablations(knowledge).items():
        assess = build().assess
        cells = []
        for name, cases in files.items():
            figures = diagnosis(name, cases, [], assess)
            cells.append(" / ".join(f"{figures.shares[k][0] / figures.n:.3f}" for k in ("first 1", "first 5")))
        yield f"| {'nothing' if part == 'everything' else part} | " + " | ".join(cells) + " |"


# --- output ----------------------------------------------------------------------------------------------------------


def as_markdown(found: Sequence[Figures]) -> Iterable[str]:
    """One table: every share with its 95 % interval, every count."""
    yield "| cases | measure | value | 95 % interval |"
    yield "|---|---|---|---|"
    for figures in found:
        for measure, (hits, n) in figures.shares.items():
            low, high = wilson(hits, n)
            yield f"| {figures.name} | {measure} | {hits / max(1, n):.3f} ({hits} of {n}) | {low:.3f} to {high:.3f} |"
        for measure, value in figures.counts.items():
            yield (
                f"| {figures.name} | {measure} | {value:,.0f} | |"
                if value == int(value)
                else (f"| {figures.name} | {measure} | {value:.3f} | |")
            )


def plot(found: Sequence[Figures], folder: Path) -> None:
    """`reliability.png`: stated probability against share right; `ranks.png`: how often among the first 1, 3, 5."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    ranked = [figures for figures in found if "first 5" in figures.shares]
    calibrated = [figures for figures in found if figures.reliability]
    if calibrated:
        plt.figure(figsize=(5, 5))
        plt.plot([0, 1], [0, 1], color="lightgrey")
        for figures in calibrated:
            stated, happened, _ = zip(*figures.reliability, strict=True)
            plt.plot(stated, happened, marker="o", label=figures.name)
        plt.xlabel("stated probability of the first cause")
        plt.ylabel("share right")
        plt.legend()
        plt.tight_layout()
        plt.savefig(folder / "reliability.png", dpi=120)
        plt.close()
    plt.figure(figsize=(7, 4))
    for figures in ranked:
        shares = [figures.shares[f"first {top}"] for top in (1, 3, 5)]
        plt.plot((1, 3, 5), [hits / n for hits, n in shares], marker="o", label=figures.name)
    plt.xticks((1, 3, 5))
    plt.ylim(0, 1)
    plt.xlabel("among the first")
    plt.ylabel("share of cases")
    plt.legend(fontsize=7)
    plt.tight_layout()
    plt.savefig(folder / "ranks.png", dpi=120)
    plt.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write `runs/eval/DATE/`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=Path, default=Path("cases"), help="a folder of cases from elsewhere")
    parser.add_argument("--ablation", action="store_true", help="also measure the ranking without each of its parts")
    parser.add_argument("--quick", action="store_true", help="fewer drawn patients, no replies")
    parser.add_argument("--out", type=Path, default=Path("runs/eval"))
    options = parser.parse_args(arguments)
    diagnoser = Diagnoser(load())
    found = own_figures(diagnoser, quick=options.quick)
    if options.cases.is_dir():
        found += case_figures(options.cases, diagnoser)
    else:
        print(f"no folder {options.cases}: only the project's own cases are measured", file=sys.stderr)
    lines = [f"# Evaluation, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}", ""]
    lines += [f"Knowledge base {diagnoser.knowledge.version}.", "", *as_markdown(found)]
    if options.ablation and options.cases.is_dir():
        lines += ["", "## Without each part", "", *ablation_table(options.cases, diagnoser.knowledge)]
    folder = options.out / f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "evaluation.json").write_text(
        json.dumps([asdict(figures) for figures in found], ensure_ascii=False, indent=1), encoding="utf-8"
    )
    plot(found, folder)
    print("\n".join(lines))
    print(f"\nwritten to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
