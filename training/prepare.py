"""Clean, sift and split the data of a fine-tune: the sources of the configuration -> `train.jsonl`, `held_out.jsonl`.

Beside them: `rejects.jsonl` (every row that was dropped: file, line, reason), `licences.json` and `data_card.md`. Rows
are streamed and can be as many as the disk holds; a killed run goes on from its last saved place. The same data,
settings and seed give the same bytes with any number of processes. What it does not do: judge whether an answer is
right.

    python -m training.prepare --config training/configs/<name>.yaml
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

import training
from backend.core.diagnose import Diagnoser
from backend.core.knowledge import DATA, FILES, load
from backend.core.prompt import Style, prompt_id
from training.artefacts import is_done, say, sha256, write_manifest
from training.cleaning import Reason
from training.config import SourceKind, TuneRun, tune_from_args
from training.errors import TrainingError
from training.intake import ENTRY, Intake
from training.ledger import Account, card, licences, table
from training.paths import card_path, held_out_path, licences_path, rejects_path, train_path
from training.progress import Progress
from training.replies import PHRASES
from training.sources import Place, Record, Side, file_hash, locate, read, survey
from training.split import DROPPED, HELD_OUT, TRAIN, Decisions, decide
from training.synthesise import Synthesiser

_CODE = (
    "cleaning.py", "dialogues.py", "duplicates.py", "intake.py", "prepare.py", "readers.py", "replies.py",
    "signatures.py", "sources.py", "split.py", "synthesise.py",
)  # fmt: skip
_MESSAGES = PHRASES.with_name("messages.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
# Of an entry as a tuple: source, side and number say which record it is of.
_RECORD_FIELDS = 3
_CHUNK_ROWS = 4_096
_MUCH = 0.2
_LANGUAGE_FIELD = (ENTRY.names or ()).index("language")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read: the files of every source (none for our own), and what stands for all inputs."""

    places: tuple[Place | None, ...]
    hashes: tuple[str, ...]
    rows: int
    inputs: tuple[Path, ...]
    config: dict[str, Any]


def main() -> None:
    """Run the stage."""
    prepare(tune_from_args(__doc__ or ""))


def prepare(run: TuneRun) -> None:
    """Make the rows of a run, unless they are there."""
    plan = plan_of(run)
    train, held_out = train_path(run), held_out_path(run)
    if all(is_done(path, plan.inputs, plan.config, run.seed) for path in (train, held_out)):
        say("prepare: nothing to do")
        return
    work = run.folder / "prepare.part"
    intake = Intake(work, _digest(plan, run.seed))
    if intake.records:
        say(f"prepare: goes on after row {intake.records}")
    synthesiser = _synthesisers(run)
    if not intake.is_done:
        with Progress("prepare", max(plan.rows, intake.records + 1), intake.records, every=10_000) as progress:
            for done in intake.fill(run, _records(plan, synthesiser)):
                progress.reached(done)
    accounts = [
        Account(source, sha, place.revision if place else None, len(place.files) if place else 0)
        for source, sha, place in zip(run.prepare.sources, plan.hashes, plan.places, strict=True)
    ]
    decisions = decide(run, intake)
    _write(run, intake, decisions, accounts)
    say(table(accounts))
    for one in accounts:
        lost = one.dropped[Reason.OVER_LONG] / max(1, one.read)
        if lost > _MUCH:
            say(
                f"prepare: {lost:.0%} of {one.name} is over {run.qlora.longest_tokens} tokens; see qlora.longest_tokens"
            )
    if not (decisions == TRAIN).any() or not (decisions == HELD_OUT).any():
        raise TrainingError(f"no row to train on or none to hold out; {rejects_path(run)} says why rows were dropped")
    hidden = sorted({name for one in synthesiser.values() for name in one.hidden})
    for path in (train, held_out):
        (work / path.name).replace(path)
    for path in (train, held_out):
        write_manifest(
            path, "prepare", plan.inputs, plan.config, run.seed,
            sources=[one.as_json() for one in accounts], held_out_pathologies=hidden,
            libraries={name: metadata.version(name) for name in ("py3langid", "datasets")},
        )  # fmt: skip
    shutil.rmtree(work)
    say(f"prepare: {train} and {held_out} written, described in {card_path(run)}")


