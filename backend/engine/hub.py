"""Download a model from the Hugging Face Hub with huggingface_hub, with progress and retries.

The file lands in `folder` under its own name, with its manifest if it has one; `manifest.check_model` checks it.
Attempts are spaced out for about an hour, then the model is declared failed; the service assesses all along. Not
covered yet: resuming a download across restarts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.errors import ModelError
from backend.log import log_event

_WAITS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 600.0, 1200.0, 1200.0)


def download_model(
    repo: str, file: str, revision: str, folder: Path, endpoint: str, token: str | None,
    progress: Callable[[float], None], stopping: threading.Event, waits_s: tuple[float, ...] = _WAITS_S,
) -> Path:  # fmt: skip
    """Fetch `file` of `repo` at `revision` into `folder`; `progress` gets the share done, in [0, 1].

    Raises:
        ModelError: `download_refused` (wrong name, no access: not tried again), or `download_failed` in the end.
    """
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download

    folder.mkdir(parents=True, exist_ok=True)
    before = _version_of(folder / file)
    for wait_s in (*waits_s, None):
        try:
            found = hf_hub_download(
                repo, file, revision=revision, local_dir=folder, endpoint=endpoint, token=token or False,
                tqdm_class=_reporter(progress, stopping),
            )  # fmt: skip
            if _version_of(Path(found)) != before:
                _fetch_manifest(repo, file, revision, folder, endpoint, token, replaces=before is not None)
            return Path(found)
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            if refusal := _refusal(error):
                raise ModelError("download_refused", f"{repo}/{file}@{revision}: {refusal}") from None
            if stopping.is_set():
                break
            log_event("download_retry", level=logging.WARNING, exc=error, wait_s=wait_s)
            if wait_s is None or stopping.wait(wait_s):
                break
    raise ModelError(
        "download_failed", f"{repo}/{file}@{revision}: the hub cannot be reached or the download breaks off"
    )


def _version_of(path: Path) -> tuple[int, int] | None:
    """When a file was written (ns) and its size (bytes); None when it is missing."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _fetch_manifest(
    repo: str, file: str, revision: str, folder: Path, endpoint: str, token: str | None, *, replaces: bool
) -> None:
    """The manifest that `training.publish` lays beside a model and that says how it is prompted; others have none.

    Where the model `replaces` another and has none, the other's is removed.

    Raises:
        HTTPError, OSError: the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    name = f"{file}.json"
    try:
        hf_hub_download(repo, name, revision=revision, local_dir=folder, endpoint=endpoint, token=token or False)
    except RemoteEntryNotFoundError:
        if replaces:
            (folder / name).unlink(missing_ok=True)


def _refusal(error: Exception) -> str | None:
    """Why trying again cannot help: a name that is wrong or an access that is not given; None for anything else.

    huggingface_hub raises a LocalEntryNotFoundError when it cannot reach the hub at all, and also around some answers
    of the hub to its first request; only these are looked into. A later 403 is a download link that has expired.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    first_answer = isinstance(error, LocalEntryNotFoundError)
    answer = error.__cause__ if first_answer else error
    if isinstance(answer, HFValidationError):
        return type(answer).__name__
    if not isinstance(answer, HfHubHTTPError):
        return None
    status = answer.response.status_code
    named = isinstance(answer, (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError))
    if named or status == 401 or (first_answer and status in (403, 404)):
        return f"{type(answer).__name__} (HTTP {status})"
    return None


def _reporter(progress: Callable[[float], None], stopping: threading.Event) -> type:
    """A silent tqdm that reports the share done and stops a download when the service stops."""
    from tqdm import tqdm

    class Reporter(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - tqdm's own signature
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            self.total = kwargs.get("total")
            self._done = float(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            if stopping.is_set():
                raise OSError("the service is stopping")
            self._done += n or 0
            if self.total:
                progress(min(1.0, self._done / self.total))
            return None

        def update_transfer(self, n: float) -> None:
            """Xet storage counts bytes on the network apart from bytes written; `update` gets the latter."""

        def set_transfer_postfix_str(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - tqdm's own signature
            """Nothing is shown."""

    return Reporter
