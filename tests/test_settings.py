"""The settings: defaults, bounds, names, secrets; and that README, Render and Docker speak of the ones that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from backend import __main__ as program
from backend.core.errors import KnowledgeError
from backend.errors import SettingsError
from backend.settings import EMBEDDED_MODEL, MODELS, PREFIX, Settings, load_settings, variables

REPOSITORY = Path(__file__).parents[1]
SECRET = "hf_zorglubine"
DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1", "port": 8000, "log_level": "info", "api_key": None, "max_concurrent": 64,
    "model_enabled": True, "model_path": None, "model_repo": None, "model_file": None, "model_revision": "main",
    "model_sha256": None, "model_dir": MODELS, "model_prompt": "auto", "hub_url": "https://huggingface.co",
    "hub_token": None, "context_tokens": 1024, "threads": None, "reply_tokens": 256, "reply_deadline_s": 60.0,
    "queue_limit": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine reaches the tests."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)] + sorted(variables()):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Settings:
    """The settings of an environment."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return load_settings()


# --- values ----------------------------------------------------------------------------------------------------------


def test_defaults_are_those_that_are_documented() -> None:
    """An empty environment: the embedded model, on this machine only."""
    assert load_settings().model_dump() == DEFAULTS
    assert EMBEDDED_MODEL.parent == MODELS == REPOSITORY / "models"


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_field_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The prefix and the field's name in capitals; nothing is hard-wired."""
    given: dict[str, tuple[str, Any]] = {
        "host": ("0.0.0.0", "0.0.0.0"), "port": ("9000", 9000), "log_level": ("debug", "debug"),
        "api_key": (SECRET, SecretStr(SECRET)), "max_concurrent": ("3", 3), "model_enabled": ("false", False),
        "model_path": ("/m.gguf", Path("/m.gguf")), "model_repo": ("a/b", "a/b"), "model_file": ("m.gguf", "m.gguf"),
        "model_revision": ("v1", "v1"), "model_sha256": ("a" * 64, "a" * 64), "model_dir": ("/models", Path("/models")),
        "model_prompt": ("phi3", "phi3"), "hub_url": ("http://mirror", "http://mirror"),
        "hub_token": (SECRET, SecretStr(SECRET)), "context_tokens": ("2048", 2048), "threads": ("2", 2),
        "reply_tokens": ("64", 64), "reply_deadline_s": ("1.5", 1.5), "queue_limit": ("1", 1),
    }  # fmt: skip
    pair = {"model_repo": "model_file", "model_file": "model_repo"}.get(name)
    if pair:
        monkeypatch.setenv(PREFIX + pair.upper(), given[pair][0])
    settings = set_all(monkeypatch, **{PREFIX + name.upper(): given[name][0]})
    assert getattr(settings, name) == given[name][1]


