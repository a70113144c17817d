"""What was read, kept and dropped, source by source: the printed table, `licences.json` and `data_card.md`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.cleaning import Reason
from training.config import SourceConfig, TuneRun
from training.sources import HUB_NAMES


@dataclass(slots=True)
class Account:
    """The rows of one source. Every row read is kept or dropped for one reason; a split row makes several rows."""

    source: SourceConfig
    sha256: str
    revision: str | None
    files: int
    read: int = 0
    kept: int = 0
    train: int = 0
    held_out: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: Reason) -> None:
        """Count a row that is not kept."""
        self.read += 1
        self.dropped[reason] += 1

    def keep(self, language: str) -> None:
        """Count a row that is kept, whole or in parts."""
        self.read += 1
        self.kept += 1
        self.languages[language] += 1

    @property
    def name(self) -> str:
        """What the source is called in tables; no path of this machine."""
        return self.source.repo or (Path(self.source.path).name if self.source.path else self._hub_name())

    def _hub_name(self) -> str:
        return HUB_NAMES.get(self.source.kind, "training.synthesise")

    def as_json(self) -> dict[str, Any]:
        """For `licences.json` and the manifests."""
        return {
            "kind": self.source.kind.value, "name": self.name, "revision": self.revision, "files": self.files,
            "sha256": self.sha256, "licence": self.source.licence, "attribution": self.source.attribution,
            "read": self.read, "kept": self.kept, "dropped": {k.value: n for k, n in sorted(self.dropped.items())},
            "train_rows": self.train, "held_out_rows": self.held_out,
            "languages": dict(sorted(self.languages.items())),
        }  # fmt: skip


def table(accounts: Sequence[Account], *, markdown: bool = False) -> str:
    """Counts per source, with a column for every reason that occurred."""
    reasons = [reason for reason in Reason if any(one.dropped[reason] for one in accounts)]
    heads = ["source", "read", "kept", "train", "held out", *(reason.value for reason in reasons)]
    names = [*(one.name for one in accounts), "total"]
    counts = [
        [one.read, one.kept, one.train, one.held_out, *(one.dropped[reason] for reason in reasons)] for one in accounts
    ]
    counts.append([sum(column) for column in zip(*counts, strict=True)])
    lines = [heads, *([name, *map(str, line)] for name, line in zip(names, counts, strict=True))]
    if markdown:
        rows = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([rows[0], "|---" * len(heads) + "|", *rows[1:]])
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def licences(accounts: Sequence[Account]) -> str:
    """The content of `licences.json`."""
    return json.dumps({"sources": [one.as_json() for one in accounts]}, ensure_ascii=False, indent=1) + "\n"


def card(run: TuneRun, accounts: Sequence[Account], tokens: dict[str, int], outputs: dict[str, str]) -> str:
    """The content of `data_card.md`; `tokens` are figures of the rows kept, `outputs` names of files -> SHA-256."""
    prepare, base, limit = run.prepare, run.base, run.qlora.longest_tokens
    model = Path(base.model).name if Path(base.model).is_dir() else base.model
    languages = sum((one.languages for one in accounts), Counter[str]())
    spoken = ", ".join(f"{code} {count}" for code, count in sorted(languages.items())) or "none"
    is_split = prepare.over_long == "split"
    long_rows = "split between sentences of the answer, or dropped" if is_split else "dropped"
    origins = "\n".join(_origin(one) for one in accounts)
    files = "\n".join(f"- `{name}`: SHA-256 `{digest}`" for name, digest in outputs.items())
    return f"""# Data of {run.name}

Made by `python -m training.prepare` with seed {run.seed}, for {model} at {base.revision or "no pinned revision"}.

## Sources and licences

{origins}

## Rows

{table(accounts, markdown=True)}

Every row read is kept or counted under one reason; file and line of each dropped row are in `rejects.jsonl`.
{"A row split in parts makes several training rows." if is_split else "Each row kept makes one row."}

Languages of the rows kept: {spoken}. Tokens of a whole dialogue: median {tokens["median"]}, 95th percentile
{tokens["p95"]}, longest {tokens["longest"]} (limit {limit}).

## What was done to them

- Whitespace, HTML, invisible characters and control tokens of chat models removed.
- Greetings of doctors, thanks to the site and signatures removed; names of doctors and writers, addresses of pages and
  people taken out by patterns. Other names can remain.
- Rows in languages other than {", ".join(prepare.languages)} dropped (told by py3langid).
- Dialogues of more than {limit} tokens {long_rows}.
- Exact duplicates dropped, and near ones: Jaccard similarity of three-word shingles of at least
  {prepare.near_duplicate}, transitively.
- Held-out rows are drawn by groups: similar rows, the same question and the parts of one row never stand on both sides.
  Our own consultations are held out by pathology and by wording.

Our own consultations are used as they are drawn: they hold no text of a person.

## Limits

- Answers of forums were written by unknown doctors for one person, in English, and were not checked.
- Not a medical device, not for diagnosis.

## Files

{files}
"""


def _origin(one: Account) -> str:
    parts = [
        f"- **{one.name}** ({one.source.kind.value}): licence {one.source.licence}.",
        one.source.attribution,
        f"Revision `{one.revision}`." if one.revision else "",
        f"SHA-256 `{one.sha256}`.",
    ]
    return " ".join(part for part in parts if part)
