"""F16 -> Q4_K_M: a model that loads, its card, and refusals that leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the training environment")

from backend.core.prompt import Piece, Style, prompt_id
from backend.engine.llama import LlamaModel
from backend.engine.manifest import check_model, manifest_path, sha256_of
from tests.training.conftest import TinyRun
from training import quantize as stage
from training.artefacts import manifest_of
from training.errors import StaleArtefactError, TrainingError
from training.paths import gguf_path, quantized_path, tokenizer_path
from training.quantize import quantize

pytestmark = pytest.mark.training


@pytest.fixture
def copied(trained: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with everything that the stage reads, not yet quantized; the command line names its configuration."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (gguf_path(trained.run), tokenizer_path(trained.run)):
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("model-f16.gguf.manifest.json", "hf.manifest.json"):
        (folder / name).write_bytes((trained.run.folder / name).read_bytes())
    config = tmp_path / "other.yaml"
    config.write_text(trained.config.read_text(encoding="utf-8").replace(str(trained.run.folder), str(folder)))
    monkeypatch.setattr("sys.argv", ["quantize", "--config", str(config)])
    return folder


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
