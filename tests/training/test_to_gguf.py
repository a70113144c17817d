"""From a Hugging Face folder to a GGUF: the right converter, its failures told, and the same tokens afterwards."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the training environment")
pytest.importorskip("sentencepiece", reason="needs the training environment")

from transformers import LlamaConfig, LlamaForCausalLM

from backend.core.prompt import MARKERS, SLOTS, Piece, Style, render
from backend.engine.llama import LlamaModel
from tests.training.bases import PHI3_TEMPLATE, make_llama_base, make_phi3_base, make_qwen_base
from tests.training.conftest import TinyRun
from tests.training.test_tokenizer import ODD
from training import to_gguf as stage
from training.artefacts import is_done, manifest_of, write_manifest
from training.config import ScratchRun
from training.converter import converter_python, expected_environment, fetch_converter, unpack
from training.errors import StaleArtefactError, TrainingError
from training.paths import gguf_path, model_path, quantized_path, tokenizer_path
from training.synthesise import _invented
from training.to_gguf import begins_with_bos, check_folder, convert
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
    python = home / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (home / ".venv" / "made.json").write_text(json.dumps(expected_environment()), encoding="utf-8")
    return home / "convert_hf_to_gguf.py"


@pytest.fixture
def started(tmp_path: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose model folder holds one file, with the command line set to its configuration."""
    folder = tmp_path / "runs" / "other"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "hf" / "tokenizer.model").write_bytes(tokenizer_path(tiny.run).read_bytes())
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
    unpack(archive, home)
    files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert files == ["conversion/llama.py", "convert_hf_to_gguf.py", "gguf-py/gguf/vocab.py"]


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    """A member with ".." in its name stops the unpacking."""
    inside = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
    archive = archive_with(tmp_path, f"{inside}conversion/../../../outside.py")
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(archive, tmp_path / "deep" / "home")
    assert not list(tmp_path.rglob("outside.py"))


def test_a_failing_converter_is_told_with_its_last_words(started: Path) -> None:
    """The end of its error output is in the message, and no GGUF is left."""
    converter_that("import sys; sys.exit('unsupported architecture')", started.parent)
    with pytest.raises(TrainingError, match="unsupported architecture"):
        stage.main()
    assert [path.name for path in started.glob("*.gguf*")] == []


