"""What a model file is: the JSON that lies beside it (`model.gguf` -> `model.gguf.json`).

The training chain writes it; the server checks the file's hash, which covers the tokenizer inside, and the prompt it
was trained with, and never the hash of the knowledge base: facts come from the prompt, so new data needs no new model.
A model without a manifest (somebody's own fine-tune) is accepted and told apart by its chat template.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.core.prompt import Style, prompt_id
from backend.errors import ModelError

_CHUNK = 1 << 20


class Manifest(BaseModel):
    """A model's identity card. `run` holds whatever the training chain recorded of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str
    style: Style
    prompt_id: str
    tokenizer_sha256: str
    run: dict[str, Any] = {}


def manifest_path(model: Path) -> Path:
    """`model.gguf` -> `model.gguf.json`."""
    return model.with_name(model.name + ".json")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Cost: about 0.6 s per gigabyte."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(model: Path) -> Manifest | None:
    """The manifest beside a model, or None when there is none.

    Raises:
        ModelError: it cannot be read.
    """
    path = manifest_path(model)
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, json.JSONDecodeError) as error:
        raise ModelError("bad_manifest", f"{path}: not a manifest ({type(error).__name__})") from None


def check_model(model: Path, expected_sha256: str | None) -> Manifest | None:
    """Verify a model file against its manifest and the expected hash; returns the manifest if there is one.

    Raises:
        ModelError: missing, not a GGUF, a hash that differs, or a prompt that this version does not render.
    """
    if not model.is_file():
        raise ModelError("model_missing", f"{model}: no such file")
    with model.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("not_gguf", f"{model}: not a GGUF file")
    manifest = read_manifest(model)
    expected = [h.lower() for h in (expected_sha256, manifest.sha256 if manifest else None) if h]
    if expected and any(h != sha256_of(model) for h in set(expected)):
        raise ModelError("wrong_hash", f"{model}: its SHA-256 is not the expected one; the file is damaged or another")
    if manifest and manifest.prompt_id != prompt_id(manifest.style):
        raise ModelError(
            "wrong_prompt",
            f"{model}: trained with prompt {manifest.prompt_id}, this version renders {prompt_id(manifest.style)}",
        )
    return manifest
