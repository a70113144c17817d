"""Merging: 16-bit weights, the tokenizer of the base as it was published, and a loss that is that of the adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("bitsandbytes", reason="needs the training environment")

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.core.prompt import Style
from tests.training.bases import chat_rows, make_llama_base, make_phi3_base, make_qwen_base
from tests.training.tunes import QUIET, Tune, make_tune
from training.adapter import load_quantized
from training.artefacts import manifest_of, read_input
from training.encoding import ChatEncoder
from training.errors import StaleArtefactError, TrainingError
from training.merge import (
    check_finite,
    check_folder,
    check_losses,
    merge_adapter,
    restore_generation,
    restore_tokenizer,
    summing_type,
)
from training.paths import adapter_path, model_path
from training.precision import Precision

pytestmark = [pytest.mark.training, *QUIET]

MAKERS = {
    "phi3": (make_phi3_base, Style.PHI3),
    "llama": (make_llama_base, Style.ZEPHYR),
    "qwen": (make_qwen_base, Style.CHATML),
}
TOKENIZER = {
    "phi3": {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
             "special_tokens_map.json"},
    "llama": {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"},
    "qwen": {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"},
}  # fmt: skip


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tune]:
    """A merged fine-tune of each architecture."""
    made = {}
    for name, (make, style) in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = make_tune(folder, make(folder / name), style)
        made[name].here("qlora")
        made[name].here("merge")
    return made


@pytest.fixture(params=list(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn."""
    return str(request.param)


def base_of(tune: Tune) -> Path:
    """The folder of the base."""
    return Path(tune.run.base.model)


def manifest(tune: Tune) -> dict[str, Any]:
    """What the stage recorded."""
    return read_input(model_path(tune.run), "")


def content(path: Path) -> dict[str, Any]:
    """A JSON file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_merged_model_is_the_adapter_model_in_16_bits(name: str, tunes: dict[str, Tune]) -> None:
    """float16 weights, no trace of 4 bits or of the adapter, and a loss within the margin of the adapter's."""
    folder = model_path(tunes[name].run)
    assert "quantization_config" not in content(folder / "config.json")
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert set(weights) == set(load_file(base_of(tunes[name]) / "model.safetensors"))
    found = manifest(tunes[name])
    assert found["merged_loss"] == pytest.approx(found["adapter_loss"], abs=0.02)
    trained = read_input(adapter_path(tunes[name].run), "")
    assert found["adapter_loss"] == pytest.approx(trained["held_out_loss"], abs=1e-4)
    assert found["merged_loss"] < trained["held_out_loss_of_base"] - 0.1


def test_the_weights_are_the_base_plus_the_adapter(tunes: dict[str, Tune]) -> None:
    """B A times alpha over rank is added to the published weights, not to their 4-bit rounding."""
    run = tunes["phi3"].run
    adapter = load_file(adapter_path(run) / "adapter_model.safetensors")
    key = "model.layers.1.mlp.down_proj"
    found = {part: adapter[f"base_model.model.{key}.lora_{part}.weight"] for part in ("A", "B")}
    added = run.qlora.alpha / run.qlora.rank * found["B"] @ found["A"]
    before = load_file(base_of(tunes["phi3"]) / "model.safetensors")[f"{key}.weight"].float()
    after = load_file(model_path(run) / "model.safetensors")[f"{key}.weight"]
    assert torch.equal(after, (before + added).half())
    assert float(added.abs().max()) > 1e-4


def test_the_tokenizer_files_are_those_of_the_base(name: str, tunes: dict[str, Tune]) -> None:
    """Byte for byte, `tokenizer.model` and added tokens included; a byte-level vocabulary has none to restore."""
    base, folder = base_of(tunes[name]), model_path(tunes[name].run)
    assert set(manifest(tunes[name])["restored"]) == TOKENIZER[name]
    for file in TOKENIZER[name]:
        assert (folder / file).read_bytes() == (base / file).read_bytes()
    ours, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(base)
    assert ours.chat_template == theirs.chat_template
    assert ours.get_vocab() == theirs.get_vocab()
    row = chat_rows(1)[0]
    assert ChatEncoder(ours).example(row) == ChatEncoder(theirs).example(row)


