"""Every setting of the service, read once from the environment (prefix `DOCTIS_`) and passed on.

The guide's `LLM_MODEL_PATH` and the platform's `PORT` are understood too. A `DOCTIS_` variable that no field knows is
an error: a misspelt setting never goes unnoticed. The README table is tested against these fields.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.errors import SettingsError

PREFIX = "DOCTIS_"
MODELS = Path(__file__).resolve().parents[1] / "models"
EMBEDDED_MODEL = MODELS / "doctis-ai-mini-Q4_K_M.gguf"


class Settings(BaseSettings):
    """The settings, frozen. Bounds are inclusive; times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True,
        protected_namespaces=(), populate_by_name=True,
    )  # fmt: skip

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=1, le=65535, validation_alias=AliasChoices("DOCTIS_PORT", "PORT"))] = Field(
        8000, description="Port to listen on; PORT is understood too."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    api_key: SecretStr | None = Field(None, description="When set, requests need `Authorization: Bearer <key>`.")
    max_concurrent: int = Field(64, ge=1, le=1000, description="Requests to /diagnose under way at once; more get 503.")

    model_enabled: bool = Field(True, description="False: never load a model, every reply comes from the template.")
    model_path: Annotated[Path | None, Field(validation_alias=AliasChoices("DOCTIS_MODEL_PATH", "LLM_MODEL_PATH"))] = (
        Field(None, description="A GGUF file; LLM_MODEL_PATH is understood too. Default: the embedded model.")
    )
    model_repo: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Hugging Face repository to download the model from."
    )
    model_file: str | None = Field(None, pattern=r"\.gguf$", description="File of that repository.")
    model_revision: str = Field("main", description="Branch, tag or (better) full commit hash of that repository.")
    model_sha256: str | None = Field(
        None, pattern=r"^[0-9a-fA-F]{64}$", description="Expected SHA-256 of the model file; another file is refused."
    )
    model_dir: Path = Field(MODELS, description="Where a downloaded model is kept.")
    model_prompt: Literal["auto", "slots", "phi3", "zephyr", "chatml"] = Field(
        "auto", description="How the model wants its prompt; auto: from its manifest, else its chat template."
    )
    hub_url: str = Field("https://huggingface.co", description="The hub, or a mirror of it.")
    hub_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DOCTIS_HUB_TOKEN", "HF_TOKEN"),
        description="Token for a private repository; HF_TOKEN is understood too.",
    )
    context_tokens: int = Field(1024, ge=256, le=32768, description="Longest prompt and reply together, in tokens.")
    threads: int | None = Field(None, ge=1, le=256, description="CPU threads of the model. Default: the usable CPUs.")
    reply_tokens: int = Field(256, ge=16, le=2048, description="Longest reply, in tokens.")
    reply_deadline_s: float = Field(
        60.0, ge=0.1, le=600.0, description="Longest wait for a reply; after it the template answers."
    )
    queue_limit: int = Field(64, ge=1, le=256, description="Replies waiting for the model; more get the template.")


# Read from the environment by other programs too, so not ours to refuse.
_KNOWN_ALIASES = frozenset({"PORT", "LLM_MODEL_PATH", "HF_TOKEN"})


def variables() -> frozenset[str]:
    """The environment variables that the service reads."""
    return frozenset(PREFIX + name.upper() for name in Settings.model_fields) | _KNOWN_ALIASES


def _with_nearest(unknown: str) -> str:
    nearest = get_close_matches(unknown.upper(), variables(), n=1)
    return f"{unknown} (did you mean {nearest[0]}?)" if nearest else unknown


def load_settings() -> Settings:
    """Settings from the environment.

    Raises:
        SettingsError: a value is out of bounds, or a `DOCTIS_` variable is not a setting.
    """
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in variables())
    if unknown:
        raise SettingsError(f"unknown setting(s): {', '.join(map(_with_nearest, unknown))}; the README lists them all")
    try:
        settings = Settings()
    except ValueError as error:
        raise SettingsError(f"invalid setting: {error}") from None
    if (settings.model_repo is None) != (settings.model_file is None):
        raise SettingsError("DOCTIS_MODEL_REPO and DOCTIS_MODEL_FILE go together")
    return settings
