"""The OpenAPI description against the file that clients were made from.

A change of the contract shows as a change of `openapi.json` in the review. Renew it with

    python -m tests.http.test_openapi
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

SNAPSHOT = Path(__file__).with_name("openapi.json")
RENEW = "python -m tests.http.test_openapi"


def changed_places(before: Any, after: Any, place: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Where two JSON values differ, outermost places first."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [p for key in keys for p in changed_places(before.get(key), after.get(key), f"{place}/{key}")]
    return [] if before == after else [place]


def operations(description: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """(path, method) -> operation."""
    return {
        (path, method): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }


def test_the_description_is_the_one_in_the_repository(client: TestClient) -> None:
    """Nobody changes the contract without seeing it."""
    changed = changed_places(json.loads(SNAPSHOT.read_text()), client.get("/openapi.json").json())
    assert changed == [], f"the contract changed; if that is wanted: {RENEW}"


def test_the_described_routes_are_those_of_the_contract(client: TestClient) -> None:
    """/metrics and /docs are for people and Prometheus; the rest is described."""
    expected = {
        ("/diagnose", "post"), ("/pathologies", "get"), ("/pathologies/{pathology_id}", "get"), ("/findings", "get"),
        ("/health", "get"), ("/ready", "get"),
    }  # fmt: skip
    assert set(operations(client.get("/openapi.json").json())) == expected


def test_every_described_error_is_ours(client: TestClient) -> None:
    """FastAPI's own validation error, which holds the input, is promised nowhere."""
    description = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for (path, method), operation in operations(description).items():
        errors = {status: response for status, response in operation["responses"].items() if status != "200"}
        schemas = {json.dumps(response["content"]["application/json"]["schema"]) for response in errors.values()}
        assert schemas <= {'{"$ref": "#/components/schemas/ErrorOut"}'}, (path, method)
        assert errors or path in ("/health", "/ready"), path


def test_the_described_bounds_are_those_of_the_contract(client: TestClient) -> None:
    """Lengths, numbers and choices of the request."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    request = schemas["DiagnoseRequest"]
    fields = request["properties"]
    assert request["required"] == ["symptoms"]
    assert request["additionalProperties"] is False
    assert (fields["symptoms"]["minLength"], fields["symptoms"]["maxLength"]) == (3, 4_000)
    age = fields["age"]["anyOf"][0]
    assert (age["minimum"], age["maximum"]) == (0, 120)
    assert (fields["max_results"]["minimum"], fields["max_results"]["maximum"]) == (1, 10)
    assert fields["evidence"]["maxItems"] == 100
    defaults = {name: fields[name]["default"] for name in ("max_results", "reply", "stream")}
    assert defaults == {"max_results": 5, "reply": True, "stream": False}
    assert schemas["EvidenceIn"]["properties"]["state"]["enum"] == ["present", "absent", "unknown"]


def test_the_documentation_page_is_served(client: TestClient) -> None:
    """/docs answers with a page that reads the description."""
    response = client.get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text


if __name__ == "__main__":
    from backend.main import create_app
    from backend.settings import Settings

    description = create_app(Settings(model_enabled=False)).openapi()
    SNAPSHOT.write_text(json.dumps(description, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
