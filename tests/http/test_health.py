"""GET /health, /ready and /metrics through the life of the reply model, and a real server from start to stop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from backend.core.knowledge import Knowledge
from backend.core.ports import ModelStatus, Phase
from backend.core.prompt import Style
from backend.engine.scheduler import Engine, Opened, Opener, Report
from backend.errors import ModelError
from tests.fakes import ByteModel, FakeModel
from tests.http.conftest import MIGRAINE, PATIENCE_S, AppMaker, connect, serve


class StatedModel(FakeModel):
    """A model with any status."""

    def __init__(self, status: ModelStatus) -> None:
        super().__init__()
        self._status = status

    @property
    def status(self) -> ModelStatus:
        """What the test said."""
        return self._status


def engine_of(opener: Opener) -> Engine:
    """The real engine around a way to open a model."""
    return Engine(opener, reply_tokens=256, deadline_s=PATIENCE_S, queue_limit=2)


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once `condition()` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("phase", list(Phase))
def test_health_never_depends_on_the_model(make_app: AppMaker, knowledge: Knowledge, phase: Phase) -> None:
    """200 in every phase: a model that cannot load does not take the safety rules down."""
    with connect(make_app(StatedModel(ModelStatus(phase)))) as client:
        response = client.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "knowledge": knowledge.version}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (ModelStatus(Phase.WAITING), 503),
        (ModelStatus(Phase.DOWNLOADING, "m.gguf", 0.25), 503),
        (ModelStatus(Phase.LOADING, "m.gguf"), 503),
        (ModelStatus(Phase.FAILED, reason="wrong_hash"), 503),
        (ModelStatus(Phase.STOPPED, "m"), 503),
        (ModelStatus(Phase.READY, "m"), 200),
        (ModelStatus(Phase.OFF), 200),
    ],
)
def test_ready_says_where_the_model_is(make_app: AppMaker, status: ModelStatus, code: int) -> None:
    """200 only when replies are written as set up; else 503 with phase, name, progress and reason."""
    with connect(make_app(StatedModel(status))) as client:
        response = client.get("/ready")
    assert response.status_code == code
    assert response.json() == {
        "phase": status.phase.value, "model": status.name, "progress": status.progress, "reason": status.reason,
    }  # fmt: skip


def test_a_service_without_a_model_is_ready(make_app: AppMaker) -> None:
    """The template is what was asked for."""
    with connect(make_app(None)) as client:
        response = client.get("/ready")
    assert (response.status_code, response.json()["phase"]) == (200, "off")


def test_assessments_are_given_while_the_model_loads(make_app: AppMaker) -> None:
    """The real engine: healthy and answering from the start, ready once the model is open."""
    released = threading.Event()

    def open_model(report: Report, stopping: threading.Event) -> Opened:
        report(ModelStatus(Phase.LOADING, name="slow"))
        released.wait(PATIENCE_S)
        said = "Cela peut faire penser à une migraine. Prenez rendez-vous avec un médecin dans les 7 jours."
        return Opened(ByteModel(said, context_tokens=4_096), "slow", Style.SLOTS)

    engine = engine_of(open_model)
    with connect(make_app(engine)) as client:
        engine.start()
        wait_for(lambda: engine.status.phase is Phase.LOADING)
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 503
        early = client.post("/diagnose", json={"symptoms": MIGRAINE}).json()
        released.set()
        wait_for(lambda: client.get("/ready").status_code == 200)
        late = client.post("/diagnose", json={"symptoms": MIGRAINE}).json()
        engine.stop()
        assert client.get("/ready").json()["phase"] == "stopped"
    assert (early["reply"]["source"], early["reply"]["reason"]) == ("template", "not_ready")
    assert (late["reply"]["source"], late["reply"]["model"]) == ("model", "slow")
    assert early["differential"] == late["differential"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ModelError("wrong_hash", "/models/m.gguf: another file"), "wrong_hash"), (OSError("disk"), "internal_error")],
)
def test_a_model_that_fails_to_load_says_why(make_app: AppMaker, error: Exception, reason: str) -> None:
    """A short code for clients; paths and details are for the log."""

    def open_model(_report: Report, _stopping: threading.Event) -> Opened:
        raise error

    engine = engine_of(open_model)
    with connect(make_app(engine)) as client:
        engine.start()
        wait_for(lambda: engine.status.phase is Phase.FAILED)
        ready = client.get("/ready")
        assert client.get("/health").status_code == 200
        assert client.post("/diagnose", json={"symptoms": MIGRAINE}).json()["reply"]["source"] == "template"
    assert (ready.status_code, ready.json()["reason"]) == (503, reason)
    assert "/models" not in ready.text


def test_a_model_file_that_is_missing_is_a_failed_model(make_app: AppMaker, tmp_path: Path) -> None:
    """The settings' own way to open a model, from start to stop of the app."""
    with connect(make_app(None, model_enabled=True, model_path=tmp_path / "none.gguf")) as client:
        wait_for(lambda: client.get("/ready").json()["phase"] == "failed")
        assert client.get("/ready").json()["reason"] == "model_missing"
        assert client.get("/health").status_code == 200


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_count_what_happened(client: TestClient, model: FakeModel) -> None:
    """Requests by route and status, urgency, replies by source and reason, refused sentences."""
    model.pieces = ["Prenez 1 g de paracétamol."]
    client.post("/diagnose", json={"symptoms": MIGRAINE})
    client.post("/diagnose", json={"symptoms": ""})
    client.get("/pathologies/migraine")
    client.get("/nowhere")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    expected = {
        'doctis_requests_total{route="/diagnose",status="200"} 1.0',
        'doctis_requests_total{route="/diagnose",status="422"} 1.0',
        'doctis_requests_total{route="/pathologies/{pathology_id}",status="200"} 1.0',
        'doctis_requests_total{route="unknown",status="404"} 1.0',
        'doctis_urgency_total{level="medecin_7j"} 1.0',
        'doctis_outcome_total{outcome="answered"} 1.0',
        'doctis_replies_total{reason="guard_dose",source="template"} 1.0',
        'doctis_guard_refusals_total{rule="dose"} 1.0',
        "doctis_in_flight 0.0",
        "doctis_assessment_seconds_count 1.0",
        "doctis_reply_seconds_count 1.0",
    }
    assert expected - set(response.text.splitlines()) == set()


def test_two_apps_count_apart(make_app: AppMaker) -> None:
    """Each app has metrics of its own."""
    with connect(make_app(FakeModel())) as one, connect(make_app(FakeModel())) as other:
        one.post("/diagnose", json={"symptoms": MIGRAINE})
        assert 'route="/diagnose"' in one.get("/metrics").text
        assert 'route="/diagnose"' not in other.get("/metrics").text


# --- a real server ---------------------------------------------------------------------------------------------------


def test_a_server_starts_answers_and_stops_on_sigterm(tmp_path: Path) -> None:
    """`python -m backend` honours PORT, answers, and ends within seconds of SIGTERM, with one JSON object a line."""
    with serve(tmp_path, DOCTIS_MODEL_ENABLED="false") as server:
        assert httpx.get(f"{server.url}/ready").json()["phase"] == "off"
        answer = httpx.post(f"{server.url}/diagnose", json={"symptoms": MIGRAINE})
        assert answer.json()["differential"][0]["id"] == "migraine"
        assert "server" not in answer.headers
        status = server.stop()
        lines = [json.loads(line) for line in server.output.read_text().splitlines()]
    assert status in (0, -15)
    assert [line["event"] for line in lines if line["event"] in ("started", "stopped")] == ["started", "stopped"]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