@pytest.mark.parametrize(
    ("name", "field", "value", "expected"),
    [
        ("PORT", "port", "9001", 9001),
        ("LLM_MODEL_PATH", "model_path", "/guide.gguf", Path("/guide.gguf")),
        ("HF_TOKEN", "hub_token", SECRET, SecretStr(SECRET)),
    ],
)
def test_other_names_are_understood_but_ours_win(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, value: str, expected: object
) -> None:
    """The platform's PORT, the guide's LLM_MODEL_PATH, the hub's HF_TOKEN."""
    assert getattr(set_all(monkeypatch, **{name: value}), field) == expected
    ours = {"port": "9002", "model_path": "/ours.gguf", "hub_token": "ours"}[field]
    settings = set_all(monkeypatch, **{PREFIX + field.upper(): ours})
    assert getattr(settings, field) in (9002, Path("/ours.gguf"), SecretStr("ours"))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("PORT", "1", "65535"),
        ("MAX_CONCURRENT", "1", "1000"),
        ("CONTEXT_TOKENS", "256", "32768"),
        ("THREADS", "1", "256"),
        ("REPLY_TOKENS", "16", "2048"),
        ("REPLY_DEADLINE_S", "0.1", "600"),
        ("QUEUE_LIMIT", "1", "256"),
    ],
)
def test_numbers_are_bounded(monkeypatch: pytest.MonkeyPatch, name: str, low: str, high: str) -> None:
    """The bounds themselves are allowed, one step further is refused."""
    step = 0.05 if "." in low else 1
    for value in (low, high):
        assert float(getattr(set_all(monkeypatch, **{PREFIX + name: value}), name.lower())) == float(value)
    for beyond in (float(low) - step, float(high) + step):
        with pytest.raises(SettingsError):
            set_all(monkeypatch, **{PREFIX + name: f"{beyond:g}"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"), ("PORT", "80.5"), ("LOG_LEVEL", "verbose"), ("LOG_LEVEL", "DEBUG"),
        ("MODEL_ENABLED", "perhaps"), ("MODEL_REPO", "no-slash"), ("MODEL_REPO", "a/b/c"),
        ("MODEL_FILE", "model.bin"), ("MODEL_SHA256", "abc"), ("MODEL_SHA256", "g" * 64),
        ("MODEL_PROMPT", "llama3"), ("THREADS", "all"), ("REPLY_DEADLINE_S", "nan"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The message names the setting, so that a person can mend it."""
    with pytest.raises(SettingsError) as refused:
        set_all(monkeypatch, **{PREFIX + name: value})
    assert name.lower() in str(refused.value).lower()


def test_an_empty_value_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Platforms hand over unset variables as empty text."""
    assert set_all(monkeypatch, DOCTIS_PORT="", DOCTIS_API_KEY="", DOCTIS_MODEL_PATH="").model_dump() == DEFAULTS


@pytest.mark.parametrize(("name", "value"), [("DOCTIS_MODEL_REPO", "a/b"), ("DOCTIS_MODEL_FILE", "m.gguf")])
def test_repository_and_file_go_together(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """One without the other names no model."""
    with pytest.raises(SettingsError, match="go together"):
        set_all(monkeypatch, **{name: value})


def test_settings_are_frozen_and_closed() -> None:
    """Built once; no field can be changed or made up."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(nonsense=1)  # type: ignore[call-arg]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a printed settings object nor in the message of an error beside them."""
    settings = set_all(monkeypatch, DOCTIS_API_KEY=SECRET, HF_TOKEN=SECRET)
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    monkeypatch.setenv("DOCTIS_MODEL_SHA256", SECRET)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert SECRET not in str(refused.value)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("DOCTIS_MODEL_PAHT", "DOCTIS_MODEL_PATH"),
        ("DOCTIS_API_KEYS", "DOCTIS_API_KEY"),
        ("doctis_loglevel", "DOCTIS_LOG_LEVEL"),
        ("DOCTIS_HF_TOKEN", "DOCTIS_HUB_TOKEN"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, typed: str, nearest: str
) -> None:
    """A misspelt setting never goes unnoticed, and its value is not printed."""
    with pytest.raises(SettingsError) as refused:
        set_all(monkeypatch, **{typed: SECRET})
    assert f"{typed} (did you mean {nearest}?)" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_all_unknown_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start is enough to find them all; what resembles nothing gets no advice."""
    with pytest.raises(SettingsError, match=r"DOCTIS_PROT \(did you mean DOCTIS_PORT\?\), DOCTIS_ZZZZZZZZZZZZZZ;"):
        set_all(monkeypatch, DOCTIS_ZZZZZZZZZZZZZZ="1", DOCTIS_PROT="1")


def test_other_programs_variables_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the prefix is ours."""
    assert set_all(monkeypatch, DOCTOR="who", MODEL_PATH="/x", XDOCTIS_PORT="1").model_dump() == DEFAULTS


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"), [("DOCTIS_MODEL_PAHT", "DOCTIS_MODEL_PATH"), ("DOCTIS_QUEUE_LIMIT", "queue_limit")]
)
def test_a_wrong_setting_stops_the_start(tmp_path: Path, name: str, message: str) -> None:
    """A real `python -m backend`: exit code 2, one message on standard error without a traceback or the value."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", name: SECRET}
    done = subprocess.run(
        [sys.executable, "-m", "backend"], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("doctis: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_a_broken_knowledge_base_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 as well, with the problems."""

    def refuse(_settings: Settings) -> None:
        raise KnowledgeError(["pathologies.json: migraine: no such finding"])

    monkeypatch.setattr(program, "create_app", refuse)
    assert program.main() == 2
    assert "pathologies.json: migraine: no such finding" in capsys.readouterr().err


# --- what is written about them --------------------------------------------------------------------------------------


def expected_default(name: str) -> str:
    """A default as the README writes it: a path below the repository, an empty cell for none."""
    default = Settings.model_fields[name].default
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case Path():
            return str(default.relative_to(REPOSITORY))
        case float():
            return f"{default:g}"
        case _:
            return str(default)


def written_default(cell: str) -> str:
    """What stands in the default column, without its typography."""
    text = cell.strip().strip("`").rstrip("/")
    return "" if text in ("-", "–", "—", "none", "None", "unset") else text


def test_the_readme_lists_every_setting_with_its_default() -> None:
    """The table `| name | default | meaning |` is complete and true, and names nothing else."""
    rows = re.findall(
        r"^\| `DOCTIS_(\w+)`[^|]*\|([^|]*)\|", (REPOSITORY / "README.md").read_text("utf-8"), re.MULTILINE
    )
    written = {name.lower(): written_default(cell) for name, cell in rows}
    assert len(written) == len(rows)
    assert written == {name: expected_default(name) for name in Settings.model_fields}


def test_render_sets_only_what_exists() -> None:
    """The blueprint's variables, the commented ones too, are settings."""
    text = (REPOSITORY / "render.yaml").read_text("utf-8")
    keys = {variable["key"] for service in yaml.safe_load(text)["services"] for variable in service["envVars"]}
    assert keys
    assert (keys | set(re.findall(r"- key: (\w+)", text))) - variables() == set()


@pytest.mark.parametrize("file", ["README.md", "Dockerfile", "Makefile", "render.yaml"])
def test_every_name_that_is_written_exists(file: str) -> None:
    """A setting that was renamed is renamed in the papers too."""
    written = set(re.findall(r"\bDOCTIS_[A-Z0-9]\w*", (REPOSITORY / file).read_text("utf-8")))
    assert written - variables() == set()


def test_every_setting_is_described() -> None:
    """One sentence each, which the README may quote."""
    descriptions = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert [name for name, text in descriptions.items() if not re.fullmatch(r"[A-Z].*\.", text)] == []