def test_transformers_itself_loses_the_tokenizer(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """The trap: what `save_pretrained` leaves has no `tokenizer.model` and no added tokens where converters look."""
    base = base_of(tunes["phi3"])
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()
    assert not (tmp_path / "added_tokens.json").exists()
    assert not content(tmp_path / "tokenizer_config.json").get("added_tokens_decoder")
    restore_tokenizer(base, tmp_path)
    assert (tmp_path / "tokenizer.model").is_file()
    assert (tmp_path / "added_tokens.json").is_file()
    assert len(content(tmp_path / "tokenizer_config.json")["added_tokens_decoder"]) == 14
    assert not (tmp_path / "chat_template.jinja").exists()  # the base keeps it in tokenizer_config.json


def test_a_base_without_its_sentencepiece_model_is_refused(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """One that transformers 5 has saved: its scores are lost and cannot be restored."""
    base, target = tmp_path / "base", tmp_path / "target"
    target.mkdir()
    shutil.copytree(base_of(tunes["llama"]), base)
    (base / "tokenizer.model").unlink()
    with pytest.raises(TrainingError, match=r"has no tokenizer\.model"):
        restore_tokenizer(base, target)


def test_added_tokens_that_only_tokenizer_json_knows_are_listed(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """Converters read them from `tokenizer_config.json`; without the list they become unused tokens."""
    base, target = tmp_path / "base", tmp_path / "target"
    target.mkdir()
    shutil.copytree(base_of(tunes["phi3"]), base)
    settings = content(base / "tokenizer_config.json")
    listed = settings.pop("added_tokens_decoder")
    (base / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (base / "added_tokens.json").unlink()
    restore_tokenizer(base, target)
    assert content(target / "tokenizer_config.json")["added_tokens_decoder"] == listed


def test_the_end_tokens_of_the_base_are_kept(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """Phi-3 has three; the one that answers were trained to end with is added where it is missing."""
    base = base_of(tunes["phi3"])
    for tune in tunes.values():
        ours = content(model_path(tune.run) / "generation_config.json")
        assert ours == content(base_of(tune) / "generation_config.json")
    assert content(model_path(tunes["phi3"].run) / "generation_config.json")["eos_token_id"] == [1000, 1001, 1007]
    restore_generation(base, tmp_path, 1005)
    assert content(tmp_path / "generation_config.json")["eos_token_id"] == [1000, 1001, 1007, 1005]


def test_a_merge_into_4_bits_is_refused(tunes: dict[str, Tune]) -> None:
    """PEFT would do it, rounding what was learnt to sixteen levels."""
    precision = Precision(torch.device("cpu"), torch.float32, "test")
    model = load_quantized(base_of(tunes["phi3"]), precision)
    with pytest.raises(TrainingError, match="merged into 16-bit weights; these are quantized"):
        merge_adapter(model, adapter_path(tunes["phi3"].run))


def test_a_folder_merged_in_4_bits_is_refused(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """What the guide's own merge leaves: a `quantization_config`."""
    precision = Precision(torch.device("cpu"), torch.float32, "test")
    model = load_quantized(base_of(tunes["phi3"]), precision)
    with pytest.warns(UserWarning, match="4-bit"):
        PeftModel.from_pretrained(model, adapter_path(tunes["phi3"].run)).merge_and_unload().save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="has a quantization_config"):
        check_folder(tmp_path, 1011)


def test_more_tokens_than_rows_are_refused(tunes: dict[str, Tune]) -> None:
    """An added token without an embedding would be read from beyond the table."""
    folder = model_path(tunes["phi3"].run)
    check_folder(folder, 1024)
    with pytest.raises(TrainingError, match="1025 tokens, the model 1024 rows"):
        check_folder(folder, 1025)


def test_weights_beyond_float16_are_refused(tunes: dict[str, Tune]) -> None:
    """An adapter that diverged: the first such weight is named."""
    model = AutoModelForCausalLM.from_pretrained(base_of(tunes["llama"]), dtype=torch.float32)
    model.model.norm.weight.data[0] = 1e6
    with pytest.raises(TrainingError, match=r"model\.norm\.weight is not finite in float16"):
        check_finite(model.half())


def test_an_adapter_with_no_number_is_refused(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """Safe merging finds it."""
    adapter = tmp_path / "adapter"
    shutil.copytree(adapter_path(tunes["llama"].run), adapter)
    from safetensors.torch import save_file  # noqa: PLC0415 - beside its use

    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(key for key in weights if "lora_B" in key)
    weights[name][0, 0] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base_of(tunes["llama"]), dtype=torch.float32)
    with pytest.raises(TrainingError, match="cannot be merged: NaNs detected"):
        merge_adapter(model, adapter)


@pytest.mark.parametrize(("merged", "allowed"), [(2.0, True), (2.02, True), (1.5, True), (2.03, False)])
def test_a_merged_model_beyond_the_margin_is_refused(merged: float, allowed: bool) -> None:
    """Better is welcome, worse only within the margin."""
    if allowed:
        check_losses(2.0, merged, 0.0201)
        return
    with pytest.raises(TrainingError, match=r"merged_loss_margin allows; nothing was written"):
        check_losses(2.0, merged, 0.0201)
    with pytest.raises(TrainingError, match="nan"):
        check_losses(2.0, float("nan"), 0.0201)


def test_a_worse_merged_model_is_not_written(
    tunes: dict[str, Tune], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted failure, an adapter lost on the way: the stage fails and leaves no folder."""
    tune = make_tune(tmp_path, base_of(tunes["llama"]), Style.ZEPHYR)
    for path in (adapter_path(tune.run), manifest_of(adapter_path(tune.run))):
        source = adapter_path(tunes["llama"].run).with_name(path.name)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
    monkeypatch.setattr("training.merge.merge_adapter", lambda model, _adapter: model)
    with pytest.raises(TrainingError, match=r"more than the 0\.02 that"):
        tune.here("merge")
    assert not model_path(tune.run).exists()


def test_another_base_than_that_of_the_adapter_is_refused(tunes: dict[str, Tune], tmp_path: Path) -> None:
    """An adapter fits the weights that it was trained on, and no others."""
    base = tmp_path / "llama"
    shutil.copytree(base_of(tunes["llama"]), base)
    tune = make_tune(tmp_path, base, Style.ZEPHYR)
    tune.here("qlora")
    settings = content(base / "generation_config.json")
    (base / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.5}), encoding="utf-8")
    with pytest.raises(StaleArtefactError, match=r"was trained on another base .*training\.qlora"):
        tune.here("merge")


def test_the_sum_is_made_in_float32_where_it_fits() -> None:
    """Twice the stored weights and some room; the free Colab machine has too little for Phi-3."""
    assert summing_type(2 * 10**9, 13 * 10**9) is torch.float32
    assert summing_type(76 * 10**8, 12 * 10**9) is torch.bfloat16


def test_a_finished_merge_is_not_run_again(tunes: dict[str, Tune], capsys: pytest.CaptureFixture[str]) -> None:
    """The same adapter and settings: nothing to do; a half-written folder of a killed run does not count."""
    half = model_path(tunes["phi3"].run).with_name("hf.part")
    half.mkdir()
    tunes["phi3"].here("merge")
    assert "merge: nothing to do" in capsys.readouterr().err
    manifest_of(model_path(tunes["phi3"].run)).unlink()
    before = load_file(model_path(tunes["phi3"].run) / "model.safetensors")
    tunes["phi3"].here("merge")
    after = load_file(model_path(tunes["phi3"].run) / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not half.exists()
