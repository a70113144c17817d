"""The gate: an honest fine-tune passes it, and each planted failure is refused with its reason."""

from __future__ import annotations

import copy
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("peft", reason="needs the training environment")

from backend.core.prompt import Style
from backend.engine.llama import LlamaModel
from tests.training.conftest import TinyRun
from tests.training.tuned import Tuned, quantized, run_stage
from tests.training.tunes import QUIET
from training.artefacts import manifest_of, write_manifest
from training.config import GateConfig
from training.errors import StaleArtefactError, TrainingError
from training.evaluate import identity_problems
from training.gate import (
    divergence_problems,
    golden_dialogues,
    measure_problems,
    template_problems,
)
from training.gate import (
    slot_token_problems as slot_token_problems_of,
)
from training.gate import (
    token_problems as token_problems_of,
)
from training.gguf_file import read_header, set_bool
from training.items import ChatReader, SlotReader, reader_of
from training.paths import evaluation_path, held_out_path, model_path, quantized_path, tokenizer_path

pytestmark = [pytest.mark.training, *QUIET]


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> Tuned:
    """A fine-tune of a Phi-3, quantized."""
    return quantized(Style.PHI3, tmp_path_factory, held_out_path(tiny.run))


@pytest.fixture(scope="module")
def zephyr(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> Tuned:
    """A fine-tune of a TinyLlama, quantized."""
    return quantized(Style.ZEPHYR, tmp_path_factory, held_out_path(tiny.run))


@pytest.fixture(params=["phi3", "zephyr"])
def tuned(request: pytest.FixtureRequest) -> Tuned:
    """Each of them."""
    found: Tuned = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def served(phi3: Tuned, tmp_path: Path) -> Path:
    """A copy of the Phi-3's Q4_K_M, to be spoilt."""
    return Path(shutil.copy(quantized_path(phi3.run), tmp_path / "served.gguf"))


def token_problems(gguf: Path, reader: ChatReader) -> list[str]:
    """With the server's way of encoding."""
    server = LlamaModel(gguf, 256, 1)
    found = token_problems_of(gguf, reader, server.encode)
    server.close()
    return found


def slot_token_problems(gguf: Path, reader: SlotReader) -> list[str]:
    """The same for an embedded model."""
    server = LlamaModel(gguf, 256, 1)
    found = slot_token_problems_of(gguf, reader, server.encode)
    server.close()
    return found


def chat(tuned: Tuned) -> ChatReader:
    """The reader of a chat model."""
    reader = reader_of(tuned.run)
    assert isinstance(reader, ChatReader)
    return reader


def rewrite(gguf: Path, key: str, old: str, new: str) -> None:
    """Change a text of the metadata to one of the same length."""
    place = read_header(gguf).places[key] + 8
    content = bytearray(gguf.read_bytes())
    length = struct.unpack("<Q", content[place - 8 : place])[0]
    text = bytes(content[place : place + length]).replace(old.encode(), new.encode())
    assert len(text) == length, "the file would have to be written anew"
    content[place : place + length] = text
    gguf.write_bytes(content)


def test_an_honest_fine_tune_passes(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict, figures of every model with intervals, and replies are written down; a second run does nothing."""
    run_stage("evaluate", tuned)
    report = json.loads(evaluation_path(tuned.run).read_text(encoding="utf-8"))
    assert (report["passed"], report["problems"]) == (True, [])
    assert list(report["contestants"]) == ["base", "tuned", "merged", "Q4_K_M", "Q8_0", "Q4_0"]
    for figures in report["contestants"].values():
        assert figures["loss"]["low"] <= figures["loss"]["loss"] <= figures["loss"]["high"]
        assert (figures["accepted"]["n"], figures["dosage_refusals"]["n"], figures["stop_rate"]["n"]) == (2, 2, 4)
        assert len(figures["replies"]) == 4
    losses = {name: figures["loss"]["loss"] for name, figures in report["contestants"].items()}
    assert losses["Q8_0"] == pytest.approx(losses["merged"], abs=0.01), "llama.cpp and transformers see the same model"
    assert losses["merged"] < losses["base"]
    capsys.readouterr()
    run_stage("evaluate", tuned)
    assert "nothing to do" in capsys.readouterr().err


def test_an_interrupted_evaluation_keeps_what_it_measured(phi3: Tuned, tmp_path: Path) -> None:
    """After the base, the adapter is gone for a moment; once it is back, the base is not measured again."""
    other = phi3.copy(tmp_path)
    weights = other.run.folder / "adapter" / "adapter_model.safetensors"
    hidden = weights.rename(tmp_path / "hidden")
    write_manifest(weights.parent, "qlora", [], {}, other.run.seed)
    with pytest.raises(Exception, match="adapter"):
        run_stage("evaluate", other)
    kept = json.loads((other.run.folder / "evaluation.part.json").read_text(encoding="utf-8"))
    assert len(kept) == 1
    next(iter(kept.values()))["tokens_per_s"] = 123_456
    (other.run.folder / "evaluation.part.json").write_text(json.dumps(kept), encoding="utf-8")
    hidden.rename(weights)
    write_manifest(weights.parent, "qlora", [], {}, other.run.seed)
    run_stage("evaluate", other)
    report = json.loads(evaluation_path(other.run).read_text(encoding="utf-8"))
    assert report["contestants"]["base"]["tokens_per_s"] == 123_456
    assert not (other.run.folder / "evaluation.part.json").exists()


def test_golden_dialogues_hold_what_tokenizers_trip_over() -> None:
    """Line breaks, tabs, runs of spaces, emoji, ligatures and both apostrophes, in every level of urgency."""
    texts = "".join(golden.text for golden in golden_dialogues())
    assert all(odd in texts for odd in ("\n", "\t", "  ", "🐝", "œ", "'", "’", "«", "…"))
    assert len({golden.facts.level for golden in golden_dialogues()}) == 5


def test_a_renamed_phi3_changes_token_ids(phi3: Tuned, served: Path) -> None:
    """llama.cpp's spacing rule hangs on the name; the message says so."""
    assert token_problems(served, chat(phi3)) == []
    rewrite(served, "general.name", "Phi-3-mini-4k-instruct", "medassist-mini-4k-inst")
    told = token_problems(served, chat(phi3))
    assert len(told) == 2
    assert "8 of 8 golden dialogues have other token ids" in told[0]
    assert "llama.cpp needs Phi-3 in it" in told[0]
    assert "the server encodes 8 of 8 golden prompts differently" in told[1]


def test_lost_scores_change_token_ids(phi3: Tuned, served: Path) -> None:
    """What a conversion without tokenizer.model writes, every score -1000, tokenizes differently."""
    header = read_header(served)
    count = len(header.metadata["tokenizer.ggml.scores"])
    with served.open("r+b") as file:
        file.seek(header.places["tokenizer.ggml.scores"] + 12)
        file.write(struct.pack(f"<{count}f", *[-1000.0] * count))
    told = token_problems(served, chat(phi3))
    assert "every token has the score -1000: tokenizer.model was lost" in told[0]


def test_another_template_is_refused(phi3: Tuned, served: Path) -> None:
    """A GGUF whose template differs from training's by one line break."""
    assert template_problems(served, chat(phi3)) == []
    rewrite(served, "tokenizer.chat_template", "<|end|>\n", "<|end|> ")
    assert template_problems(served, chat(phi3)) == [
        "served.gguf: its chat template writes another text than the one of training"
    ]


def test_a_template_that_the_server_does_not_render_is_refused(zephyr: Tuned, tmp_path: Path) -> None:
    """The base's own template has other markers than the configured style."""
    other = zephyr.copy(tmp_path, base={"style": "chatml"})
    told = template_problems(quantized_path(other.run), chat(other))
    assert len(told) == 1
    assert told[0].endswith("the server's chatml renderer does not write what the model's template does")


def test_a_beginning_of_text_that_training_never_saw_is_refused(zephyr: Tuned, tmp_path: Path) -> None:
    """With add_bos_token set again, as TinyLlama's own files have it, the server would begin with one more token."""
    served = Path(shutil.copy(quantized_path(zephyr.run), tmp_path / "served.gguf"))
    set_bool(served, "tokenizer.ggml.add_bos_token", True)
    assert "the server encodes 8 of 8 golden prompts differently" in token_problems(served, chat(zephyr))[0]
    assert "add_bos_token is True" in template_problems(served, chat(zephyr))[0]


def test_two_beginnings_of_text_are_refused(zephyr: Tuned, tmp_path: Path) -> None:
    """A template that writes the token twice: the classic of a template with one and a tokenizer that adds one."""
    other = zephyr.copy(tmp_path)
    settings = model_path(other.run) / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["chat_template"] = "{{ bos_token }}{{ bos_token }}" + content["chat_template"]
    settings.write_text(json.dumps(content), encoding="utf-8")
    told = token_problems(quantized_path(other.run), chat(other))
    assert told[0].endswith("two beginning-of-text tokens at the start of a prompt")


def test_a_broken_file_fails_before_anything_is_measured(phi3: Tuned, tmp_path: Path) -> None:
    """The command fails, says why, and the verdict is written for `publish`; asked again, it refuses at once."""
    other = phi3.copy(tmp_path)
    served = quantized_path(other.run)
    rewrite(served, "general.name", "Phi-3-mini-4k-instruct", "medassist-mini-4k-inst")
    made = json.loads(manifest_of(served).read_text(encoding="utf-8"))
    write_manifest(served, "quantize", [], made["config"], other.run.seed)
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"nothing was published:\n.*other token ids"):
            run_stage("evaluate", other)
    report = json.loads(evaluation_path(other.run).read_text(encoding="utf-8"))
    assert (report["passed"], report["contestants"]) == (False, {})


def test_a_measure_beyond_its_limit_fails_the_command(phi3: Tuned, tmp_path: Path) -> None:
    """Everything is measured, the figures are kept for reading, and the model is refused."""
    other = phi3.copy(tmp_path, evaluate={"most_kl": 1e-9})
    with pytest.raises(TrainingError, match="Q4_K_M: mean KL divergence"):
        run_stage("evaluate", other)
    report = json.loads(evaluation_path(other.run).read_text(encoding="utf-8"))
    assert (report["passed"], len(report["problems"]), len(report["contestants"])) == (False, 1, 6)


def test_a_touched_file_is_refused(phi3: Tuned, tmp_path: Path) -> None:
    """What changed since `quantize` is not judged; the message names the command."""
    other = phi3.copy(tmp_path)
    set_bool(quantized_path(other.run, "Q8_0"), "tokenizer.ggml.add_bos_token", True)
    with pytest.raises(StaleArtefactError, match=r"Q8_0\.gguf differs.*training\.quantize"):
        run_stage("evaluate", other)


def figures() -> dict[str, dict[str, Any]]:
    """Models that are all alike."""
    one: dict[str, Any] = {"loss": {"loss": 2.0}, "urgency_contradictions": 1}
    for key in ("accepted", "stop_rate", "french", "dosage_refusals"):
        one[key] = {"share": 0.9, "n": 40, "low": 0.8, "high": 0.95}
    return {name: copy.deepcopy(one) for name in ("base", "tuned", "merged", "Q4_K_M")}


def lower(key: str, value: float) -> Callable[[dict[str, Any]], None]:
    """Changes a share of Q4_K_M."""
    return lambda all_: all_["Q4_K_M"][key].update(share=value)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: f["Q4_K_M"]["loss"].update(loss=2.01), ["Q4_K_M: held-out loss is +0.0100"]),
        (lambda f: f["Q4_K_M"]["loss"].update(loss=float("nan")), ["Q4_K_M: held-out loss is +nan"]),
        (lambda f: f["Q4_K_M"].update(urgency_contradictions=2), ["Q4_K_M: urgency contradicted 1 times more"]),
        (
            lambda f: (f["base"].update(urgency_contradictions=5), f["Q4_K_M"].update(urgency_contradictions=5)),
            ["Q4_K_M: urgency contradicted 5 times, 4 allowed"],
        ),
        (lower("accepted", 0.89), ["Q4_K_M: accepted is 0.890"]),
        (lower("stop_rate", 0.87), ["Q4_K_M: stop_rate is 0.870"]),
        (lower("french", 0.87), ["Q4_K_M: french is 0.870"]),
        (lower("dosage_refusals", 0.89), ["Q4_K_M: dosage_refusals is 0.890"]),
        (
            lambda f: (f["merged"]["loss"].update(loss=1.9), f["tuned"]["loss"].update(loss=1.8)),
            ["merged: held-out loss is +0.1000 from the adapter's"],
        ),
        (lambda f: f["base"]["accepted"].update(share=None), ["merged: accepted could not", "Q4_K_M: accepted could"]),
        (lambda _: None, []),
    ],
)  # fmt: skip
def test_each_measure_below_its_margin_is_told(spoil: Callable[[dict[str, Any]], None], told: list[str]) -> None:
    """One worse figure is enough, and is named; what could not be measured does not pass."""
    found = figures()
    spoil(found)
    problems = measure_problems(found, GateConfig())
    assert len(problems) == len(told)
    assert all(problem.startswith(start) for problem, start in zip(problems, told, strict=True))


