"""Every error of the contract: status, stable code, a French sentence, the request id, and nothing of the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from backend.core.diagnose import Diagnoser
from tests.fakes import FakeModel
from tests.http.conftest import MIGRAINE, AppMaker, Exchange, HeldWriter, connect, make_faulty, soon

SECRET = "zorglubine"
"""Stands in everything that is sent; no error may hold it."""
JSON = {"content-type": "application/json"}

MESSAGES = {
    "invalid_request": "La demande contient un champ manquant, inconnu ou mal rempli.",
    "not_json": "Le corps de la demande n'est pas du JSON valide.",
    "body_too_large": "La demande est trop longue (64 Kio au plus).",
    "unsupported_media_type": "Envoyez la demande en JSON, avec l'en-tête Content-Type: application/json.",
    "unauthorized": "Clé d'accès absente ou incorrecte.",
    "not_found": "Cette adresse n'existe pas.",
    "method_not_allowed": "Cette méthode HTTP n'est pas permise à cette adresse.",
    "overloaded": "Le service est trop sollicité. Réessayez dans quelques secondes. En cas d'urgence, appelez le 15.",
    "internal_error": "Une erreur est survenue de notre côté. En cas d'urgence, appelez le 15.",
}


def error_of(response: Any, status: int, code: str) -> dict[str, Any]:  # noqa: ANN401 - of either client
    """The error of an answer, after the checks that hold for every error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) - {"fields"} == {"code", "message", "request_id"}
    assert (error["code"], error["message"]) == (code, MESSAGES[code])
    assert len(error["request_id"]) == 32
    assert SECRET not in response.text
    assert SECRET not in str(response.headers)
    return error


def problems_of(response: Any) -> list[tuple[str, str, str]]:  # noqa: ANN401 - of either client
    """Field, type and French message of each problem of a refused request."""
    error = error_of(response, 422, "invalid_request")
    assert all(set(problem) == {"field", "type", "message"} for problem in error["fields"])
    return [(problem["field"], problem["type"], problem["message"]) for problem in error["fields"]]


# --- fields ----------------------------------------------------------------------------------------------------------

SHORT = "Ce texte est trop court (3 caractères au moins)."
LONG = "Ce texte est trop long (4 000 caractères au plus)."
NUMBER = "Il faut un nombre."
SMALL, LARGE = "Ce nombre est trop petit.", "Ce nombre est trop grand."
CHOICE = "Cette valeur n'est pas permise."
YES_OR_NO = "Il faut true ou false."
UNKNOWN_KEY = "Ce champ n'existe pas ; ceux qui existent sont décrits à l'adresse /docs."
LIST = "Il faut une liste."


