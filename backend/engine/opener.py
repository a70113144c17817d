"""Settings -> a way to open the reply model: the given file, a file of the Hub, or the embedded one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from backend.core.ports import ModelStatus, Phase
from backend.core.prompt import MARKERS, SLOTS, Style, style_of_template
from backend.engine.host import memory_limit_bytes, usable_cpus
from backend.engine.hub import download_model
from backend.engine.manifest import Manifest, check_model
from backend.engine.scheduler import Opened, Opener, Report
from backend.errors import ModelError
from backend.settings import EMBEDDED_MODEL, Settings


def opener_for(settings: Settings) -> Opener:
    """What the owner thread runs first: find, verify and load the model that the settings name."""

    def open_model(report: Report, stopping: threading.Event) -> Opened:
        path = _find(settings, report, stopping)
        report(ModelStatus(Phase.LOADING, name=path.name))
        manifest = _check(path, settings)
        from backend.engine.llama import LlamaModel  # loads the native library: not before it is needed

        threads = settings.threads or usable_cpus(os.environ)
        model = LlamaModel(path, settings.context_tokens, threads)
        try:
            style = _style(settings, manifest, model.chat_template)
            if style is Style.SLOTS and not model.has_control_tokens((*MARKERS, *SLOTS)):
                raise ModelError("wrong_tokenizer", f"{path}: its vocabulary lacks the markers of the slots prompt")
        except ModelError:
            model.close()
            raise
        return Opened(model, manifest.name if manifest else path.stem, style)

    return open_model


def _check(path: Path, settings: Settings) -> Manifest | None:
    """Its manifest, once the file is known to be whole and small enough; a damaged download is removed.

    A file larger than the memory of the container would have the whole service killed, safety rules included.

    Raises:
        ModelError: it must not be loaded.
    """
    limit = memory_limit_bytes()
    if path.is_file() and limit is not None and path.stat().st_size > limit:
        mib = (path.stat().st_size >> 20, limit >> 20)
        raise ModelError("too_large", f"{path}: {mib[0]} MiB, and this container may use {mib[1]} MiB of memory")
    try:
        return check_model(path, settings.model_sha256)
    except ModelError as error:
        if error.reason == "wrong_hash" and settings.model_repo is not None and path != settings.model_path:
            path.unlink()  # else every start would find it again
        raise


def _find(settings: Settings, report: Report, stopping: threading.Event) -> Path:
    """The given path if the file exists; else the Hub file, downloaded when missing; else the embedded model."""
    if settings.model_path is not None and (settings.model_path.is_file() or settings.model_repo is None):
        return settings.model_path
    if settings.model_repo is None or settings.model_file is None:
        return EMBEDDED_MODEL
    kept = settings.model_dir / settings.model_file
    if kept.is_file():
        return kept
    name = Path(settings.model_file).name
    report(ModelStatus(Phase.DOWNLOADING, name=name, progress=0.0))
    token = settings.hub_token.get_secret_value() if settings.hub_token else None
    return download_model(
        settings.model_repo, settings.model_file, settings.model_revision, settings.model_dir, settings.hub_url, token,
        lambda share: report(ModelStatus(Phase.DOWNLOADING, name=name, progress=share)), stopping,
    )  # fmt: skip


def _style(settings: Settings, manifest: Manifest | None, template: str | None) -> Style:
    if settings.model_prompt != "auto":
        return Style(settings.model_prompt)
    if manifest is not None:
        return manifest.style
    found = style_of_template(template)
    if found is None:
        raise ModelError(
            "unknown_prompt", "no manifest and no chat template of a known family; set DOCTIS_MODEL_PROMPT"
        )
    return found
