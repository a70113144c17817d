"""The model card: metadata that the Hub takes, and figures that are those of the run's files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from backend.core.prompt import Style, prompt_id
from backend.engine.manifest import Manifest, manifest_path, sha256_of
from tests.training.conftest import write_config
from tests.training.finished import BASE_REVISION, LICENCES, make_finished
from training import publish
from training.artefacts import write_manifest
from training.config import ScratchRun, load_config
from training.paths import adapter_path, comparison_path, evaluation_path, licences_path, model_path, quantized_path


@dataclass(frozen=True)
class Card:
    """A card as the Hub's own class reads it: metadata, text below it, and the whole."""

    data: dict[str, Any]
    text: str
    content: str


def card_of(config: Path) -> Card:
    """The card of a run's release."""
    run = load_config(config)
    publish.make_release(run)
    card = ModelCard.load(publish.release_path(run) / "README.md")
    return Card(card.data.to_dict(), card.text, card.content)


def changed(config: Path, **sections: dict[str, Any]) -> Path:
    """The configuration with keys of its sections changed."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    for section, changes in sections.items():
        content[section] = content.get(section, {}) | changes
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    return config


def cells(card: Card, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    (row,) = [line for line in card.text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    """Language, licence, base and those data sets that are on the Hub; a file of our own is none."""
    data = card_of(make_finished(tmp_path)).data
    assert data | {"tags": None} == {
        "language": ["fr"], "license": "mit", "library_name": "gguf", "pipeline_tag": "text-generation", "tags": None,
        "base_model": "microsoft/Phi-3-mini-4k-instruct", "base_model_relation": "finetune",
        "datasets": ["lavita/MedQuAD"],
    }  # fmt: skip


def test_an_own_licence_is_named(tmp_path: Path) -> None:
    """The Hub wants `other` and a name where it does not know the licence."""
    data = card_of(changed(make_finished(tmp_path), publish={"licence": "our-own-1.0"})).data
    assert (data["license"], data["license_name"]) == ("other", "our-own-1.0")


def test_the_card_says_what_it_is_not(tmp_path: Path) -> None:
    """At the top and under the limits."""
    text = card_of(make_finished(tmp_path)).text
    assert text.count("Not a medical device, not for diagnosis") == 2
    assert text.index("Not a medical device") < text.index("## Files")


def test_figures_are_those_of_the_evaluation(tmp_path: Path) -> None:
    """Every model has its row, with interval and n; what was not measured says so."""
    card = card_of(make_finished(tmp_path))
    assert cells(card, "tuned")[1:3] == ["1.9000 [1.8000, 2.0000], n = 200", "90.0% [80%, 100%], n = 40"]
    assert len([line for line in card.text.splitlines() if line.startswith("| Q8_0 |")]) == 2
    assert "not measured" in cells(card, "merged")
    assert cells(card, "F16")[2] == "3.0000"


def test_origin_and_training_are_told(tmp_path: Path) -> None:
    """Base with its revision, data with licences and attribution, hyper-parameters, time and hardware, versions."""
    text = card_of(make_finished(tmp_path)).text
    for told in (
        BASE_REVISION, "cc-by-4.0", "Ben Abacha", "15500", "90 minutes, on Tesla T4", "rank 16", "learning_rate 0.0002",
        "precision float16", "llama-cpp-python", prompt_id(Style.PHI3), "loss_margin 0",
    ):  # fmt: skip
        assert told in text


def test_what_was_not_recorded_is_said_to_be(tmp_path: Path) -> None:
    """Nothing is made up: no data ledger, no time, no device."""
    config = make_finished(tmp_path)
    run = load_config(config)
    licences_path(run).unlink()
    write_manifest(adapter_path(run), "qlora", [], {}, run.seed)
    card = card_of(config)
    assert "Sources and licences: not recorded." in card.text
    assert "time not recorded, hardware not recorded" in card.text
    assert "datasets" not in card.data


def test_a_base_from_a_folder_shows_no_path(tmp_path: Path) -> None:
    """Its name only, and not as a model of the Hub."""
    base = tmp_path / "secret-place" / "my-base"
    base.mkdir(parents=True)
    card = card_of(changed(make_finished(tmp_path), base={"model": str(base), "revision": None}))
    assert "my-base (mit), fine-tuned" in card.text
    assert "secret-place" not in card.content
    assert "base_model" not in card.data


def test_forum_data_are_a_limit(tmp_path: Path) -> None:
    """A reader is told of unchecked answers; a bar in a name does not break the table."""
    config = make_finished(tmp_path)
    run = load_config(config)
    sources = [{**LICENCES["sources"][0], "kind": "chatdoctor", "attribution": "a | b"}]
    licences_path(run).write_text(json.dumps({"sources": sources}), encoding="utf-8")
    card = card_of(config)
    assert "unknown doctors" in card.text
    assert "a \\| b" in card.text


def test_the_same_release_gives_the_same_card(tmp_path: Path) -> None:
    """No date and no order of chance, so that publishing again sends nothing."""
    config = make_finished(tmp_path)
    assert card_of(config).content == card_of(config).content


def test_serving_from_the_hub_names_the_repository(tmp_path: Path) -> None:
    """The first Hub destination of the configuration."""
    config = changed(make_finished(tmp_path), publish={"destinations": [str(tmp_path / "out"), "hf://me/mine"]})
    assert "DOCTIS_MODEL_REPO=me/mine" in card_of(config).text


def test_a_model_from_scratch_has_a_card_too(tmp_path: Path) -> None:
    """Its own licence, its floors and its figures; the replies of the evaluation are no figure."""
    card = card_of(scratch_run(tmp_path))
    assert card.data["license"] == "mit"
    assert not {"base_model", "datasets"} & set(card.data)
    assert cells(card, "accepted whole") == ["accepted whole", "0.975"]
    assert cells(card, "accepted unseen") == ["accepted unseen", "0.95"]
    for told in ("trained from scratch", "in slots that only Doctis AI", "62 minutes", "hidden 256", "No patient data",
                 "Judged on 200 consultations", "accepted_whole 0.9", "stored as a larger type: 1"):  # fmt: skip
        assert told in card.text
    assert "Aïe" not in card.content


def scratch_run(folder: Path) -> Path:
    """A run from scratch that passed the gate, as far as `publish` looks; its configuration."""
    config = write_config(folder)
    run = load_config(config)
    assert isinstance(run, ScratchRun)
    run.folder.mkdir(parents=True)
    model_path(run).mkdir()
    write_manifest(model_path(run), "pretrain", [], {}, run.seed, seconds=3743, parameters=6_163_712)
    file = quantized_path(run)
    file.write_bytes(b"GGUF")
    card = Manifest(
        name=run.name, sha256=sha256_of(file), style=Style.SLOTS, prompt_id=prompt_id(Style.SLOTS),
        tokenizer_sha256="e" * 64,
    )  # fmt: skip
    manifest_path(file).write_text(card.model_dump_json(), encoding="utf-8")
    write_manifest(file, "quantize", [], {}, run.seed)
    row = {"bytes": 4, "perplexity": 1.1, "f16_perplexity": 1.1, "mean_kl": 0.01, "p99_kl": 0.1, "same_top": 1.0}
    comparison = {"f16": {"bytes": 9}, "odd_rows": ["blk.0 (192)"], "replies": 9, "quantizations": {"Q4_K_M": row}}
    comparison_path(run).write_text(json.dumps(comparison), encoding="utf-8")
    write_manifest(comparison_path(run), "quantize", [file], {}, run.seed)
    verdict = {
        "passed": True, "problems": [], "n": 200, "accepted_whole": 0.975, "accepted_unseen": 0.95, "refusals": {},
        "quantizations": {"Q4_K_M": row}, "replies": [{"text": "Aïe", "reply": "Aïe"}],
    }  # fmt: skip
    evaluation_path(run).write_text(json.dumps(verdict, ensure_ascii=False), encoding="utf-8")
    write_manifest(evaluation_path(run), "evaluate", [file, comparison_path(run)], run.evaluate, run.seed)
    return config


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
def test_every_file_is_listed_with_its_hash(kind: str, tmp_path: Path) -> None:
    """And with the tensor types that it truly has."""
    config = make_finished(tmp_path)
    file = quantized_path(load_config(config), kind)
    row = cells(card_of(config), f"`{file.name}`")
    assert row[2:] == ["10 Q4_K, 5 F32", f"`{sha256_of(file)}`"]
