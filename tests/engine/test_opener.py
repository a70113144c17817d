"""From settings to an open model: which file is taken, what is reported meanwhile, and why it may fail."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp as llama
import pytest
from pydantic import SecretStr

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.ports import ModelStatus, Phase
from backend.core.prompt import Style, prompt_id, render
from backend.engine.llama import LlamaModel
from backend.engine.manifest import Manifest, manifest_path, read_manifest, sha256_of
from backend.engine.opener import _find, _style, opener_for
from backend.engine.scheduler import Engine, Opened
from backend.errors import ModelError
from backend.settings import EMBEDDED_MODEL, Settings
from tests.engine.conftest import PATIENCE_S, eventually
from tests.engine.stand_in_hub import Hub
from tests.fakes import ByteModel

REPO, FILE = "someone/a-model", "model-q4.gguf"
JUNK = b"GGUF and nothing that llama.cpp understands"


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    """A file that passes for a GGUF until llama.cpp reads it."""
    path = tmp_path / "junk.gguf"
    path.write_bytes(JUNK)
    return path


def from_hub(hub: Hub, folder: Path, **settings: Any) -> Settings:  # noqa: ANN401 - the fields of Settings
    """Settings that name a file of the hub."""
    return Settings(model_repo=REPO, model_file=FILE, model_dir=folder, hub_url=hub.url, **settings)


def open_it(settings: Settings) -> tuple[list[ModelStatus], Opened | ModelError]:
    """What the opener reports, and what it gives or raises."""
    reported: list[ModelStatus] = []
    try:
        return reported, opener_for(settings)(reported.append, threading.Event())
    except ModelError as error:
        return reported, error


def reason_of(settings: Settings) -> str:
    """Why the opener fails."""
    error = open_it(settings)[1]
    assert isinstance(error, ModelError)
    return error.reason


@contextmanager
def opened(settings: Settings) -> Iterator[Opened]:
    """What the opener gives; closed at the end."""
    result = opener_for(settings)(lambda _status: None, threading.Event())
    yield result
    result.model.close()


def test_without_settings_the_embedded_model_is_taken() -> None:
    """Nothing is reported but what the opener itself does next."""
    assert _find(Settings(), lambda _status: None, threading.Event()) == EMBEDDED_MODEL


def test_a_given_file_is_taken_before_the_hub(hub: Hub, junk: Path, tmp_path: Path) -> None:
    """A file on the disk needs no network."""
    settings = from_hub(hub, tmp_path / "models", model_path=junk)
    assert reason_of(settings) == "load_failed"
    assert hub.requests == []


def test_a_given_file_that_is_absent_comes_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    """With a repository as well, the file is downloaded in its stead."""
    hub.publish(REPO, FILE, JUNK)
    settings = from_hub(hub, tmp_path / "models", model_path=tmp_path / "absent.gguf")
    assert reason_of(settings) == "load_failed"
    assert (tmp_path / "models" / FILE).read_bytes() == JUNK


def test_a_download_is_reported_from_zero_to_one(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the download with its share, then loading, each with the name of the file."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    hub.publish(REPO, FILE, JUNK.ljust(4096))
    reported, _error = open_it(from_hub(hub, tmp_path))
    assert reported == [
        *(ModelStatus(Phase.DOWNLOADING, name=FILE, progress=share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
        ModelStatus(Phase.LOADING, name=FILE),
    ]


def test_a_downloaded_file_is_kept(hub: Hub, tmp_path: Path) -> None:
    """The next start asks the hub nothing and reports no download."""
    hub.publish(REPO, FILE, JUNK)
    open_it(from_hub(hub, tmp_path))
    hub.requests.clear()
    reported, _error = open_it(from_hub(hub, tmp_path))
    assert reported == [ModelStatus(Phase.LOADING, name=FILE)]
    assert hub.requests == []


def test_the_settings_reach_the_hub(hub: Hub, tmp_path: Path) -> None:
    """Revision and token are those of the settings."""
    hub.publish(REPO, FILE, JUNK, revision="v2")
    open_it(from_hub(hub, tmp_path, model_revision="v2", hub_token=SecretStr("hf_secret")))
    assert {request.path for request in hub.requests} == {
        f"/{REPO}/resolve/v2/{name}" for name in (FILE, f"{FILE}.json")
    }
    assert {request.authorization for request in hub.requests} == {"Bearer hf_secret"}


def manifest_of(model: Path, **changes: Any) -> Manifest:  # noqa: ANN401 - the fields of Manifest
    """A manifest of a file, with changes."""
    good = {
        "name": "named", "sha256": sha256_of(model), "style": Style.SLOTS, "prompt_id": prompt_id(Style.SLOTS),
        "tokenizer_sha256": "a" * 64,
    }  # fmt: skip
    return Manifest(**{**good, **changes})


def failing(case: str, junk: Path) -> Settings:
    """Settings of a model that cannot be opened."""
    if case == "model_missing":
        return Settings(model_path=junk.with_name("absent.gguf"))
    if case == "wrong_hash":
        return Settings(model_path=junk, model_sha256="0" * 64)
    if case == "not_gguf":
        junk.write_bytes(b"<!DOCTYPE html>")
    if case == "bad_manifest":
        manifest_path(junk).write_text("{")
    if case == "wrong_prompt":
        manifest_path(junk).write_text(manifest_of(junk, prompt_id="slots-00000000").model_dump_json())
    return Settings(model_path=junk)


@pytest.mark.parametrize(
    "reason", ["model_missing", "not_gguf", "wrong_hash", "bad_manifest", "wrong_prompt", "load_failed"]
)
def test_a_model_that_cannot_be_opened_is_reported(
    reason: str, junk: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """The service goes on: the status has the reason, the log names the file, and nothing is raised."""
    engine = Engine(opener_for(failing(reason, junk)), reply_tokens=64, deadline_s=1.0, queue_limit=1)
    engine.start()
    engine._thread.join(PATIENCE_S)
    assert engine.status == ModelStatus(Phase.FAILED, reason=reason)
    fields = caplog.records[-1].__dict__["fields"]
    assert (fields["event"], fields["reason"]) == ("model_failed", reason)
    assert str(junk.parent) in fields["detail"]


def test_a_refused_download_is_reported(hub: Hub, tmp_path: Path) -> None:
    """The same for a file that the hub does not have."""
    engine = Engine(opener_for(from_hub(hub, tmp_path)), reply_tokens=64, deadline_s=1.0, queue_limit=1)
    engine.start()
    engine._thread.join(PATIENCE_S)
    assert engine.status == ModelStatus(Phase.FAILED, reason="download_refused")


@pytest.mark.parametrize(
    ("setting", "in_manifest", "template", "expected"),
    [
        ("auto", Style.SLOTS, None, Style.SLOTS),
        ("auto", Style.ZEPHYR, "{{ '<|im_start|>' }}", Style.ZEPHYR),
        ("auto", None, "{{ '<|im_start|>' }}", Style.CHATML),
        ("auto", None, "{{ '<|user|>' + '<|end|>' }}", Style.PHI3),
        ("auto", None, "{{ '<|user|>' + eos_token }}", Style.ZEPHYR),
        ("chatml", Style.SLOTS, "{{ '<|user|>' }}", Style.CHATML),
        ("phi3", None, None, Style.PHI3),
    ],
)
def test_the_prompt_style_is_set_or_found(
    setting: str, in_manifest: Style | None, template: str | None, expected: Style, junk: Path
) -> None:  # fmt: skip
    """The setting counts before the manifest, the manifest before the chat template."""
    manifest = manifest_of(junk, style=in_manifest) if in_manifest else None
    assert _style(Settings.model_validate({"model_prompt": setting}), manifest, template) is expected


@pytest.mark.parametrize("template", [None, "", "{{ '[INST]' }}"])
def test_an_unknown_prompt_style_is_an_error(template: str | None) -> None:
    """A family that is not known is never guessed; the message names the setting."""
    with pytest.raises(ModelError, match="DOCTIS_MODEL_PROMPT") as caught:
        _style(Settings(), None, template)
    assert caught.value.reason == "unknown_prompt"


class PretendLlama(ByteModel):
    """Loads anything; the last one made is kept for the test to look at."""

    last: PretendLlama
    chat_template: str | None = None
    ours = True

    def __init__(self, path: Path, context_tokens: int, threads: int) -> None:
        super().__init__(context_tokens=context_tokens)
        self.path, self.threads = path, threads
        type(self).last = self

    def has_control_tokens(self, _markers: Sequence[str]) -> bool:
        """Whether it is a model of ours."""
        return self.ours


def test_the_settings_reach_the_model(junk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, context and threads are those of the settings; without a manifest the name is the file's."""
    monkeypatch.setattr("backend.engine.llama.LlamaModel", PretendLlama)
    settings = Settings(model_path=junk, context_tokens=512, threads=3, model_prompt="zephyr")
    with opened(settings) as result:
        assert result == Opened(PretendLlama.last, "junk", Style.ZEPHYR)
    assert (PretendLlama.last.path, PretendLlama.last.context_tokens, PretendLlama.last.threads) == (junk, 512, 3)