def plan_of(run: TuneRun) -> Plan:
    """Find and hash everything that the result depends on.

    Raises:
        TrainingError: a source is missing, or does not suit the base model.
    """
    kinds = {source.kind for source in run.prepare.sources}
    if run.base.style is Style.SLOTS and kinds != {SourceKind.SYNTHESISED}:
        raise TrainingError("a base with style slots is tuned on synthesised rows only: other texts have no slots")
    own = [*(DATA / name for name in FILES), PHRASES, _MESSAGES] if SourceKind.SYNTHESISED in kinds else []
    base = Path(run.base.model)
    inputs = (*own, *(base / name for name in _TOKENIZER_FILES if (base / name).is_file()))
    places: list[Place | None] = []
    hashes, rows = [], 0
    for source in run.prepare.sources:
        if source.kind is SourceKind.SYNTHESISED:
            places.append(None)
            drawn = source.consultations
            rows += drawn.consultations + drawn.invented + drawn.held_out
            hashes.append(hashlib.sha256("".join(sha256(path) for path in own).encode()).hexdigest())
            continue
        place = locate(source)
        places.append(place)
        digest, count = survey(place)
        hashes.append(digest)
        rows += count
    config = {
        # Any number of processes gives the same bytes.
        "prepare": run.prepare.model_dump(mode="json", exclude={"processes"}),
        "base": run.base.model_dump(mode="json"),
        "longest_tokens": run.qlora.longest_tokens,
        "prompt_id": prompt_id(run.base.style),
        "sources": hashes,
    }
    return Plan(tuple(places), tuple(hashes), rows, inputs, config)


def _digest(plan: Plan, seed: int) -> str:
    """Stands for all that the work folder depends on, this code included."""
    code = Path(training.__file__).parent
    hashes = [sha256(path) for path in (*plan.inputs, *(code / name for name in _CODE))]
    content = json.dumps([plan.config, seed, hashes], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _synthesisers(run: TuneRun) -> dict[int, Synthesiser]:
    drawn = [i for i, source in enumerate(run.prepare.sources) if source.kind is SourceKind.SYNTHESISED]
    if not drawn:
        return {}
    diagnoser = Diagnoser(load())
    return {i: Synthesiser(diagnoser, run.prepare.sources[i].consultations, run.seed) for i in drawn}


def _records(plan: Plan, synthesisers: dict[int, Synthesiser]) -> Iterator[Record]:
    for index, place in enumerate(plan.places):
        if place is not None:
            yield from read(index, place)
            continue
        number = 0
        synthesiser = synthesisers[index]
        for side, rows in ((Side.HELD_OUT, synthesiser.held_out()), (Side.TRAIN, synthesiser.train())):
            for row in rows:
                number += 1
                yield Record(index, number, side.name.lower(), number, row, side=side)


def _write(run: TuneRun, intake: Intake, decisions: Decisions, accounts: Sequence[Account]) -> None:
    """The rows, into the work folder, and the papers, in place; counts what is written in the accounts."""
    held_out: list[str] = []
    train = intake.path(train_path(run).name)
    with train.open("w", encoding="utf-8", newline="\n") as rows, _replacing(rejects_path(run)) as rejects:
        for reject in intake.rejects():
            accounts[reject["source"]].drop(Reason(reject["reason"]))
            rejects.write(_reject_line(reject, accounts, reject["reason"]))
        entries = intake.entries()
        everything = zip(_tuples(entries), decisions, intake.rows(), strict=True)
        for _, same in groupby(everything, key=lambda one: one[0][:_RECORD_FIELDS]):
            parts = list(same)
            account = accounts[parts[0][2][0]["source"]]
            for part, (_, decision, (place, row)) in enumerate(parts, 1):
                if decision == TRAIN:
                    rows.write(row + "\n")
                    account.train += 1
                elif decision == HELD_OUT:
                    held_out.append(row)
                    account.held_out += 1
                else:
                    split = {"part": part} if len(parts) > 1 else {}
                    rejects.write(_reject_line({**place, **split}, accounts, DROPPED[decision].value))
            if all(decision in DROPPED for _, decision, _ in parts):
                account.drop(DROPPED[parts[0][1]])
            else:
                account.keep(parts[0][0][_LANGUAGE_FIELD].decode())
    random.Random(run.seed).shuffle(held_out)
    held_out_file = intake.path(held_out_path(run).name)
    held_out_file.write_text("".join(row + "\n" for row in held_out), encoding="utf-8", newline="\n")
    tokens = entries["tokens"][decisions <= HELD_OUT]
    figures = {
        "median": int(np.median(tokens)), "p95": int(np.percentile(tokens, 95)), "longest": int(tokens.max()),
    } if len(tokens) else dict.fromkeys(("median", "p95", "longest"), 0)  # fmt: skip
    hashes = {path.name: file_hash(path) for path in (train, held_out_file)}
    for path, content in (
        (licences_path(run), licences(accounts)),
        (card_path(run), card(run, accounts, figures, hashes)),
    ):
        with _replacing(path) as file:
            file.write(content)


def _tuples(entries: npt.NDArray[np.void]) -> Iterator[tuple[Any, ...]]:
    """The entries as tuples, without all of them in memory at once."""
    for first in range(0, len(entries), _CHUNK_ROWS):
        yield from entries[first : first + _CHUNK_ROWS].tolist()


def _reject_line(place: Mapping[str, Any], accounts: Sequence[Account], reason: str) -> str:
    content = {**place, "source": accounts[place["source"]].name, "reason": reason}
    return json.dumps(content, ensure_ascii=False) + "\n"


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes its place when it is whole."""
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        yield file
    partial.replace(path)


if __name__ == "__main__":
    main()
