"""A hub on this machine, an environment without settings, and the GGUF that tests marked `model` need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session

from backend.settings import EMBEDDED_MODEL, Settings, variables
from tests.engine.stand_in_hub import Hub, serve_hub

PATIENCE_S = 20.0
"""How long a test waits for what must happen before it says that it does not."""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made `condition` true."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The embedded model, or the one that DOCTIS_MODEL_PATH names; without it these tests fail, they do not skip."""
    path = Settings().model_path or EMBEDDED_MODEL
    if not path.is_file():
        pytest.fail(f"{path}: no such file; make it with `make train-mini` or set DOCTIS_MODEL_PATH")
    return path.absolute()


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub; huggingface_hub reaches it without proxy and does not wait between its own attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda _seconds: None))
    close_session()
    with serve_hub() as served:
        yield served
        close_session()
