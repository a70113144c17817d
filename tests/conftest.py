"""Shared fixtures: the real knowledge base, loaded once, and apps with a fake model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings

from backend.core.diagnose import Diagnoser
from backend.core.guard import Guard, load_guard
from backend.core.knowledge import Knowledge, load
from backend.main import create_app
from backend.settings import Settings
from tests.fakes import FakeModel

settings.register_profile("default", deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def knowledge() -> Knowledge:
    """The knowledge base of the repository."""
    return load()


@pytest.fixture(scope="session")
def diagnoser(knowledge: Knowledge) -> Diagnoser:
    """A diagnoser over the real knowledge base."""
    return Diagnoser(knowledge)


@pytest.fixture(scope="session")
def guard(knowledge: Knowledge) -> Guard:
    """The real guard."""
    return load_guard(knowledge)


@pytest.fixture
def model() -> FakeModel:
    """A model that says what a test tells it to."""
    return FakeModel()


@pytest.fixture
def client(model: FakeModel) -> Iterator[TestClient]:
    """A client of an app with the fake model."""
    with TestClient(create_app(Settings(), model), raise_server_exceptions=False) as test_client:
        yield test_client