def test_the_stage_writes_the_converters_output_once(
    started: Path, trained: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """The converter is told the folder, the file, the type and the name; a second run does not call it."""
    body = (
        "import sys, shutil; a = sys.argv; print(a)\n"
        f"shutil.copy({str(gguf_path(trained.run))!r}, a[a.index('--outfile') + 1])\n"
        f"open({str(started / 'told')!r}, 'w').write(' '.join(a[1:2] + a[4:]))"
    )
    script = converter_that(body, started.parent)
    stage.main()
    target = started / "model-f16.gguf"
    assert target.read_bytes() == gguf_path(trained.run).read_bytes()
    assert (started / "told").read_text() == f"{started / 'hf'} --outtype f16 --model-name doctis-ai-tiny"
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
    assert json.loads(manifest_of(gguf_path(run)).read_text(encoding="utf-8"))["odd_rows"] == []


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


def test_the_converters_environment_is_used_again(tmp_path: Path) -> None:
    """One that was made of the same requirements, Python and torch is not made twice."""
    home = converter_that("", tmp_path).parent
    assert converter_python(home) == home / ".venv" / "bin" / "python"


def test_an_environment_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the requirements asks for another environment; without the index nothing half made stays."""
    home = converter_that("", tmp_path).parent
    other = tmp_path / "requirements.txt"
    other.write_text("transformers==0.0.0\n", encoding="utf-8")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(TrainingError, match="cannot make the converter's environment"):
        converter_python(home, other)
    assert [path.name for path in home.iterdir() if path.name.startswith(".venv.")] == []


def test_torch_is_not_installed_twice() -> None:
    """The pinned torch is the one of this environment, so the converter's looks for it here."""
    assert Path(str(expected_environment()["torch"]), "torch", "__init__.py").is_file()


@pytest.fixture
def phi3_folder(tmp_path: Path) -> Path:
    """A folder as `merge` leaves it."""
    return make_phi3_base(tmp_path / "hf")


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    """The same for a TinyLlama."""
    return make_llama_base(tmp_path / "hf")


def change(path: Path, **values: object) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


def test_a_whole_folder_is_accepted(phi3_folder: Path) -> None:
    """The published layout has nothing to refuse."""
    check_folder(phi3_folder)


@pytest.mark.parametrize("folder", ["phi3_folder", "llama_folder"])
def test_a_lost_tokenizer_model_is_refused(folder: str, request: pytest.FixtureRequest) -> None:
    """What transformers 5 does on save: the scores would be lost, every token -1000."""
    found: Path = request.getfixturevalue(folder)
    (found / "tokenizer.model").unlink()
    with pytest.raises(TrainingError, match=r"tokenizer\.model is missing.*scores"):
        check_folder(found)


def test_a_folder_without_any_tokenizer_is_refused(phi3_folder: Path) -> None:
    """Every reason is told at once."""
    for name in ("tokenizer.model", "tokenizer.json"):
        (phi3_folder / name).unlink()
    change(phi3_folder / "config.json", quantization_config={"load_in_4bit": True})
    with pytest.raises(TrainingError, match=r"(?s)merged in 4 bits.*neither tokenizer\.json nor tokenizer\.model"):
        check_folder(phi3_folder)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(phi3_folder: Path) -> None:
    """Tokens were added and the embeddings not resized."""
    change(phi3_folder / "config.json", vocab_size=1005)
    with pytest.raises(TrainingError, match="ids up to 1010, the model only 1005 rows"):
        check_folder(phi3_folder)


def test_added_tokens_that_the_converter_would_lose_are_refused(llama_folder: Path) -> None:
    """For a Llama only `added_tokens_decoder` and added_tokens.json are read; transformers 5 writes neither."""
    vocabulary = json.loads((llama_folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary["added_tokens"].append({"id": 1000, "content": "<|more|>", "special": True})
    (llama_folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    change(llama_folder / "config.json", vocab_size=1024, architectures=["LlamaForCausalLM"])
    with pytest.raises(TrainingError, match=r"would be lost: <\|more\|>"):
        check_folder(llama_folder)


def test_a_byte_level_vocabulary_needs_no_tokenizer_model(tmp_path: Path) -> None:
    """Qwen has none."""
    check_folder(make_qwen_base(tmp_path / "hf"))


def test_training_without_bos_is_seen_in_the_template(phi3_folder: Path) -> None:
    """Neither family's template begins with one; one that does is seen."""
    assert not begins_with_bos(phi3_folder)
    change(phi3_folder / "tokenizer_config.json", chat_template="{{ bos_token }}" + PHI3_TEMPLATE)
    assert begins_with_bos(phi3_folder)


def test_a_model_of_odd_width_is_refused(trained: TinyRun, tmp_path: Path) -> None:
    """Rows of 192 columns cannot be stored as Q4_K; a model from scratch can choose its sizes."""
    folder = tmp_path / "odd"
    folder.mkdir()
    source = folder / "hf"
    shutil.copytree(model_path(trained.run), source)
    odd_model(source)
    (folder / converter_home(trained.run).name).symlink_to(converter_home(trained.run))
    run = trained.run.model_copy(update={"folder": folder / "run"})
    with pytest.raises(TrainingError, match=r"rows that are not multiples of 256.*\(192\)"):
        convert(source, folder / "model.gguf", run)


def odd_model(folder: Path) -> None:
    """Replace the weights in a Hugging Face folder by narrower ones, of the same vocabulary."""
    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 192, 320, 48
    LlamaForCausalLM(config).save_pretrained(folder)


def converter_home(run: ScratchRun) -> Path:
    """Where the run's converter lies."""
    return run.folder.parent / f"llama.cpp-{VERSION}"