def test_the_manifest_names_the_model(junk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name and style are those of the manifest, not of the file or its template."""
    monkeypatch.setattr("backend.engine.llama.LlamaModel", PretendLlama)
    manifest_path(junk).write_text(manifest_of(junk).model_dump_json())
    with opened(Settings(model_path=junk)) as result:
        assert result == Opened(PretendLlama.last, "named", Style.SLOTS)


def test_a_slots_model_without_our_markers_is_closed(junk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary that lacks them would read our markers as text."""
    monkeypatch.setattr("backend.engine.llama.LlamaModel", PretendLlama)
    monkeypatch.setattr(PretendLlama, "ours", False)
    manifest_path(junk).write_text(manifest_of(junk).model_dump_json())
    assert reason_of(Settings(model_path=junk)) == "wrong_tokenizer"
    assert PretendLlama.last.closed


def test_a_model_larger_than_the_memory_is_not_loaded(junk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading it would have the whole service killed."""
    monkeypatch.setattr("backend.engine.opener.memory_limit_bytes", lambda: junk.stat().st_size - 1)
    assert reason_of(Settings(model_path=junk)) == "too_large"


def test_a_damaged_download_is_removed(hub: Hub, tmp_path: Path) -> None:
    """The next start downloads it again; somebody's own file is left alone."""
    hub.publish(REPO, FILE, JUNK)
    assert reason_of(from_hub(hub, tmp_path, model_sha256="0" * 64)) == "wrong_hash"
    assert not (tmp_path / FILE).exists()
    own = tmp_path / "own.gguf"
    own.write_bytes(JUNK)
    assert reason_of(from_hub(hub, tmp_path, model_path=own, model_sha256="0" * 64)) == "wrong_hash"
    assert own.exists()


def test_a_model_of_unknown_style_is_closed(junk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is given back before the failure is reported."""
    monkeypatch.setattr("backend.engine.llama.LlamaModel", PretendLlama)
    assert reason_of(Settings(model_path=junk)) == "unknown_prompt"
    assert PretendLlama.last.closed


@pytest.mark.model
def test_a_good_model_is_loaded(model_path: Path) -> None:
    """Loading is reported, and the name and the style are those of the manifest."""
    manifest = read_manifest(model_path)
    assert manifest is not None
    reported, result = open_it(Settings(model_path=model_path, threads=1))
    assert isinstance(result, Opened)
    assert reported == [ModelStatus(Phase.LOADING, name=model_path.name)]
    assert (result.name, result.style) == (manifest.name, Style.SLOTS)
    assert result.model.context_tokens == Settings().context_tokens
    result.model.close()


@pytest.mark.model
def test_a_model_without_manifest_needs_its_style(model_path: Path, tmp_path: Path) -> None:
    """The embedded GGUF has no chat template: alone it is refused, and with the setting it opens under its own name."""
    alone = tmp_path / "alone.gguf"
    shutil.copy(model_path, alone)
    assert reason_of(Settings(model_path=alone, threads=1)) == "unknown_prompt"
    with opened(Settings(model_path=alone, threads=1, model_prompt="slots")) as result:
        assert (result.name, result.style) == ("alone", Style.SLOTS)


@pytest.mark.model
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_model_is_refused(model_path: Path, tmp_path: Path, cut: bool) -> None:
    """Half a file, and a whole file with one byte changed: the manifest tells both apart before they are loaded."""
    damaged = tmp_path / "damaged.gguf"
    content = bytearray(model_path.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content[: len(content) // 2] if cut else content)
    shutil.copy(manifest_path(model_path), manifest_path(damaged))
    assert reason_of(Settings(model_path=damaged)) == "wrong_hash"


@pytest.mark.model
@pytest.mark.parametrize(("threads", "render_cpus", "expected"), [(3, "1", 3), (None, "1", 1)])
def test_threads_are_set_or_those_that_may_be_used(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, render_cpus: str, expected: int
) -> None:
    """The setting counts, else the limits of the machine; more threads than CPUs would be many times slower."""
    monkeypatch.setenv("RENDER_CPU_COUNT", render_cpus)
    with opened(Settings(model_path=model_path, threads=threads, context_tokens=256)) as result:
        assert isinstance(result.model, LlamaModel)
        context = result.model._context
        assert llama.llama_n_threads(context) == llama.llama_n_threads_batch(context) == expected


@pytest.mark.model
@pytest.mark.anyio
async def test_the_engine_writes_with_the_real_model(model_path: Path) -> None:
    """Settings in, a French reply out: slots are filled in with the facts, and none is left."""
    facts = Facts(
        level=Urgency.EMERGENCY_DEPARTMENT, who="votre fille", abstained=False, probable=True,
        causes=("une appendicite", "une gastro-entérite", "une infection urinaire"),
        signs=("une douleur en bas à droite du ventre", "des nausées", "un peu de fièvre"),
        alarm="douleur du ventre à droite", phone="112", advice="Ne lui donnez rien à manger.",
        worry="Si la douleur augmente, appelez le 15.",
    )  # fmt: skip
    settings = Settings(model_path=model_path, threads=1)
    engine = Engine(opener_for(settings), reply_tokens=96, deadline_s=PATIENCE_S, queue_limit=1)
    engine.start()
    try:
        eventually(lambda: engine.status.phase in (Phase.READY, Phase.FAILED))
        assert engine.status.phase is Phase.READY
        prompt = render(facts, "Ma fille a mal au ventre en bas à droite", engine.style)
        text = "".join([piece async for piece in engine.write(prompt)])
    finally:
        engine.stop()
    assert "une appendicite" in text
    assert "<|" not in text
