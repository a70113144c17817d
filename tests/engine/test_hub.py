"""Downloads from a hub on this machine: what is asked of it, where the file lands, and every way of failing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from backend.engine.hub import _WAITS_S, _reporter, download_model
from backend.engine.opener import opener_for
from backend.errors import ModelError
from backend.settings import Settings
from tests.engine.conftest import PATIENCE_S
from tests.engine.stand_in_hub import COMMIT, MISSING_FILE, Answer, Break, Hub, closed_port

REPO, FILE = "someone/a-model", "model-q4.gguf"
CHUNK = 1024
CONTENT = b"GGUF" + bytes(i * 7 % 251 for i in range(20 * CHUNK - 4))


class Downloader:
    """`download_model` into a folder of the test, with everything it reported."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.shares: list[float] = []
        self.stopping = threading.Event()

    def fetch(
        self, *, file: str = FILE, revision: str = "main", token: str | None = None, waits_s: tuple[float, ...] = (),
        progress: Callable[[float], None] | None = None,
    ) -> Path:  # fmt: skip
        """Download; by default one attempt."""
        return download_model(
            REPO, file, revision, self.folder, self.url, token, progress or self.shares.append, self.stopping, waits_s
        )

    def reason(self, **options: Any) -> str:  # noqa: ANN401 - the options of `fetch`
        """Why a download fails; the message must name what was asked for."""
        with pytest.raises(ModelError) as caught:
            self.fetch(**options)
        assert f"{REPO}/{options.get('file', FILE)}@{options.get('revision', 'main')}" in str(caught.value)
        return caught.value.reason


