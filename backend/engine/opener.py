"""Settings -> a way to open the reply model: the given file, a file of the Hub, or the embedded one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from backend.core.ports import ModelStatus, Phase
from backend.core.prompt import Style, style_of_template
from backend.engine.host import usable_cpus
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
        manifest = check_model(path, settings.model_sha256)
        from backend.engine.llama import LlamaModel  # loads the native library: not before it is needed

        threads = settings.threads or usable_cpus(os.environ)
        model = LlamaModel(path, settings.context_tokens, threads)
        try:
            style = _style(settings, manifest, model.chat_template)
        except ModelError:
            model.close()
            raise
        return Opened(model, manifest.name if manifest else path.stem, style)

    return open_model


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
