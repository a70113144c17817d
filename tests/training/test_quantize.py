"""F16 -> Q4_K_M: a model that loads, its card, and refusals that leave nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the training environment")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

from backend.core.prompt import Piece, Style, prompt_id
from backend.engine.llama import LlamaModel
from backend.engine.manifest import check_model, manifest_path, sha256_of
from tests.training.conftest import TinyRun
from tests.training.tuned import Tuned, quantized, run_stage, share_converter
from tests.training.tunes import QUIET
from training import quantize as stage
from training.artefacts import manifest_of, write_manifest
from training.errors import StaleArtefactError, TrainingError
from training.gguf_file import read_header, set_bool
from training.imatrix import check_matrix, collect, gguf_name
from training.items import reader_of
from training.paths import comparison_path, gguf_path, held_out_path, model_path, quantized_path, tokenizer_path
from training.quantize import quantize, table

pytestmark = [pytest.mark.training, *QUIET]


@pytest.fixture
def copied(trained: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with everything that the stage reads, not yet quantized; the command line names its configuration."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (gguf_path(trained.run), tokenizer_path(trained.run), held_out_path(trained.run)):
        shutil.copy(path, folder)
    for name in ("model-f16.gguf", "hf", "held_out.jsonl"):
        shutil.copy(trained.run.folder / f"{name}.manifest.json", folder)
    config = tmp_path / "other.yaml"
    config.write_text(trained.config.read_text(encoding="utf-8").replace(str(trained.run.folder), str(folder)))
    monkeypatch.setattr("sys.argv", ["quantize", "--config", str(config)])
    monkeypatch.setenv("RENDER_CPU_COUNT", "1")
    return folder


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> Tuned:
    """A fine-tune of a Phi-3, quantized."""
    return quantized(Style.PHI3, tmp_path_factory, held_out_path(tiny.run))


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    """llama.cpp's refusal becomes an error that names the file; neither target nor partial file is left."""
    with pytest.raises(TrainingError, match=r"returned \d+ for .*nothing\.gguf"):
        quantize(tmp_path / "nothing.gguf", tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    """The same for a file of another kind; a target from before stays as it was."""
    source, target = tmp_path / "text.gguf", tmp_path / "out.gguf"
    source.write_text("not a model", encoding="utf-8")
    target.write_text("earlier", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"text\.gguf"):
        quantize(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "text.gguf"]
    assert target.read_text(encoding="utf-8") == "earlier"


def test_the_quantized_model_is_smaller_and_loads(trained: TinyRun) -> None:
    """The server's own loader takes it and writes tokens with it."""
    target = quantized_path(trained.run)
    assert target.stat().st_size < gguf_path(trained.run).stat().st_size / 2
    model = LlamaModel(target, 128, 1)
    written = list(model.generate(model.encode([Piece("Bonjour")]), 5, lambda: False))
    model.close()
    assert 0 <= len(written) <= 5


def test_the_card_is_what_the_server_checks(trained: TinyRun) -> None:
    """Hash, style, prompt id and vocabulary stand in the manifest beside the model, with what training recorded."""
    target = quantized_path(trained.run)
    card = check_model(target, None)
    assert card is not None
    assert (card.name, card.style, card.prompt_id) == ("doctis-ai-tiny", Style.SLOTS, prompt_id(Style.SLOTS))
    assert card.sha256 == sha256_of(target)
    assert card.tokenizer_sha256 == sha256_of(tokenizer_path(trained.run))
    assert set(card.run) == {"parameters", "tokens", "seconds", "last_loss", "seed", "commit", "tools", "config"}
    assert json.loads(manifest_of(target).read_text(encoding="utf-8"))["bytes"] == target.stat().st_size


def test_the_same_model_quantizes_to_the_same_bytes(trained: TinyRun, copied: Path) -> None:
    """The stage is reproducible, and does nothing the second time."""
    stage.main()
    made = copied / "doctis-ai-tiny-Q4_K_M.gguf"
    assert made.read_bytes() == quantized_path(trained.run).read_bytes()
    before = made.stat().st_mtime_ns
    stage.main()
    assert made.stat().st_mtime_ns == before


def test_a_model_too_large_for_the_repository_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit there is no card, so nothing downstream takes the file."""
    monkeypatch.setattr(stage, "LARGEST_BYTES", 1_000)
    with pytest.raises(TrainingError, match="more than the 1000 allowed"):
        stage.main()
    target = copied / "doctis-ai-tiny-Q4_K_M.gguf"
    assert not manifest_path(target).exists()
    assert not manifest_of(target).exists()


def test_the_stage_refuses_a_touched_source(copied: Path) -> None:
    """The message names the command that converts again."""
    with (copied / "model-f16.gguf").open("ab") as file:
        file.write(b"x")
    with pytest.raises(StaleArtefactError, match=r"model-f16\.gguf differs.*python -m training\.to_gguf"):
        stage.main()


def test_every_type_is_made_measured_and_told(phi3: Tuned) -> None:
    """Sizes, true tensor types and losses of three quantizations stand in one file and in a table."""
    figures = json.loads(comparison_path(phi3.run).read_text(encoding="utf-8"))
    rows = figures["quantizations"]
    assert list(rows) == ["Q4_K_M", "Q8_0", "Q4_0"]
    assert rows["Q8_0"]["types"] == {"F32": 5, "Q8_0": 10}
    assert {"Q4_K", "Q6_K"} < set(rows["Q4_K_M"]["types"])
    assert rows["Q8_0"]["mean_kl"] < rows["Q4_K_M"]["mean_kl"]
    assert figures["f16"]["bytes"] > rows["Q8_0"]["bytes"] > rows["Q4_K_M"]["bytes"]
    told = table(figures)
    assert all(kind in told for kind in (*rows, "F16", "Q4_K:"))


def test_a_fine_tunes_card_names_its_own_style(phi3: Tuned) -> None:
    """Each served file has a manifest that the server accepts, with the base it comes from."""
    for kind in phi3.run.quantize.types:
        card = check_model(quantized_path(phi3.run, kind), None)
        assert card is not None
        assert (card.style, card.prompt_id) == (Style.PHI3, prompt_id(Style.PHI3))
        assert card.run["licence"] == "mit"


def test_only_what_is_missing_is_made_again(phi3: Tuned, tmp_path: Path) -> None:
    """A lost type is quantized again; the others stay as they are, and the figures come out the same."""
    other = phi3.copy(tmp_path)
    before = {kind: quantized_path(other.run, kind).stat().st_mtime_ns for kind in ("Q4_K_M", "Q8_0")}
    figures = comparison_path(other.run).read_text(encoding="utf-8")
    quantized_path(other.run, "Q4_0").unlink()
    comparison_path(other.run).unlink()
    run_stage("quantize", other)
    assert {kind: quantized_path(other.run, kind).stat().st_mtime_ns for kind in before} == before
    assert comparison_path(other.run).read_text(encoding="utf-8") == figures
    assert [path.name for path in other.run.folder.glob("f16-logits*")] == []


def test_an_interrupted_comparison_goes_on(phi3: Tuned, tmp_path: Path) -> None:
    """Figures that were kept are not measured again; the last file is missing its figures only."""
    other = phi3.copy(tmp_path)
    spoilt = quantized_path(other.run, "Q4_0")
    whole = spoilt.read_bytes()
    comparison_path(other.run).unlink()
    spoilt.write_bytes(whole[:5000])
    config = json.loads(manifest_of(spoilt).read_text(encoding="utf-8"))["config"]
    write_manifest(spoilt, "quantize", [gguf_path(other.run)], config, other.run.seed)
    with pytest.raises(TrainingError, match=r"Q4_0\.gguf: not a GGUF file"):
        run_stage("quantize", other)
    assert len(json.loads((other.run.folder / "quantizations.part.json").read_text(encoding="utf-8"))) == 2
    spoilt.write_bytes(whole)
    write_manifest(spoilt, "quantize", [gguf_path(other.run)], config, other.run.seed)
    run_stage("quantize", other)
    assert not (other.run.folder / "quantizations.part.json").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("model.layers.3.self_attn.q_proj", "blk.3.attn_q.weight"),
        ("model.layers.0.self_attn.qkv_proj", "blk.0.attn_qkv.weight"),
        ("model.layers.11.mlp.gate_up_proj", "blk.11.ffn_up.weight"),
        ("model.layers.11.mlp.down_proj", "blk.11.ffn_down.weight"),
        ("model.layers.1.self_attn", None),
        ("lm_head", None),
    ],
)
def test_modules_have_their_gguf_names(module: str, name: str | None) -> None:
    """Split and fused projections; the output layer has no row, as in llama.cpp's own tool."""
    assert gguf_name(module) == name


@pytest.mark.parametrize("fused", [True, False], ids=["phi3", "llama"])
def test_an_importance_matrix_fits_and_changes_the_file(
    fused: bool, phi3: Tuned, trained: TinyRun, tmp_path: Path
) -> None:
    """Its rows cover every weight of every block; llama.cpp rounds otherwise with it, and one with a gap is refused."""
    run = phi3.run if fused else trained.run
    reader = reader_of(run)
    rows = [json.loads(line) for line in held_out_path(run).read_text(encoding="utf-8").splitlines()]
    matrix = collect(model_path(run), [reader.item(row) for row in rows[:2]])
    check_matrix(matrix, read_header(gguf_path(run)))
    assert all(np.isfinite(row).all() and (row >= 0).all() and row.any() for row in matrix.values())
    quantize(gguf_path(run), tmp_path / "with.gguf", "Q4_K_M", matrix)
    quantize(gguf_path(run), tmp_path / "without.gguf", "Q4_K_M")
    assert (tmp_path / "with.gguf").read_bytes() != (tmp_path / "without.gguf").read_bytes()
    assert read_header(tmp_path / "with.gguf").types() == read_header(tmp_path / "without.gguf").types()
    matrix.pop("blk.0.ffn_down.weight")
    with pytest.raises(TrainingError, match=r"does not fit the model: blk\.0\.ffn_down\.weight"):
        quantize(gguf_path(run), tmp_path / "gap.gguf", "Q4_K_M", matrix)


def test_the_matrix_is_the_mean_square_of_what_columns_are_fed(trained: TinyRun) -> None:
    """The first block's query weights are fed the normed embeddings."""
    run = trained.run
    item = reader_of(run).item(json.loads(held_out_path(run).read_text(encoding="utf-8").splitlines()[0]))
    matrix = collect(model_path(run), [item])
    model = AutoModelForCausalLM.from_pretrained(model_path(run), dtype="auto").model
    with torch.inference_mode():
        fed = model.layers[0].input_layernorm(model.embed_tokens(torch.tensor([[*item.prompt, *item.reply]])))[0]
    np.testing.assert_allclose(matrix["blk.0.attn_q.weight"], fed.square().mean(dim=0).numpy(), rtol=1e-4)


def test_the_stage_makes_and_uses_the_matrix(phi3: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for in the configuration, it is collected once from the training rows and all files are made again."""
    other = phi3.copy(tmp_path, quantize={"imatrix_prompts": 2})
    before = quantized_path(other.run).read_bytes()
    run_stage("quantize", other)
    assert quantized_path(other.run).read_bytes() != before
    assert "imatrix.npz written, from 2 prompts" in capsys.readouterr().err
    run_stage("quantize", other)
    assert "nothing to do" in capsys.readouterr().err


def test_rows_that_are_no_multiples_of_256_show_in_the_types(
    phi3: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp stores them otherwise and still calls the file Q4_K_M; a fine-tune cannot help it and is told."""
    other = phi3.copy(tmp_path)
    config = Phi3Config.from_pretrained(model_path(other.run), hidden_size=192, intermediate_size=320)
    Phi3ForCausalLM(config).save_pretrained(model_path(other.run))
    write_manifest(model_path(other.run), "merge", [], {}, other.run.seed)
    share_converter(tmp_path)
    run_stage("to_gguf", other)
    assert "rows that are not multiples of 256" in capsys.readouterr().err
    run_stage("quantize", other)
    figures = json.loads(comparison_path(other.run).read_text(encoding="utf-8"))
    types = figures["quantizations"]["Q4_K_M"]["types"]
    assert {"Q5_0", "Q8_0"} <= set(types)
    assert "Q4_K" not in types
    assert read_header(quantized_path(other.run)).metadata["general.file_type"] == 15
    assert "blk.0.attn_qkv.weight (192)" in figures["odd_rows"]
    assert "stored as a larger type" in capsys.readouterr().err


def test_a_boolean_is_set_in_place_or_added(trained: TinyRun, tmp_path: Path) -> None:
    """The tensors stay where the header says, so the model computes the same."""
    path = Path(shutil.copy(quantized_path(trained.run), tmp_path / "model.gguf"))
    set_bool(path, "tokenizer.ggml.add_bos_token", False)
    assert path.stat().st_size == quantized_path(trained.run).stat().st_size
    set_bool(path, "doctis.flag", True)
    metadata = read_header(path).metadata
    assert (metadata["tokenizer.ggml.add_bos_token"], metadata["doctis.flag"]) == (False, True)
    models = [LlamaModel(file, 128, 1) for file in (path, quantized_path(trained.run))]
    ids = models[1].encode([Piece("Bonjour")])
    assert models[0].encode([Piece("Bonjour")]) == ids[1:]
    written = [list(model.generate(ids, 5, lambda: False)) for model in models]
    for model in models:
        model.close()
    assert written[0] == written[1]
    with pytest.raises(TrainingError, match=r"general\.name is no boolean"):
        set_bool(path, "general.name", True)


def test_what_is_no_gguf_has_no_header(tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "x.gguf").write_bytes(b"GGUX" + b"0" * 40)
    with pytest.raises(TrainingError, match=r"x\.gguf: not a GGUF file"):
        read_header(tmp_path / "x.gguf")