@pytest.fixture
def downloader(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Downloader:
    """A downloader from the hub of the test, which has one file; it is read in small chunks."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    hub.publish(REPO, FILE, CONTENT)
    return Downloader(tmp_path / "models", hub.url)


def attempts(caplog: pytest.LogCaptureFixture) -> list[float | None]:
    """The waits after each failed attempt, from the log; None after the last."""
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    return [field["wait_s"] for field in fields if field.get("event") == "download_retry"]


def leftovers(folder: Path) -> list[Path]:
    """Partial files."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".incomplete", ".part")]


def test_a_download_lands_in_the_folder_under_its_own_name(downloader: Downloader) -> None:
    """The folder is made, the path is returned, the bytes are those of the hub, and no partial file stays."""
    assert downloader.fetch() == downloader.folder / FILE
    assert (downloader.folder / FILE).read_bytes() == CONTENT
    assert leftovers(downloader.folder) == []


def test_a_file_of_a_subfolder_keeps_its_place(downloader: Downloader, hub: Hub) -> None:
    """`q4/model.gguf` lands in `q4/`, where the opener looks for it at the next start."""
    hub.publish(REPO, "q4/model.gguf", CONTENT)
    assert downloader.fetch(file="q4/model.gguf") == downloader.folder / "q4/model.gguf"


def test_progress_goes_up_to_one(downloader: Downloader) -> None:
    """One report a chunk, each the share of the file that is there."""
    downloader.fetch()
    assert downloader.shares == [pytest.approx((i + 1) / 20) for i in range(20)]


def test_progress_of_xet_storage_is_that_of_the_file(downloader: Downloader) -> None:
    """For files in Xet storage the library reports written and transferred bytes apart: only the former count."""
    bars = XetDownloadProgressReporter(
        reconstruction_desc="", total=100, log_level=logging.WARNING, name="huggingface_hub.xet_get",
        tqdm_class=_reporter(downloader.shares.append, downloader.stopping),
    )  # fmt: skip
    with bars:
        for written, transferred in ((0, 30), (20, 60), (60, 70), (100, 70)):
            bars.update_progress(
                SimpleNamespace(
                    total_bytes_completed=written, total_transfer_bytes_completed=transferred, total_bytes=100,
                    total_bytes_completion_rate=1.0, total_transfer_bytes_completion_rate=1.0,
                )
            )  # fmt: skip
    assert downloader.shares == [0.2, 0.6, 1.0]


def test_revision_and_token_are_sent(downloader: Downloader, hub: Hub) -> None:
    """Every request names the revision and carries the token."""
    hub.publish(REPO, FILE, CONTENT, revision="v1.2")
    downloader.fetch(revision="v1.2", token="hf_secret")
    assert [request.method for request in hub.requests] == ["HEAD", "GET", "HEAD"]
    assert {request.path for request in hub.requests} == {
        f"/{REPO}/resolve/v1.2/{name}" for name in (FILE, f"{FILE}.json")
    }
    assert {request.authorization for request in hub.requests} == {"Bearer hf_secret"}


def test_no_token_means_none_of_the_machines(
    downloader: Downloader, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A token that the machine keeps for other uses is not sent."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
    downloader.fetch()
    assert {request.authorization for request in hub.requests} == {None}


def test_a_second_download_fetches_nothing(downloader: Downloader, hub: Hub) -> None:
    """The file is compared by its ETag and kept."""
    downloader.fetch()
    assert downloader.fetch() == downloader.folder / FILE
    assert len(hub.asked("GET")) == 1


def test_a_second_download_of_a_commit_asks_nothing(downloader: Downloader, hub: Hub) -> None:
    """A full commit hash cannot mean anything else later: not one request."""
    hub.publish(REPO, FILE, CONTENT, revision=COMMIT)
    downloader.fetch(revision=COMMIT)
    hub.requests.clear()
    assert downloader.fetch(revision=COMMIT) == downloader.folder / FILE
    assert hub.requests == []


def test_the_manifest_comes_with_the_model(downloader: Downloader, hub: Hub) -> None:
    """It is replaced with the model, and goes when the new model has none."""
    manifest = downloader.folder / f"{FILE}.json"
    hub.publish(REPO, FILE, CONTENT)
    hub.publish(REPO, manifest.name, b"{1}")
    downloader.fetch()
    assert manifest.read_bytes() == b"{1}"
    hub.publish(REPO, FILE, CONTENT[::-1])
    hub.publish(REPO, manifest.name, b"{2}")
    downloader.fetch()
    assert manifest.read_bytes() == b"{2}"
    hub.publish(REPO, FILE, CONTENT * 2)
    del hub.files[f"/{REPO}/resolve/main/{manifest.name}"]
    downloader.fetch()
    assert not manifest.exists()


def test_a_changed_file_is_fetched_again(downloader: Downloader, hub: Hub) -> None:
    """A branch that moved on brings its new file."""
    downloader.fetch()
    hub.publish(REPO, FILE, CONTENT[::-1])
    assert downloader.fetch().read_bytes() == CONTENT[::-1]


def test_a_download_with_another_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    """The opener checks what came before the model is loaded, and does not keep it."""
    hub.publish(REPO, FILE, CONTENT)
    settings = Settings(
        model_repo=REPO, model_file=FILE, model_dir=tmp_path, hub_url=hub.url, model_sha256="0" * 64
    )  # fmt: skip
    with pytest.raises(ModelError) as caught:
        opener_for(settings)(lambda _status: None, threading.Event())
    assert caught.value.reason == "wrong_hash"
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(MISSING_FILE, id="no such file"),
        pytest.param(Answer(404, {"X-Error-Code": "RevisionNotFound"}), id="no such revision"),
        pytest.param(Answer(404, {"X-Error-Code": "RepoNotFound"}), id="no such repository"),
        pytest.param(Answer(401, {"X-Error-Code": "RepoNotFound"}), id="private, no token"),
        pytest.param(Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"}), id="bad token"),
        pytest.param(Answer(403, {"X-Error-Code": "GatedRepo"}), id="gated"),
        pytest.param(Answer(403, {"X-Error-Message": "Access to this resource is disabled."}), id="disabled"),
        pytest.param(Answer(403), id="forbidden"),
        pytest.param(Answer(404), id="a mirror's bare 404"),
    ],
)
def test_a_refusal_is_not_tried_again(
    answer: Answer, downloader: Downloader, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """A wrong name or no access stays so: the first answer counts, and the message is short and clear."""
    hub.answers, hub.keeps_answering = [answer], True
    assert downloader.reason(token="hf_secret", waits_s=(0.0, 0.0)) == "download_refused"
    assert [request.method for request in hub.requests] == ["HEAD"]
    assert attempts(caplog) == []


def test_a_refusal_names_its_status_and_never_the_token(downloader: Downloader, hub: Hub) -> None:
    """What the operator reads."""
    hub.answers = [Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})]
    with pytest.raises(ModelError, match="401") as caught:
        downloader.fetch(token="hf_secret")
    assert "hf_secret" not in str(caught.value)