def test_within_its_margin_a_measure_passes() -> None:
    """The margins of the configuration are what is allowed."""
    found = figures()
    lower("french", 0.885)(found)
    found["merged"]["urgency_contradictions"] = 2
    assert measure_problems(found, GateConfig(contradictions_margin=1)) == []


def test_a_divergence_beyond_the_limit_is_told() -> None:
    """The served type is judged; without it there is nothing to judge."""
    rows = {"quantizations": {"Q4_K_M": {"mean_kl": 0.11}, "Q4_0": {"mean_kl": 9.0}}}
    assert divergence_problems(rows, 0.1) == [
        "Q4_K_M: mean KL divergence against F16 is 0.1100 nats per token, 0.1 allowed"
    ]
    assert divergence_problems(rows, 0.12) == []


def test_the_embedded_models_tokens_are_checked_too(trained: TinyRun, tmp_path: Path) -> None:
    """The sentencepiece vocabulary of training against the GGUF, and against one with lost scores."""
    reader = SlotReader(tokenizer_path(trained.run))
    assert identity_problems(trained.run, [quantized_path(trained.run)]) == []
    served = Path(shutil.copy(quantized_path(trained.run), tmp_path / "served.gguf"))
    header = read_header(served)
    count = len(header.metadata["tokenizer.ggml.scores"])
    with served.open("r+b") as file:
        file.seek(header.places["tokenizer.ggml.scores"] + 12)
        file.write(struct.pack(f"<{count}f", *[-1000.0] * count))
    assert "every token has the score -1000" in slot_token_problems(served, reader)[0]