@pytest.mark.parametrize(
    ("fields", "field", "kind", "message"),
    [
        ({"symptoms": ""}, "symptoms", "string_too_short", SHORT),
        ({"symptoms": "ah"}, "symptoms", "string_too_short", SHORT),
        ({"symptoms": "  \n\t "}, "symptoms", "blank", "Décrivez ce que vous ressentez."),
        ({"symptoms": SECRET.ljust(4_001, "é")}, "symptoms", "string_too_long", LONG),
        ({"symptoms": SECRET.ljust(5_000, "a")}, "symptoms", "string_too_long", LONG),
        ({"symptoms": None}, "symptoms", "string_type", "Il faut un texte."),
        ({"symptoms": 12}, "symptoms", "string_type", "Il faut un texte."),
        ({"symptoms": [SECRET]}, "symptoms", "string_type", "Il faut un texte."),
        ({"age": -0.1}, "age", "greater_than_equal", SMALL),
        ({"age": 120.1}, "age", "less_than_equal", LARGE),
        ({"age": "40"}, "age", "float_type", NUMBER),
        ({"age": SECRET}, "age", "float_type", NUMBER),
        ({"age": True}, "age", "float_type", NUMBER),
        ({"sex": "f"}, "sex", "literal_error", CHOICE),
        ({"sex": SECRET}, "sex", "literal_error", CHOICE),
        ({"pregnant": 1}, "pregnant", "bool_type", YES_OR_NO),
        ({"pregnant": "oui"}, "pregnant", "bool_type", YES_OR_NO),
        ({"max_results": 0}, "max_results", "greater_than_equal", SMALL),
        ({"max_results": 11}, "max_results", "less_than_equal", LARGE),
        ({"max_results": True}, "max_results", "int_type", "Il faut un nombre entier."),
        ({"max_results": 2.5}, "max_results", "int_type", "Il faut un nombre entier."),
        ({"max_results": None}, "max_results", "int_type", "Il faut un nombre entier."),
        ({"reply": "true"}, "reply", "bool_type", YES_OR_NO),
        ({"stream": 0}, "stream", "bool_type", YES_OR_NO),
        ({"evidence": {}}, "evidence", "list_type", LIST),
        ({"evidence": SECRET}, "evidence", "list_type", LIST),
        ({"evidence": [SECRET]}, "evidence.0", "model_attributes_type", "Il faut un objet JSON."),
        ({"evidence": [{"id": "fever", "state": SECRET}]}, "evidence.0.state", "literal_error", CHOICE),
        ({"evidence": [{"id": "fever", "state": "past"}]}, "evidence.0.state", "literal_error", CHOICE),
        ({"evidence": [{"id": "fever"}]}, "evidence.0.state", "missing", "Ce champ est obligatoire."),
        ({"evidence": [{"id": 3, "state": "present"}]}, "evidence.0.id", "string_type", "Il faut un texte."),
        ({"evidence": [{"id": "fever", "state": "absent", SECRET: 1}]}, "evidence.0", "extra_forbidden", UNKNOWN_KEY),
        (
            {"evidence": [{"id": SECRET, "state": "present"}] * 101}, "evidence", "too_long",
            "Cette liste est trop longue (100 au plus).",
        ),
        ({SECRET: 1}, "", "extra_forbidden", UNKNOWN_KEY),
        ({"pregnant": True, "sex": "M"}, "pregnant", "implausible", "« pregnant » et « sex » se contredisent."),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_and_explained(
    client: TestClient, fields: dict[str, Any], field: str, kind: str, message: str
) -> None:
    """One wrong field, one problem: where, what sort, and what is expected, in French."""
    response = client.post("/diagnose", json={"symptoms": f"J'ai mal à la tête {SECRET}", **fields})
    assert problems_of(response) == [(field, kind, message)]


def test_a_missing_text_is_named(client: TestClient) -> None:
    """`symptoms` is required."""
    assert problems_of(client.post("/diagnose", json={})) == [("symptoms", "missing", "Ce champ est obligatoire.")]


def test_all_wrong_fields_are_named_at_once(client: TestClient) -> None:
    """A client corrects its request in one go."""
    body = {"symptoms": 1, "age": SECRET, "sex": SECRET, "max_results": 99, SECRET: SECRET}
    problems = problems_of(client.post("/diagnose", json=body))
    assert [field for field, _, _ in problems] == ["symptoms", "age", "sex", "max_results", ""]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_an_age_that_is_no_finite_number_is_refused(client: TestClient, number: str) -> None:
    """Python's JSON reader lets them through; the service does not."""
    body = f'{{"symptoms": "{SECRET} mal au ventre", "age": {number}}}'
    assert problems_of(client.post("/diagnose", content=body, headers=JSON)) == [("age", "finite_number", NUMBER)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (rf'{{"symptoms": "{SECRET} \ud800 mal au ventre"}}', "symptoms"),
        (rf'{{"symptoms": "{SECRET} mal au ventre \udc00"}}', "symptoms"),
        (rf'{{"symptoms": "mal", "evidence": [{{"id": "{SECRET}\ud800", "state": "present"}}]}}', "evidence.0.id"),
        (rf'{{"symptoms": "mal au ventre", "{SECRET}\ud800": 1}}', ""),
    ],
)  # fmt: skip
def test_half_a_surrogate_pair_is_refused(client: TestClient, body: str, field: str) -> None:
    """Text that cannot be encoded again is an error of the field, not a fault of the service."""
    message = "Ce texte contient des caractères invalides."
    assert problems_of(client.post("/diagnose", content=body, headers=JSON)) == [(field, "string_unicode", message)]


def test_control_characters_are_text(client: TestClient) -> None:
    """Escaped NUL and bell are odd, not wrong: they stand between words, and the symptoms are read."""
    response = client.post("/diagnose", json={"symptoms": "mal\u0000 au\u0007 ventre\u001b[31m et fièvre\u0085"})
    assert response.status_code == 200
    assert {"abdominal_pain", "fever"} <= {finding["id"] for finding in response.json()["findings"]}


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        f'{{"symptoms": "{SECRET}'.encode(),
        f"symptoms={SECRET}".encode(),
        f'{{"symptoms": "{SECRET} \x00 mal au ventre"}}'.encode(),
        f'{{"symptoms": "{SECRET} '.encode() + b'\xff\xfe mal au ventre"}',
        f'{{"symptoms": "{SECRET} mal é la tête"}}'.encode("latin-1"),
        f'{{"{SECRET}": '.encode() + b"[" * 20_000,
        f'{{"symptoms": "{SECRET}", "age": '.encode() + b"9" * 5_000 + b"}",
        b"\xff",
    ],
    ids=["cut off", "form", "raw NUL", "invalid UTF-8", "latin-1", "20,000 levels deep", "5,000 digits", "one byte"],
)
def test_a_body_that_is_no_json_is_refused(client: TestClient, body: bytes) -> None:
    """Whatever is wrong with it, the answer is the same and quotes nothing."""
    assert "fields" not in error_of(client.post("/diagnose", content=body, headers=JSON), 422, "not_json")