def test_a_repository_name_that_cannot_be_is_refused(downloader: Downloader, hub: Hub) -> None:
    """The library refuses `a--b` itself; trying again for an hour would not help."""
    with pytest.raises(ModelError) as caught:
        download_model(
            "some--one/a..b", FILE, "main", downloader.folder, hub.url, None, print, threading.Event(), (0.0,)
        )  # fmt: skip
    assert caught.value.reason == "download_refused"
    assert hub.requests == []


def test_an_unreachable_hub_is_tried_again_then_reported(
    downloader: Downloader, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """One attempt more than there are waits, then `download_failed`."""
    with closed_port() as downloader.url:
        assert downloader.reason(waits_s=(0.0, 0.001)) == "download_failed"
    assert attempts(caplog) == [0.0, 0.001, None]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_tried_again(
    status: int, downloader: Downloader, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """Answers that may pass are waited out: when the hub is back the file comes."""
    library_tries = 7  # huggingface_hub asks once, then up to six times, before it gives up
    hub.answers = [Answer(status)] * library_tries
    assert downloader.fetch(waits_s=(0.0,)).read_bytes() == CONTENT
    assert attempts(caplog) == [0.0]


def test_an_interrupted_transfer_goes_on_where_it_was(downloader: Downloader, hub: Hub) -> None:
    """The hub closes the connection after a quarter: the rest is asked for, and the file is whole."""
    hub.breaks = [(5 * CHUNK, Break.CLOSED)]
    assert downloader.fetch().read_bytes() == CONTENT
    assert [request.range for request in hub.asked("GET")] == [None, f"bytes={5 * CHUNK}-"]
    assert downloader.shares == sorted(downloader.shares)
    assert downloader.shares[-1] == 1.0


def test_an_interrupted_transfer_starts_again_without_ranges(downloader: Downloader, hub: Hub) -> None:
    """A mirror that ignores ranges sends everything again: nothing is doubled, and progress ends at one."""
    hub.breaks, hub.knows_ranges = [(5 * CHUNK, Break.CLOSED)], False
    assert downloader.fetch().read_bytes() == CONTENT
    assert max(downloader.shares) == 1.0
    assert downloader.shares[-1] == 1.0


def test_a_connection_that_is_reset_is_tried_again(
    downloader: Downloader, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """A reset ends the library's attempt; ours follows and the file is whole."""
    hub.breaks = [(5 * CHUNK, Break.RESET)]
    assert downloader.fetch(waits_s=(0.0,)).read_bytes() == CONTENT
    assert attempts(caplog) == [0.0]


def test_a_transfer_that_always_breaks_off_fails(
    downloader: Downloader, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """After the last attempt there is an error and no partial file that could be taken for the model."""
    hub.breaks = [(0, Break.CLOSED)] * 100
    assert downloader.reason(waits_s=(0.0,)) == "download_failed"
    assert attempts(caplog) == [0.0, None]
    assert not (downloader.folder / FILE).exists()
    assert leftovers(downloader.folder) == []


def test_stopping_ends_a_transfer(downloader: Downloader, hub: Hub) -> None:
    """The service stops in the middle of a download: no more bytes, no other attempt, no partial file."""

    def stop(share: float) -> None:
        downloader.shares.append(share)
        downloader.stopping.set()

    assert downloader.reason(progress=stop, waits_s=(0.0, 0.0)) == "download_failed"
    assert downloader.shares == [pytest.approx(1 / 20)]
    assert len(hub.asked("GET")) == 1
    assert leftovers(downloader.folder) == []


def test_stopping_ends_a_wait(downloader: Downloader, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """A wait of an hour between two attempts ends as soon as the service stops."""
    hub.answers, hub.keeps_answering = [Answer(503)], True
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(downloader.reason(waits_s=(3600.0,))))
    with caplog.at_level(logging.WARNING):
        thread.start()
        while thread.is_alive() and not attempts(caplog):
            thread.join(0.01)
        downloader.stopping.set()
        thread.join(PATIENCE_S)
    assert reasons == ["download_failed"]
    assert attempts(caplog) == [3600.0]


def test_attempts_are_spread_over_about_an_hour() -> None:
    """As the module says: the first ones soon, never one more than twenty minutes after the last."""
    assert 50 * 60 <= sum(_WAITS_S) <= 70 * 60
    assert list(_WAITS_S) == sorted(_WAITS_S)
    assert (_WAITS_S[0], max(_WAITS_S)) == (1.0, 1200.0)
