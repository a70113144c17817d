"""What a model file must be before it is loaded: its hash, its prompt, and a manifest that can be read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backend.core.prompt import Style, prompt_id
from backend.engine.manifest import Manifest, check_model, manifest_path, read_manifest, sha256_of
from backend.errors import ModelError

CONTENT = b"GGUF and the rest of a model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_SHA256 = hashlib.sha256(b"another file").hexdigest()


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A file that begins as a GGUF does."""
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


def card(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - the JSON values of a manifest
    """The content of a good manifest, with changes."""
    return {
        "name": "mini", "sha256": SHA256, "style": "slots", "prompt_id": prompt_id(Style.SLOTS),
        "tokenizer_sha256": "a" * 64, **changes,
    }  # fmt: skip


def write_card(model: Path, content: dict[str, Any]) -> None:
    """Put a manifest beside a model."""
    manifest_path(model).write_text(json.dumps(content), encoding="utf-8")


def reason_of(model: Path, expected_sha256: str | None = None) -> str:
    """Why `check_model` refuses a file; the message must name the file."""
    with pytest.raises(ModelError) as caught:
        check_model(model, expected_sha256)
    assert str(model) in str(caught.value)
    return caught.value.reason


def test_manifest_lies_beside_its_model() -> None:
    """`mini.gguf` has its manifest in `mini.gguf.json` of the same folder."""
    assert manifest_path(Path("models/mini.gguf")) == Path("models/mini.gguf.json")


def test_a_good_manifest_is_read_and_returned(model_file: Path) -> None:
    """Every field comes back, whatever the training chain put into `run`."""
    write_card(model_file, card(run={"steps": 900, "tools": {"torch": "2.13.0"}}))
    expected = Manifest(
        name="mini", sha256=SHA256, style=Style.SLOTS, prompt_id=prompt_id(Style.SLOTS), tokenizer_sha256="a" * 64,
        run={"steps": 900, "tools": {"torch": "2.13.0"}},
    )  # fmt: skip
    assert read_manifest(model_file) == expected
    assert check_model(model_file, None) == expected
    assert check_model(model_file, SHA256.upper()) == expected


def test_a_manifest_survives_writing_and_reading(model_file: Path) -> None:
    """What the training chain writes is what the server reads."""
    written = Manifest(**card(run={"seed": 17}))
    manifest_path(model_file).write_text(written.model_dump_json(indent=1), encoding="utf-8")
    assert read_manifest(model_file) == written


def test_a_manifest_cannot_be_changed() -> None:
    """It is frozen: what was checked is what is used."""
    manifest = Manifest(**card())
    with pytest.raises(ValidationError, match="frozen"):
        manifest.name = "other"  # type: ignore[misc]  # mypy says so too


def test_a_model_without_manifest_is_accepted(model_file: Path) -> None:
    """Somebody's own model needs no manifest, with or without an expected hash."""
    assert read_manifest(model_file) is None
    assert check_model(model_file, None) is None
    assert check_model(model_file, SHA256) is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(json.dumps({"name": "mini"}).encode(), id="fields missing"),
        pytest.param(json.dumps(card(colour="blue")).encode(), id="unknown field"),
        pytest.param(json.dumps(card(style="poem")).encode(), id="unknown style"),
        pytest.param(json.dumps(card(tokenizer_sha256=None)).encode(), id="no tokenizer"),
        pytest.param(json.dumps(card(sha256=12)).encode(), id="hash is a number"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(content: bytes, model_file: Path) -> None:
    """It is an error, never taken for a missing manifest, and the message names the manifest."""
    manifest_path(model_file).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf\.json") as caught:
        read_manifest(model_file)
    assert caught.value.reason == "bad_manifest"
    assert reason_of(model_file) == "bad_manifest"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Also when a manifest is there, and when a folder has the name."""
    absent = tmp_path / "model.gguf"
    assert reason_of(absent) == "model_missing"
    write_card(absent, card())
    assert reason_of(absent) == "model_missing"
    absent.mkdir()
    assert reason_of(absent) == "model_missing"


@pytest.mark.parametrize("content", [b"", b"GGU", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1"])
def test_a_file_that_is_no_gguf_is_refused(content: bytes, model_file: Path) -> None:
    """A web page or a Git LFS pointer in place of the model is told apart at once, before its hash."""
    model_file.write_bytes(content)
    write_card(model_file, card())
    assert reason_of(model_file, SHA256) == "not_gguf"


def test_another_hash_than_the_manifests_is_refused(model_file: Path) -> None:
    """One byte less than what was trained is another file."""
    write_card(model_file, card())
    model_file.write_bytes(CONTENT[:-1])
    assert reason_of(model_file) == "wrong_hash"


def test_another_hash_than_the_expected_one_is_refused(model_file: Path) -> None:
    """The setting counts with and without a manifest, also when the manifest agrees with the file."""
    assert reason_of(model_file, OTHER_SHA256) == "wrong_hash"
    write_card(model_file, card())
    assert reason_of(model_file, OTHER_SHA256) == "wrong_hash"


def test_the_expected_hash_does_not_excuse_the_manifest(model_file: Path) -> None:
    """A file with the expected hash and the manifest of another file is refused."""
    write_card(model_file, card(sha256=OTHER_SHA256))
    assert reason_of(model_file, SHA256) == "wrong_hash"


@pytest.mark.parametrize("trained_with", ["slots-00000000", prompt_id(Style.CHATML), ""])
def test_another_prompt_than_this_versions_is_refused(trained_with: str, model_file: Path) -> None:
    """A model trained with another format would be misread; the message names both formats."""
    write_card(model_file, card(prompt_id=trained_with))
    with pytest.raises(ModelError, match=prompt_id(Style.SLOTS)) as caught:
        check_model(model_file, None)
    assert caught.value.reason == "wrong_prompt"
    assert f"prompt {trained_with}," in str(caught.value)


@pytest.mark.parametrize("style", list(Style))
def test_the_prompt_is_checked_for_the_models_own_style(style: Style, model_file: Path) -> None:
    """Each style has its own prompt id, and a manifest of that style is held to it."""
    write_card(model_file, card(style=style.value, prompt_id=prompt_id(style)))
    manifest = check_model(model_file, None)
    assert manifest is not None
    assert manifest.style is style


def test_the_tokenizers_hash_is_recorded_and_not_compared(model_file: Path) -> None:
    """The tokenizer lies inside the GGUF, whose hash is checked: nothing else could be compared with it."""
    write_card(model_file, card(tokenizer_sha256="b" * 64))
    manifest = check_model(model_file, None)
    assert manifest is not None
    assert manifest.tokenizer_sha256 == "b" * 64


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sha256_of_a_file_is_that_of_its_bytes(size: int, tmp_path: Path) -> None:
    """Files are read in chunks of one mebibyte; sizes around the edges lose nothing."""
    content = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    assert sha256_of(path) == hashlib.sha256(content[:size]).hexdigest()