@pytest.mark.parametrize("body", ["[]", "null", f'"{SECRET}"', "3", "true", f'["{SECRET}"]'])
def test_json_that_is_no_object_is_refused(client: TestClient, body: str) -> None:
    """The request as a whole is the wrong field."""
    problems = problems_of(client.post("/diagnose", content=body, headers=JSON))
    assert problems == [("", "model_attributes_type", "Il faut un objet JSON.")]


def test_an_empty_body_is_refused(client: TestClient) -> None:
    """Said to be JSON, but nothing there."""
    assert problems_of(client.post("/diagnose", headers=JSON)) == [("", "missing", "Ce champ est obligatoire.")]


def pieces(size_bytes: int) -> Iterator[bytes]:
    """A valid body of exactly that size, in pieces of at most a kibibyte, so that its length is not announced."""
    opening, closing = f'{{"symptoms": "{SECRET}'.encode(), b'"}'
    yield opening
    left = size_bytes - len(opening) - len(closing)
    while left:
        yield b"a" * min(left, 1_024)
        left -= min(left, 1_024)
    yield closing


@pytest.mark.parametrize("size_bytes", [64 * 1024 + 1, 100_000, 1_000_000])
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_64_kib_is_refused(client: TestClient, size_bytes: int, announced: bool) -> None:
    """With its length announced or in chunks, the answer is ours, with a request id."""
    body = b"".join(pieces(size_bytes)) if announced else pieces(size_bytes)
    response = client.post("/diagnose", content=body, headers=JSON)
    error = error_of(response, 413, "body_too_large")
    assert response.headers["x-request-id"] == error["request_id"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_64_kib_is_read(client: TestClient, announced: bool) -> None:
    """The limit itself is allowed: only the text in it is too long."""
    body = b"".join(pieces(64 * 1024)) if announced else pieces(64 * 1024)
    assert problems_of(client.post("/diagnose", content=body, headers=JSON)) == [("symptoms", "string_too_long", LONG)]


@pytest.mark.parametrize("characters", [100_000, 65_536])
def test_a_text_of_a_hundred_thousand_characters_is_too_large(client: TestClient, characters: int) -> None:
    """So long a text is not even read."""
    error_of(client.post("/diagnose", json={"symptoms": SECRET.ljust(characters, "a")}), 413, "body_too_large")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", ""]
)
def test_another_media_type_is_refused(client: TestClient, media_type: str) -> None:
    """The body must be said to be JSON."""
    body = json.dumps({"symptoms": f"{MIGRAINE} {SECRET}"})
    response = client.post("/diagnose", content=body, headers={"content-type": media_type})
    error_of(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_is_recognised_however_it_is_written(client: TestClient, media_type: str) -> None:
    """Case and parameters of the media type do not matter."""
    body = json.dumps({"symptoms": MIGRAINE})
    assert client.post("/diagnose", content=body, headers={"content-type": media_type}).status_code == 200


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"/{SECRET}", f"/pathologies/{SECRET}", f"/findings/{SECRET}", f"/?q={SECRET}"])
def test_an_unknown_address_is_not_found(client: TestClient, path: str) -> None:
    """404, without repeating the address."""
    error_of(client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/diagnose", "POST"),
        ("PUT", "/diagnose", "POST"),
        ("DELETE", "/findings", "GET"),
        ("POST", "/health", "GET"),
        ("PATCH", "/pathologies/migraine", "GET"),
    ],
)
def test_a_wrong_method_is_refused(client: TestClient, method: str, path: str, allowed: str) -> None:
    """405, with the methods that are allowed."""
    response = client.request(method, path, headers=JSON)
    error_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed


