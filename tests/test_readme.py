"""The README's promises: its curl calls are run against a real server, and its answers must be the true ones."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import server, wait_until_ready

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
_ELIDED = "…"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def differences(shown: object, answer: object, at: str = "") -> list[str]:
    """Where what the README shows is not in the answer; "…" stands for anything, and a list may be cut short."""
    if shown == _ELIDED:
        return []
    if isinstance(shown, dict) and isinstance(answer, dict):
        return [
            found
            for key, value in shown.items()
            if key != _ELIDED
            for found in (differences(value, answer[key], f"{at}.{key}") if key in answer else [f"{at}.{key} missing"])
        ]
    if isinstance(shown, list) and isinstance(answer, list):
        wanted = [item for item in shown if item != _ELIDED]
        whole = len(wanted) == len(shown)
        if len(answer) < len(wanted) or (whole and len(answer) != len(wanted)):
            return [f"{at}: {len(answer)} items"]
        pairs = zip(wanted, answer, strict=False)
        return [found for i, (left, right) in enumerate(pairs) for found in differences(left, right, f"{at}[{i}]")]
    return [] if shown == answer else [f"{at}: {answer!r}"]


@pytest.mark.model
def test_readme_curl_gives_the_shown_answer() -> None:
    """The first call's JSON holds every value that the README shows."""
    call = next(block for block in blocks("bash") if "curl -s " in block)
    (shown,) = (json.loads(block) for block in blocks("json"))
    with server() as (url, _, started):
        wait_until_ready(url, started)
        answer: dict[str, Any] = json.loads(_run(call, url))
    assert differences(shown, answer) == []


@pytest.mark.model
def test_readme_stream_ends_with_a_reply_of_the_model() -> None:
    """The second call streams the assessment, sentences and an end."""
    call = next(block for block in blocks("bash") if "curl -sN" in block)
    with server() as (url, _, started):
        wait_until_ready(url, started)
        events = re.findall(r"^event: (\w+)\ndata: (.*)$", _run(call, url), re.MULTILINE)
    assert [name for name, _ in events] == ["assessment", *["reply"] * (len(events) - 2), "end"]
    assert json.loads(events[0][1])["differential"][0]["id"] == "migraine"
    assert json.loads(events[-1][1])["reply"]["source"] == "model"


def test_readme_names_only_files_and_targets_that_exist() -> None:
    """Links and make targets of the README are real."""
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert [link for link in links if not (root / link).exists()] == []
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks("bash"))))
    assert [target for target in sorted(targets) if f"\n{target}:" not in makefile] == []


def _run(call: str, url: str) -> str:
    command = call.replace("http://127.0.0.1:8000", url)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60).stdout
