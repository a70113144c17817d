"""Where a release goes: the Hugging Face Hub, S3, GCS or a folder. What is there already is not sent again.

Every file is compared with what the destination has before it is sent, and again after: on the Hub by the hashes of its
API, elsewhere by reading the file back, which costs one download of it. The files of a Hub repository appear in one
commit; elsewhere one by one, `SHA256SUMS` last. An upload that was cut off starts again with the file it was at; the
Hub keeps what it has received of one. Credentials come from the environment or a login, never from the configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

from training.artefacts import say
from training.errors import TrainingError
from training.progress import Progress

_CHUNK = 8 << 20
_MIB = 1 << 20
_WORTH_SHOWING = 100 * _MIB
_HUB = "hf://"
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs"}


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A file of a release; `size` in bytes."""

    name: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What was done at a destination; `revision` is the commit of the Hub, None elsewhere."""

    sent: tuple[str, ...]
    revision: str | None = None


def hub_repository(address: str) -> str | None:
    """`hf://owner/name` -> `owner/name`; None for any other address."""
    return address.removeprefix(_HUB) if address.startswith(_HUB) else None


def send(address: str, files: Sequence[ReleaseFile], *, private: bool) -> Sent:
    """Bring `files` to a destination and make sure that they are there, unchanged.

    Raises:
        TrainingError: no access, a broken transfer, or another content than was sent.
    """
    repository = hub_repository(address)
    with _own_errors(address):
        return _send_to_hub(repository, files, private) if repository else _send_to_files(address, files)


@contextmanager
def _own_errors(address: str) -> Iterator[None]:
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:  # every storage library has exceptions of its own
        status = getattr(getattr(error, "response", None), "status_code", None)
        if hub_repository(address) and status in (401, 403):
            why = "access refused; `hf auth login` or HF_TOKEN must give a token that may write there"
        else:
            why = f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")
        raise TrainingError(f"{address}: {why}") from error


def _send_to_hub(repository: str, files: Sequence[ReleaseFile], private: bool) -> Sent:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token  # noqa: PLC0415 - only for this destination

    if get_token() is None:
        raise TrainingError(f"{_HUB}{repository}: no token; run `hf auth login`, or set HF_TOKEN")
    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=True)
    before = hub.model_info(repository)
    if private and not before.private:
        raise TrainingError(f"{_HUB}{repository} is public; make it private, or set `publish.private: false`")
    wanted = _differing(hub, repository, before.sha, files)
    if not wanted:
        return Sent((), before.sha)
    for file in wanted:
        say(f"publish: {_HUB}{repository}/{file.name}, {file.size / _MIB:.1f} MiB")
    commit = hub.create_commit(
        repository,
        [CommitOperationAdd(file.name, file.path) for file in wanted],
        commit_message=f"Publish {', '.join(file.name for file in wanted)}",
        parent_commit=before.sha,
    )
    _refuse(f"{_HUB}{repository} at {commit.oid}", _differing(hub, repository, commit.oid, files))
    return Sent(tuple(file.name for file in wanted), commit.oid)


def _differing(
    hub: Any,  # noqa: ANN401 - HfApi, which is imported late
    repository: str,
    revision: str | None,
    files: Sequence[ReleaseFile],
) -> list[ReleaseFile]:
    """Files that the repository lacks or has with another content: large ones by SHA-256, others by git's hash."""
    found = {entry.path: entry for entry in hub.get_paths_info(repository, [f.name for f in files], revision=revision)}

    def same(file: ReleaseFile) -> bool:
        entry = found.get(file.name)
        if entry is None or entry.size != file.size:
            return False
        return bool(entry.lfs.sha256 == file.sha256 if entry.lfs else entry.blob_id == _git_hash(file.path))

    return [file for file in files if not same(file)]


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _send_to_files(address: str, files: Sequence[ReleaseFile]) -> Sent:
    system, root = _open(address)
    sent = []
    for file in files:
        place = f"{root}/{file.name}"
        if _sha256_there(system, place, file) == file.sha256:
            continue
        _put(system, place, file)
        if _sha256_there(system, place, file) != file.sha256:
            _refuse(address, [file])
        sent.append(file.name)
    return Sent(tuple(sent))


def _open(address: str) -> tuple[Any, str]:
    scheme = address.partition("://")[0] if "://" in address else "file"
    try:
        system, root = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    except ImportError:
        # fsspec stays as it is pinned; not every version of it has a driver of the same number.
        wanted = f"{_DRIVERS[scheme]} fsspec=={fsspec.__version__}"
        told = f"{scheme}:// needs {_DRIVERS[scheme]}; install it with: python -m pip install {wanted}"
        raise TrainingError(f"{address}: {told}") from None
    if isinstance(system, LocalFileSystem):
        system.makedirs(root, exist_ok=True)  # elsewhere this would make a bucket
    return system, str(root)


def _put(system: Any, place: str, file: ReleaseFile) -> None:  # noqa: ANN401 - fsspec has no types
    say(f"publish: {place}, {file.size / _MIB:.1f} MiB")
    # A folder shows a half-written file; an object appears when it is whole.
    at_first = f"{place}.part" if isinstance(system, LocalFileSystem) else place
    with _progress("sending", file) as progress:
        system.put_file(str(file.path), at_first, callback=_Told(progress))
    if at_first != place:
        system.mv(at_first, place)


def _sha256_there(system: Any, place: str, file: ReleaseFile) -> str | None:  # noqa: ANN401 - fsspec has no types
    """SHA-256 of the file as it is there; None when it is missing or of another size."""
    system.invalidate_cache()
    try:
        if system.info(place)["size"] != file.size:
            return None
    except FileNotFoundError:
        return None
    digest, read = hashlib.sha256(), 0
    with (
        _progress("reading back", file) as progress,
        system.open(place, "rb", block_size=_CHUNK) as content,
    ):
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            read += len(chunk)
            progress.reached(read // _MIB, "MiB")
    return digest.hexdigest()


def _progress(what: str, file: ReleaseFile) -> Progress:
    return Progress(f"{what} {file.name}", file.size // _MIB, every=100, shown=file.size >= _WORTH_SHOWING)


def _refuse(address: str, files: Sequence[ReleaseFile]) -> None:
    if files:
        names = ", ".join(file.name for file in files)
        raise TrainingError(f"{address}: {names} arrived with another content; publish again")


class _Told(Callback):  # type: ignore[misc]  # fsspec has no types
    """Shows an upload in MiB."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress, self._shown = progress, 0

    def call(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - fsspec's own signature
        """Told by fsspec after each part."""
        if self.value // _MIB > self._shown:
            self._shown = self.value // _MIB
            self._progress.reached(self._shown, "MiB")
