"""One way to write the files of `data/`, so that a change shows as a short difference.

Each entry takes one line per key; a list that is long takes one line per item. `python -m backend.core.canonical`
rewrites the files; the linter refuses files that are not written so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.core.knowledge import DATA

FILES = (
    "pathologies.json",
    "findings.json",
    "red_flags.json",
    "cues.json",
    "sources.json",
    "french.json",
    "guard.json",
)
_LONGEST_LINE = 116


def canonical(value: Any, indent: int = 0) -> str:  # noqa: ANN401 - any JSON value
    """The canonical text of a JSON value; short values stay on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or (len(line) + indent <= _LONGEST_LINE and indent > 0):
        return line
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {canonical(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + "\n" + " " * indent + "}"
    items = [canonical(item, indent + 1) for item in value]
    if all(not isinstance(item, (dict, list)) for item in value):
        return "[\n" + _filled(items, inner) + "\n" + " " * indent + "]"
    return "[\n" + ",\n".join(inner + item for item in items) + "\n" + " " * indent + "]"


def _filled(items: list[str], inner: str) -> str:
    """Strings and numbers packed into lines."""
    lines = [inner]
    for item in items:
        if len(lines[-1]) + len(item) + 1 > _LONGEST_LINE and lines[-1] != inner:
            lines.append(inner)
        lines[-1] += (" " if lines[-1] != inner else "") + item + ","
    return "\n".join(lines).rstrip(",")


def rewrite(folder: Path = DATA) -> list[str]:
    """Rewrite the files that are not canonical; their names."""
    changed = []
    for name in FILES:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        wanted = canonical(json.loads(text)) + "\n"
        if text != wanted:
            path.write_text(wanted, encoding="utf-8")
            changed.append(name)
    return changed


def not_canonical(folder: Path = DATA) -> list[str]:
    """Names of the files that `rewrite` would change."""
    return [
        name
        for name in FILES
        if (text := (folder / name).read_text(encoding="utf-8")) != canonical(json.loads(text)) + "\n"
    ]


if __name__ == "__main__":
    for changed_file in rewrite():
        print(f"rewrote data/{changed_file}")