# --- the service itself ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_full_service_says_when_to_come_back(make_app: AppMaker, streamed: bool) -> None:
    """Over `max_concurrent` requests under way: 503 with Retry-After, and /health still answers; then it goes on."""
    model = HeldWriter("Un mot.")
    app = make_app(model, max_concurrent=1)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        async with Exchange(app, {"symptoms": MIGRAINE, "stream": streamed}) as exchange:
            await soon(model.asked.wait())
            refused = await soon(client.post("/diagnose", json={"symptoms": SECRET}))
            error_of(refused, 503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await client.get("/health")).status_code == 200
            model.release(2)
            assert await exchange.status() == 200
            while await exchange.chunk():
                pass
        assert (await client.post("/diagnose", json={"symptoms": MIGRAINE, "reply": False})).status_code == 200


def test_a_fault_leaks_nothing(
    make_app: AppMaker, diagnoser: Diagnoser, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """An error whose message holds the text: neither answer nor log has it; one id joins them; it is counted."""
    app = make_app(FakeModel())
    make_faulty(app, diagnoser)
    with connect(app) as client:
        response = client.post("/diagnose", json={"symptoms": f"{MIGRAINE} {SECRET}"})
        error = error_of(response, 500, "internal_error")
        assert client.get("/health").status_code == 200
        assert 'doctis_requests_total{route="/diagnose",status="500"} 1.0' in client.get("/metrics").text
    assert response.headers["x-request-id"] == error["request_id"]
    assert "ValueError" not in response.text
    output = "".join(capfd.readouterr())
    assert SECRET not in output
    (line,) = [json.loads(line) for line in output.splitlines() if "unexpected_error" in line]
    assert line["request_id"] == error["request_id"]
    assert line["error"].startswith("ValueError at ")


def test_a_fault_frees_its_place(make_app: AppMaker, diagnoser: Diagnoser) -> None:
    """Faults do not use up the places of a service."""
    app = make_app(FakeModel(), max_concurrent=1)
    make_faulty(app, diagnoser)
    with connect(app) as client:
        for _ in range(3):
            error_of(client.post("/diagnose", json={"symptoms": MIGRAINE}), 500, "internal_error")


# --- the key ---------------------------------------------------------------------------------------------------------

PROTECTED = [
    ("POST", "/diagnose"), ("GET", "/pathologies"), ("GET", "/pathologies/migraine"), ("GET", "/findings"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer clef", "Bearer clef-de-test-plus", "Basic Y2xlZg==", "Bearer é"]
)
def test_without_the_key_nothing_is_answered(make_app: AppMaker, method: str, path: str, given: str | None) -> None:
    """401 with the scheme to use."""
    headers = {} if given is None else {b"authorization": given.encode()}
    with connect(make_app(FakeModel(), api_key="clef-de-test")) as client:
        response = client.request(method, path, headers=headers, json={"symptoms": f"{MIGRAINE} {SECRET}"})
    error_of(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_with_the_key_everything_is_answered(make_app: AppMaker, method: str, path: str) -> None:
    """The same requests with the key."""
    with connect(make_app(FakeModel(), api_key="clef-de-test")) as client:
        headers = {"authorization": "Bearer clef-de-test"}
        assert client.request(method, path, headers=headers, json={"symptoms": MIGRAINE}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/docs", "/openapi.json"])
def test_the_platform_needs_no_key(make_app: AppMaker, path: str) -> None:
    """Health checks, metrics and the documentation stay open."""
    with connect(make_app(FakeModel(), api_key="clef-de-test")) as client:
        assert client.get(path).status_code == 200
