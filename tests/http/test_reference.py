"""GET /pathologies, /pathologies/{id} and /findings: what a client can show and ask without a request to /diagnose."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from backend.core.entities import Frequency, Kind, Urgency
from backend.core.knowledge import Knowledge
from tests.http.conftest import APPENDICITIS

LISTED = {"id", "name", "name_en", "icd10", "urgency"}
SHOWN = LISTED | {
    "aka", "group", "specialist", "prevalence", "sex", "findings", "advice", "when_to_worry", "sources",
}  # fmt: skip


def test_every_pathology_is_listed(client: TestClient, knowledge: Knowledge) -> None:
    """Each once, with exactly the fields of the contract."""
    response = client.get("/pathologies")
    assert response.status_code == 200
    assert set(response.json()) == {"pathologies"}
    listed = response.json()["pathologies"]
    assert [item["id"] for item in listed] == list(knowledge.pathologies)
    assert all(set(item) == LISTED for item in listed)
    assert {item["urgency"] for item in listed} <= {level.value for level in Urgency}
    assert all(item["name"] and item["name_en"] and item["icd10"] for item in listed)


def test_every_pathology_can_be_shown(client: TestClient, knowledge: Knowledge) -> None:
    """The whole entry agrees with the list, and its findings exist."""
    for item in client.get("/pathologies").json()["pathologies"]:
        response = client.get(f"/pathologies/{item['id']}")
        assert response.status_code == 200
        shown = response.json()
        assert set(shown) == SHOWN
        assert {key: shown[key] for key in LISTED} == item
        assert shown["advice"]
        assert shown["when_to_worry"]
        for finding in shown["findings"]:
            assert set(finding) == {"finding", "label", "frequency"}
            assert finding["label"] == knowledge.findings[finding["finding"]].label
            assert finding["frequency"] in {frequency.value for frequency in Frequency}


@pytest.mark.parametrize("name", ["unknown", "Migraine", "migraine ", "..", "%00", "é", "a" * 2_000])
def test_an_unknown_pathology_is_not_found(client: TestClient, name: str) -> None:
    """Ids are exact; whatever else is asked for is a 404 of ours."""
    response = client.get(f"/pathologies/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_every_finding_is_listed_with_its_question(client: TestClient, knowledge: Knowledge) -> None:
    """Each once, with a question that a person can be asked."""
    response = client.get("/findings")
    assert response.status_code == 200
    assert set(response.json()) == {"findings"}
    listed = response.json()["findings"]
    assert [item["id"] for item in listed] == list(knowledge.findings)
    assert all(set(item) == {"id", "label", "kind", "question"} for item in listed)
    assert {item["kind"] for item in listed} <= {kind.value for kind in Kind}
    assert all(item["label"] and item["question"].rstrip().endswith("?") for item in listed)


def test_an_answer_speaks_of_listed_things_only(client: TestClient) -> None:
    """Causes, findings and questions of an answer can be looked up, under the same names."""
    pathologies = {item["id"]: item for item in client.get("/pathologies").json()["pathologies"]}
    findings = {item["id"]: item for item in client.get("/findings").json()["findings"]}
    answer = client.post("/diagnose", json={"symptoms": APPENDICITIS, "max_results": 10}).json()
    for cause in answer["differential"]:
        assert {key: cause[key] for key in LISTED} == pathologies[cause["id"]]
    assert all(finding["label"] == findings[finding["id"]]["label"] for finding in answer["findings"])
    assert all(question["text"] == findings[question["finding"]]["question"] for question in answer["questions"])
