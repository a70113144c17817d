"""Publish the quantized models of a run that passed the gate, then print the server's settings for them.

Sent: each judged GGUF with its manifest, the figures (without the texts of consultations), what `prepare` recorded of
the data's licences, a generated model card, and `SHA256SUMS`. Refused: a model that the gate refused, or another file
than the one that it judged. Progress goes to stderr, the settings to stdout.

    python -m training.publish --config training/configs/phi3.yaml
    python -m training.publish --config training/configs/phi3.yaml --to hf://your-name/your-model > model.env
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backend.core.errors import DoctisError
from backend.core.prompt import prompt_id
from backend.engine.manifest import Manifest, manifest_path, read_manifest, sha256_of
from training.artefacts import is_done, manifest_of, read_input, say, write_manifest
from training.config import PublishConfig, Run, ScratchRun, TuneRun, load_config
from training.destinations import ReleaseFile, hub_repository, send
from training.errors import ConfigError, TrainingError
from training.model_card import Model, write_card
from training.paths import card_path, command_of, comparison_path, evaluation_path, licences_path, quantized_path

SERVED = "Q4_K_M"
_HUB = "https://huggingface.co"
_TEXTS = "replies"


@dataclass(frozen=True, slots=True)
class Release:
    """Everything that is published, in the order in which it is sent; `served` is the model to serve."""

    files: tuple[ReleaseFile, ...]
    served: Model

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256."""
        return {file.name: file.sha256 for file in self.files}


def main() -> None:
    """Run the stage."""
    run = _run_from_args()
    release = make_release(run)
    record, inputs = record_path(run), [evaluation_path(run), comparison_path(run)]
    config = {"publish": run.publish.model_dump(mode="json"), "files": release.hashes()}
    if is_done(record, inputs, config, run.seed):
        say("publish: nothing to do")
    else:
        places = [publish_to(address, release, run) for address in run.publish.destinations]
        record.write_text(json.dumps(places, indent=1) + "\n", encoding="utf-8")
        write_manifest(record, "publish", inputs, config, run.seed)
        if not places:
            say(f"publish: no destination in the configuration; the release stays in {run.folder}")
    for place in json.loads(record.read_text(encoding="utf-8")) or [{"settings": settings_of("", None, release, run)}]:
        print("\n".join(place["settings"]))


def record_path(run: Run) -> Path:
    """What was published where, as JSON."""
    return run.folder / "published.json"


def release_path(run: Run) -> Path:
    """The folder of the generated files: card, figures, sums."""
    return run.folder / "release"


def publish_to(address: str, release: Release, run: Run) -> dict[str, Any]:
    """Send the release to one destination; what is recorded of it."""
    done = send(address, release.files, private=run.publish.private)
    count = f"{len(done.sent)} of {len(release.files)} files sent, all compared"
    say(f"publish: {address}: {count}" + (f", commit {done.revision}" if done.revision else ""))
    return {
        "address": address,
        "revision": done.revision,
        "sent": done.sent,
        "settings": settings_of(address, done.revision, release, run),
    }


