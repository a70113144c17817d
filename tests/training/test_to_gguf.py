"""From a Hugging Face folder to a GGUF: the right converter, its failures told, and the same tokens afterwards."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("sentencepiece", reason="needs the training environment")

from backend.core.prompt import MARKERS, SLOTS, Piece, Style, render
from backend.engine.llama import LlamaModel
from tests.training.conftest import TinyRun
from tests.training.test_tokenizer import ODD
from training import to_gguf as stage
from training.artefacts import is_done, write_manifest
from training.errors import StaleArtefactError, TrainingError
from training.paths import gguf_path, model_path, quantized_path, tokenizer_path
from training.synthesise import _invented
from training.to_gguf import fetch_converter
from training.tokenizer import Tokenizer

pytestmark = pytest.mark.training

VERSION = metadata.version("llama-cpp-python")
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer(trained: TinyRun) -> Tokenizer:
    """The vocabulary that the model was trained with."""
    return Tokenizer(tokenizer_path(trained.run))


@pytest.fixture(scope="module")
def model(trained: TinyRun) -> Iterator[LlamaModel]:
    """The quantized model, loaded as the server loads it."""
    loaded = LlamaModel(quantized_path(trained.run), 256, 1)
    yield loaded
    loaded.close()


def archive_with(folder: Path, *names: str) -> Path:
    """A source distribution with small files of these names."""
    path = folder / f"llama_cpp_python-{VERSION}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
    return path


def converter_that(body: str, folder: Path) -> Path:
    """A stand-in for the converter, where the stage looks for the real one."""
    home = folder / f"llama.cpp-{VERSION}"
    home.mkdir(parents=True)
    (home / "convert_hf_to_gguf.py").write_text(body, encoding="utf-8")
    return home / "convert_hf_to_gguf.py"


@pytest.fixture
def started(tmp_path: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose model folder holds one file, with the command line set to its configuration."""
    folder = tmp_path / "runs" / "other"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "config.json").write_text("{}", encoding="utf-8")
    write_manifest(folder / "hf", "pretrain", [], {}, 17)
    config = tmp_path / "other.yaml"
    config.write_text(tiny.config.read_text(encoding="utf-8").replace(str(tiny.run.folder), str(folder)))
    monkeypatch.setattr("sys.argv", ["to_gguf", "--config", str(config)])
    return folder


def test_a_fetched_converter_is_used_again(tmp_path: Path) -> None:
    """The copy of the installed version is enough; nothing is downloaded."""
    script = converter_that("", tmp_path)
    assert fetch_converter(tmp_path) == script


def test_a_converter_that_cannot_be_fetched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the index, the error says so and nothing half unpacked is left."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(TrainingError, match="cannot fetch the converter"):
        fetch_converter(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_only_the_converter_is_unpacked(tmp_path: Path) -> None:
    """Of the whole distribution, the script and the two packages it imports; nothing outside the folder."""
    inside = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
    archive = archive_with(
        tmp_path, f"{inside}convert_hf_to_gguf.py", f"{inside}conversion/llama.py", f"{inside}gguf-py/gguf/vocab.py",
        f"{inside}src/llama.cpp", f"llama_cpp_python-{VERSION}/setup.py",
    )  # fmt: skip
    home = tmp_path / "home"
    stage._unpack(archive, home)
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert files == ["conversion/llama.py", "convert_hf_to_gguf.py", "gguf-py/gguf/vocab.py"]


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    """A member with ".." in its name stops the unpacking."""
    inside = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
    archive = archive_with(tmp_path, f"{inside}conversion/../../../outside.py")
    with pytest.raises(tarfile.OutsideDestinationError):
        stage._unpack(archive, tmp_path / "deep" / "home")
    assert not list(tmp_path.rglob("outside.py"))


def test_a_failing_converter_is_told_with_its_last_words(started: Path) -> None:
    """The end of its error output is in the message, and no GGUF is left."""
    converter_that("import sys; sys.exit('unsupported architecture')", started.parent)
    with pytest.raises(TrainingError, match="unsupported architecture"):
        stage.main()
    assert [path.name for path in started.glob("*.gguf*")] == []


def test_the_stage_writes_the_converters_output_once(started: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The converter is told the folder, the file and the type; a second run does not call it."""
    body = "import sys; a = sys.argv; open(a[a.index('--outfile') + 1], 'w').write(' '.join(a[1:2] + a[4:]))"
    script = converter_that(body, started.parent)
    stage.main()
    target = started / "model-f16.gguf"
    assert target.read_text() == f"{started / 'hf'} --outtype f16 --model-name doctis-ai-tiny"
    script.write_text("import sys; sys.exit('called again')", encoding="utf-8")
    stage.main()
    assert "nothing to do" in capsys.readouterr().err


def test_the_stage_refuses_to_start_without_a_model(started: Path) -> None:
    """The message names the command that trains one."""
    (started / "hf" / "config.json").write_text("{ }", encoding="utf-8")
    with pytest.raises(StaleArtefactError, match=r"hf differs.*python -m training\.pretrain"):
        stage.main()


def test_the_trained_model_is_converted(trained: TinyRun) -> None:
    """The real converter leaves a GGUF with its manifest."""
    run = trained.run
    assert gguf_path(run).read_bytes()[:4] == b"GGUF"
    assert is_done(gguf_path(run), [model_path(run)], {"outtype": "f16", "model_name": run.name}, run.seed)


@pytest.mark.parametrize("text", ODD)
def test_odd_text_has_the_same_tokens_in_the_gguf(text: str, tokenizer: Tokenizer, model: LlamaModel) -> None:
    """Ligatures, emoji, control characters, spaces and typed markers: sentencepiece and llama.cpp agree."""
    assert model.encode([Piece(text)]) == [tokenizer.bos, *tokenizer.text(text)]


@given(TEXTS, TEXTS)
def test_any_prompt_has_the_same_tokens_in_the_gguf(
    tokenizer: Tokenizer, model: LlamaModel, patient: str, fact: str
) -> None:
    """What the server tokenizes is, id for id, what training tokenized."""
    plain = [(patient, False), (MARKERS[1], True), (fact, False), (patient, False)]
    pieces = [(MARKERS[0], True), *plain, (SLOTS[0], True)]
    assert model.encode([Piece(*piece) for piece in pieces]) == tokenizer.prompt(pieces)


def test_whole_prompts_have_the_same_tokens_in_the_gguf(tokenizer: Tokenizer, model: LlamaModel) -> None:
    """A hundred prompts in the style of the embedded model."""
    rng = random.Random(4)
    for _ in range(100):
        text, facts = _invented(rng)
        pieces = render(facts, text, Style.SLOTS).pieces
        assert model.encode(pieces) == tokenizer.prompt([(piece.text, piece.special) for piece in pieces])


@pytest.mark.parametrize("marker", [*MARKERS, *SLOTS])
def test_a_marker_is_one_control_token_only_where_asked(marker: str, tokenizer: Tokenizer, model: LlamaModel) -> None:
    """In the GGUF too, a typed marker is text and a special piece one token."""
    assert model.encode([Piece(marker, special=True)]) == [tokenizer.bos, tokenizer.marker(marker)]
    assert tokenizer.marker(marker) not in model.encode([Piece(f"a {marker} b")])