def make_release(run: ScratchRun | TuneRun) -> Release:
    """Collect what is published and write the generated files.

    Raises:
        TrainingError: the gate refused the model or has not seen these files; with every reason.
    """
    verdict, judged = _verdict(run)
    read_input(comparison_path(run), command_of("quantize"))
    # The gate of a model from scratch judges the one file that is served.
    kinds = run.quantize.types if isinstance(run, TuneRun) else (SERVED,)
    problems, models = [], []
    for kind in kinds:
        file = quantized_path(run, kind)
        model, wrong = _check(file, kind, judged)
        problems += [f"{file}: {reason}" for reason in wrong]
        models += [model] if model else []
    if problems:
        raise TrainingError("\n".join(problems))
    comparison = json.loads(comparison_path(run).read_text(encoding="utf-8"))
    folder = release_path(run)
    folder.mkdir(exist_ok=True)
    figures = folder / "figures.json"
    figures.write_text(json.dumps(without_texts(verdict), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    served = next((model for model in models if model.kind == SERVED), models[0])
    repository = next(filter(None, map(hub_repository, run.publish.destinations)), None)
    card = write_card(folder / "README.md", run, models, served, verdict, comparison, repository)
    papers = [path for path in (licences_path(run), card_path(run)) if path.is_file()]
    paths = [*(p for model in models for p in (model.file, manifest_path(model.file))), figures, *papers, card]
    known = {model.file: model.sha256 for model in models}
    files = [_file(path, known.get(path)) for path in paths]
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(f"{file.sha256}  {file.name}\n" for file in files), encoding="utf-8")
    return Release((*files, _file(sums)), served)


def settings_of(address: str, revision: str | None, release: Release, run: Run) -> list[str]:
    """The lines to paste into the server's environment for the model at an address; "" is the run's own folder."""
    file, sha256 = release.served.file.name, release.served.sha256
    repository = hub_repository(address)
    if repository:
        from huggingface_hub import constants  # noqa: PLC0415 - only for this destination

        lines = [
            f"# {address}",
            f"DOCTIS_MODEL_REPO={repository}",
            f"DOCTIS_MODEL_FILE={file}",
            f"DOCTIS_MODEL_REVISION={revision}",
            f"DOCTIS_MODEL_SHA256={sha256}",
            f"DOCTIS_MODEL_PROMPT={release.served.card.style.value}",
        ]
        lines += [f"DOCTIS_HUB_URL={constants.ENDPOINT}"] if constants.ENDPOINT != _HUB else []
        return lines + (["# private: HF_TOKEN must be a token that may read it"] if run.publish.private else [])
    if "://" in address:
        copy = "aws s3 cp" if address.startswith("s3://") else "gcloud storage cp"
        fetch = [f"# {copy} {address}/{name} models/" for name in (file, f"{file}.json")]
        return [*fetch, f"DOCTIS_MODEL_PATH=models/{file}", f"DOCTIS_MODEL_SHA256={sha256}"]
    folder = Path(address) if address else run.folder
    return [f"DOCTIS_MODEL_PATH={folder / file}", f"DOCTIS_MODEL_SHA256={sha256}"]


def without_texts(figures: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The figures without what patients and models wrote."""
    if isinstance(figures, Mapping):
        return {
            key: without_texts(value)
            for key, value in figures.items()
            if not (key == _TEXTS and isinstance(value, list))
        }
    return figures


def _run_from_args() -> ScratchRun | TuneRun:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--to", action="append", help="destination, instead of the configuration's; may be repeated")
    asked = parser.parse_args()
    run = load_config(asked.config)
    if not asked.to:
        return run
    try:
        publish = PublishConfig.model_validate({**run.publish.model_dump(), "destinations": asked.to})
    except ValidationError as error:
        raise ConfigError("\n".join(f"--to: {e['msg']}" for e in error.errors())) from None
    return run.model_copy(update={"publish": publish})


def _verdict(run: ScratchRun | TuneRun) -> tuple[dict[str, Any], dict[str, str]]:
    """The evaluation, and the hashes of what it judged.

    Raises:
        TrainingError: there is none, it is not a pass, or it was given by other margins.
    """
    report = evaluation_path(run)
    again = command_of("evaluate")
    made = read_input(report, again)
    verdict: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if verdict.get("passed") is not True:
        raise TrainingError(
            "\n".join([f"{report}: the gate refused the model, nothing is published", *verdict.get("problems", [])])
        )
    if made["config"] != run.evaluate.model_dump(mode="json"):
        raise TrainingError(f"{report}: judged by other limits than the configuration's; judge again: {again}")
    comparison = comparison_path(run)
    if comparison.is_file() and made["inputs"].get(comparison.name) != sha256_of(comparison):
        raise TrainingError(f"{report}: judged with another {comparison.name}; judge again: {again}")
    return verdict, made["inputs"]


def _check(file: Path, kind: str, judged: Mapping[str, str]) -> tuple[Model | None, Sequence[str]]:
    """A quantized file, and why it must not be published."""
    quantize, evaluate = command_of("quantize"), command_of("evaluate")
    if not file.is_file() or not manifest_of(file).is_file():
        return None, [f"missing; make it with: {quantize}"]
    try:
        card: Manifest | None = read_manifest(file)
    except DoctisError as error:
        return None, [str(error)]
    if card is None:
        return None, [f"no manifest {manifest_path(file).name}; make it with: {quantize}"]
    digest = sha256_of(file)
    recorded = json.loads(manifest_of(file).read_text(encoding="utf-8"))["sha256"]
    problems = [
        f"its SHA-256 is not the one in {name}; make it again with: {quantize}"
        for name, expected in ((manifest_path(file).name, card.sha256), (manifest_of(file).name, recorded))
        if expected != digest
    ]
    if judged.get(file.name) != digest:
        problems.append(f"the gate has not judged this file; judge it with: {evaluate}")
    if card.prompt_id != prompt_id(card.style):
        problems.append(f"made for prompt {card.prompt_id}, the server renders {prompt_id(card.style)}")
    return Model(kind, file, digest, file.stat().st_size, card), problems


def _file(path: Path, sha256: str | None = None) -> ReleaseFile:
    return ReleaseFile(path.name, path, sha256 or sha256_of(path), path.stat().st_size)


if __name__ == "__main__":
    main()
