"""The prepared data: every row accounted for, nothing on both sides, the same bytes however it was made."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("sentencepiece", reason="needs the training environment")

from backend.core.prompt import SYSTEM_PROMPT, user_text
from tests.training.conftest import ENVIRONMENT, ROOT, TinyRun
from tests.training.test_sources import GENERIC, MEDQUAD
from training import prepare as stage
from training.artefacts import manifest_of
from training.config import TuneRun, load_tune
from training.duplicates import jaccard, shingles_of, words_of
from training.errors import ConfigError, TrainingError
from training.synthesise import facts_from_json

pytestmark = pytest.mark.training

WORDS = [
    f"{first}{last}"
    for first in ("pain", "head", "knee", "chest", "water", "rest")
    for last in ("", "s", "ed", "ing", "er")
]
WORDS += ["the", "and", "with", "please", "since", "yesterday", "doctor", "feel", "morning", "when"]
OUTPUTS = ("train.jsonl", "held_out.jsonl", "rejects.jsonl", "licences.json", "data_card.md")


@dataclass(frozen=True)
class Prepared:
    """A run of `prepare` in a folder."""

    config: Path

    @property
    def run(self) -> TuneRun:
        """The loaded configuration."""
        return load_tune(self.config)

    def change(self, section: str, changes: dict[str, Any]) -> None:
        """Change a section of the configuration."""
        content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        content[section] |= changes
        self.config.write_text(yaml.safe_dump(content), encoding="utf-8")

    def make(self) -> Prepared:
        """Run the stage in this process."""
        stage.prepare(self.run)
        return self

    def command(self) -> list[str]:
        """The stage as a person starts it."""
        return [sys.executable, "-m", "training.prepare", "--config", str(self.config)]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of the files."""
        with (self.run.folder / name).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def bytes(self) -> dict[str, bytes]:
        """All that it made."""
        return {name: (self.run.folder / name).read_bytes() for name in OUTPUTS}

    def accounts(self) -> list[dict[str, Any]]:
        """The sources with their counts."""
        found: list[dict[str, Any]] = json.loads((self.run.folder / "licences.json").read_text(encoding="utf-8"))[
            "sources"
        ]
        return found


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder; only its tokenizer is read."""
    from tests.training.bases import make_llama_base  # noqa: PLC0415 - only in the training environment

    return make_llama_base(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture
def configured(tmp_path: Path, base: Path) -> Callable[..., Prepared]:
    """Writes configurations; the runs have folders of their own."""

    def write(*sources: dict[str, Any], name: str = "tiny", longest: int = 512, **prepare: Any) -> Prepared:  # noqa: ANN401
        content = {
            "name": name, "folder": str(tmp_path / name),
            "base": {"model": str(base), "style": "zephyr", "gguf_name": "tiny", "licence": "apache-2.0"},
            "prepare": {"sources": [{"licence": "CC0", **source} for source in sources], **prepare},
            "qlora": {"longest_tokens": longest},
        }  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return Prepared(path)

    return write


def say(rng: random.Random, words: int) -> str:
    """Words in any order."""
    return " ".join(rng.choice(WORDS) for _ in range(words))


def qa(question: str, answer: str) -> dict[str, str]:
    """A row of own data."""
    return {"instruction": question, "input": "", "output": answer}


def write_rows(path: Path, count: int, seed: int = 1, answer_words: int = 25) -> Path:
    """A file of rows that say different things."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(json.dumps(qa(f"I have {say(rng, 12)}.", f"You should see {say(rng, answer_words)}.")) + "\n")
    return path


def write_mixed(folder: Path) -> tuple[dict[str, Any], ...]:
    """One source of each kind that is read from files, with every fault that a row can have."""
    rng = random.Random(2)
    good = [qa(f"I have {say(rng, 12)}.", f"You should see {say(rng, 25)}. Regards, Dr. Ann Lee") for _ in range(60)]
    again = {**good[3], "output": good[3]["output"].replace("You should see", "You should SEE")}
    lines = [
        *map(json.dumps, good[:30]), "{broken", "[1]", "", json.dumps({"instruction": "x", "input": ""}),
        json.dumps({"instruction": "x", "input": "", "output": 3}), json.dumps(qa("I cough", "  ")),
        json.dumps(qa(" ", "Rest")), json.dumps(qa("Tengo dolor de cabeza", "Tome agua y descanse en casa hoy.")),
        json.dumps(qa("I have a long story", say(rng, 2_000))), json.dumps(again),
        json.dumps(qa("Who are you?", "Regards, Dr. Ann Lee")), *map(json.dumps, good[30:]),
    ]  # fmt: skip
    near = good[5]["output"].split()
    near[10] = "otherwise"
    lines.append(json.dumps(qa(good[5]["instruction"], " ".join(near))))
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chats = [
        {
            "instruction": GENERIC,
            "input": f"I feel {say(rng, 20)}",
            "output": f"Hi, Welcome to Chat Doctor. {say(rng, 30)}",
        }
        for _ in range(40)
    ]
    (folder / "chats.json").write_text(json.dumps(chats), encoding="utf-8")
    (folder / "medquad").mkdir()
    (folder / "medquad" / "1.xml").write_text(MEDQUAD, encoding="utf-8")
    (folder / "medquad" / "2.xml").write_text(MEDQUAD[:-60].replace("Gout", "Asthma"), encoding="utf-8")
    return (
        {"kind": "jsonl", "path": str(folder / "own.jsonl")},
        {"kind": "chatdoctor", "path": str(folder / "chats.json"), "most_rows": 25},
        {"kind": "medquad", "path": str(folder / "medquad"), "licence": "CC BY 4.0", "attribution": "Ben Abacha"},
    )


def test_every_row_read_is_kept_or_dropped_for_one_reason(
    configured: Callable[..., Prepared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counts add up, agree with the files, and are printed; each dropped row is named with file and line."""
    made = configured(*write_mixed(tmp_path)).make()
    own, chats, medquad = accounts = made.accounts()
    for account in accounts:
        assert account["read"] == account["kept"] + sum(account["dropped"].values())
        assert account["train_rows"] + account["held_out_rows"] == account["kept"]
    assert own["dropped"] == {
        "broken_json": 1, "not_an_object": 1, "empty_line": 1, "missing_key": 1, "wrong_type": 1, "empty_question": 1,
        "empty_answer": 2, "other_language": 1, "over_long": 1, "exact_duplicate": 1, "near_duplicate": 1,
    }  # fmt: skip
    assert (own["read"], chats["read"], medquad["read"]) == (72, 40, 4)
    assert chats["dropped"] == {"beyond_most_rows": 15}
    assert medquad["dropped"] == {"broken_xml": 1, "empty_answer": 1}
    assert (medquad["licence"], medquad["attribution"]) == ("CC BY 4.0", "Ben Abacha")
    assert len(made.rows("train.jsonl")) == sum(account["train_rows"] for account in accounts)
    assert len(made.rows("held_out.jsonl")) == sum(account["held_out_rows"] for account in accounts)
    rejects = made.rows("rejects.jsonl")
    assert len(rejects) == sum(sum(account["dropped"].values()) for account in accounts)
    assert {"source": "own.jsonl", "file": "own.jsonl", "line": 31, "reason": "broken_json"} in rejects
    assert {"source": "medquad", "file": "1.xml", "line": 14, "reason": "empty_answer"} in rejects
    assert {"source": "own.jsonl", "file": "own.jsonl", "line": 72, "reason": "near_duplicate"} in rejects
    printed = capsys.readouterr().err
    assert "exact_duplicate" in printed
    assert "own.jsonl    72" in printed


def test_rows_are_dialogues_without_signatures(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """The system prompt of the service, the patient, the answer; no name of a doctor or of the forum, no path."""
    made = configured(*write_mixed(tmp_path)).make()
    rows = made.rows("train.jsonl") + made.rows("held_out.jsonl")
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == SYSTEM_PROMPT
        assert row["language"] == "en"
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["source"] for row in rows} == {"jsonl", "chatdoctor", "medquad"}
    text = "".join(made.bytes()[name].decode() for name in OUTPUTS)
    assert not any(name in text for name in ("Ann Lee", "Chat Doctor", "If you are a doctor", str(tmp_path)))
    assert "What is Gout?" in text


def test_the_card_tells_sources_and_counts(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """Licences, attribution, hashes, the table, the limits."""
    made = configured(*write_mixed(tmp_path)).make()
    card = (made.run.folder / "data_card.md").read_text(encoding="utf-8")
    for expected in (
        "CC BY 4.0",
        "Ben Abacha",
        made.accounts()[0]["sha256"],
        "| total | 116 |",
        "Not a medical device",
    ):
        assert expected in card


def test_a_finished_stage_is_not_run_again(
    configured: Callable[..., Prepared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is done twice; a changed source or setting is noticed; more processes change nothing."""
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    source = {"kind": "jsonl", "path": str(rows)}
    made = configured(source).make()
    capsys.readouterr()
    configured(source, processes=2).make()
    assert "nothing to do" in capsys.readouterr().err
    assert not (made.run.folder / "prepare.part").exists()
    write_rows(rows, 41)
    made.make()
    assert made.accounts()[0]["read"] == 41
    configured(source, test_share=0.2).make()
    assert len(made.rows("held_out.jsonl")) == 8
    manifest = json.loads(manifest_of(made.run.folder / "train.jsonl").read_text(encoding="utf-8"))
    assert manifest["sources"] == made.accounts()


def test_several_processes_give_the_same_bytes(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """Three processes and one."""
    sources = *write_mixed(tmp_path), {"kind": "jsonl", "path": str(write_rows(tmp_path / "more.jsonl", 300))}
    alone = configured(*sources, name="alone").make()
    shared = configured(*sources, name="shared", processes=3).make()
    assert {name: content.replace(b"shared", b"alone") for name, content in shared.bytes().items()} == alone.bytes()


def test_another_seed_draws_other_rows(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """The same seed gives the same rows, another one others."""
    made = configured({"kind": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", 60)), "most_rows": 30})
    stage.prepare(made.run)
    first = made.bytes()
    stage.prepare(made.run.model_copy(update={"seed": 18}))
    second = made.bytes()
    stage.prepare(made.run)
    assert first == made.bytes()
    assert first["train.jsonl"] != second["train.jsonl"]
    assert first["held_out.jsonl"] != second["held_out.jsonl"]


def test_nothing_stands_on_both_sides(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """Families of similar rows, and questions asked twice with different answers, are never divided."""
    rng = random.Random(6)
    rows = []
    for _ in range(40):
        question, answer = say(rng, 15), say(rng, 90).split()
        for change in (10, 15, 20, 25, 30):
            changed = " ".join([*answer[:change], *say(rng, 5).split(), *answer[change + 5 :]])
            rows.append(qa(f"{question} {change}", changed))
        rows += [qa(f"{question} 10", say(rng, 40))]
    rng.shuffle(rows)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = configured({"kind": "jsonl", "path": str(path)}, test_share=0.3).make()

    def told(name: str) -> list[tuple[str, Any]]:
        texts = [[message["content"] for message in row["messages"][1:]] for row in made.rows(name)]
        return [(question, shingles_of(words_of(f"{question} {answer}"))) for question, answer in texts]

    train, held_out = told("train.jsonl"), told("held_out.jsonl")
    assert len(held_out) > 30
    assert {question for question, _ in train}.isdisjoint(question for question, _ in held_out)
    assert max(jaccard(one, other) for _, one in train for _, other in held_out) < 0.6


def test_long_rows_are_split_between_sentences(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """Each part fits, ends with a sentence, and stays with the other parts; together they are the answer."""
    rng = random.Random(7)
    answers = [" ".join(f"You should {say(rng, 10)}." for _ in range(30)) for _ in range(20)]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(qa(f"I have {say(rng, 8)}.", answer)) for answer in answers]
    path.write_text("\n".join([*lines, json.dumps(qa(say(rng, 600), "Rest."))]) + "\n", encoding="utf-8")
    source = {"kind": "jsonl", "path": str(path)}
    made = configured(source, over_long="split", test_share=0.2, longest=300).make()
    account = made.accounts()[0]
    assert (account["read"], account["kept"], account["dropped"]) == (21, 20, {"over_long": 1})
    sides = [made.rows(name) for name in ("train.jsonl", "held_out.jsonl")]
    train, held_out = ({row["id"].split("/")[0] for row in side} for side in sides)
    assert train.isdisjoint(held_out)
    parts: dict[str, list[tuple[int, str]]] = {}
    for row in sides[0] + sides[1]:
        name, part = row["id"].split("/")
        parts.setdefault(name, []).append((int(part), row["messages"][2]["content"]))
    assert sorted(" ".join(text for _, text in sorted(own)) for own in parts.values()) == sorted(answers)
    assert all(text.endswith(".") for own in parts.values() for _, text in own)


def test_a_source_that_is_lost_is_not_lost_in_silence(
    configured: Callable[..., Prepared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When most rows are too long the stage says so, and with no row at all it fails, with its papers written."""
    made = configured({"kind": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", 20))}, longest=64)
    with pytest.raises(TrainingError, match="no row to train on"):
        made.make()
    assert made.accounts()[0]["dropped"] == {"over_long": 20}
    assert "100% of rows.jsonl is over 64 tokens" in capsys.readouterr().err
    assert not (made.run.folder / "train.jsonl").exists()


SMALL = {"consultations": 30, "invented": 10, "held_out": 12}


def test_our_consultations_are_asked_as_the_server_asks(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """The user's turn is the service's own; the reply has no slot; the held-out ones stay held out."""
    own = {"kind": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", 40))}
    made = configured(own, {"kind": "synthesised", "synthesise": SMALL}, longest=2_048).make()
    rows = {
        name: [r for r in made.rows(name) if r["source"] == "synthesised"] for name in ("train.jsonl", "held_out.jsonl")
    }
    assert [len(found) for found in rows.values()] == [40, 12]
    for row in rows["train.jsonl"] + rows["held_out.jsonl"]:
        _, user, assistant = row["messages"]
        assert user["content"] == user_text(facts_from_json(row["facts"]), row["text"])
        assert "<|" not in assistant["content"]
    manifest = json.loads(manifest_of(made.run.folder / "held_out.jsonl").read_text(encoding="utf-8"))
    hidden = manifest["held_out_pathologies"]
    assert len(hidden) == 10
    assert not {row["origin"] for row in rows["train.jsonl"]}.intersection(hidden)
    assert "pathologies.json" in manifest["inputs"]


def test_a_base_with_slots_is_given_rows_with_slots(tiny: TinyRun, configured: Callable[..., Prepared]) -> None:
    """Exactly what `synthesise` makes; other sources have no slots and are refused."""
    made = configured({"kind": "synthesised", "synthesise": SMALL})
    made.change("base", {"style": "slots", "model": str(tiny.run.folder)})
    made.make()
    rows = made.rows("train.jsonl") + made.rows("held_out.jsonl")
    assert len(rows) == 52
    assert all(set(row) == {"origin", "text", "facts", "prompt", "reply"} for row in rows)
    made.change("prepare", {"sources": [{"kind": "jsonl", "path": "rows.jsonl", "licence": "CC0"}]})
    with pytest.raises(TrainingError, match="synthesised rows only"):
        made.make()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on(configured: Callable[..., Prepared], tmp_path: Path, processes: int) -> None:
    """SIGKILL in the middle: the second run starts where the first had saved, and makes the same bytes."""
    source = {"kind": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", 3_500, answer_words=8))}
    killed = configured(source, name="killed", processes=processes)
    with subprocess.Popen(killed.command(), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        state = killed.run.folder / "prepare.part" / "state.json"
        until = time.monotonic() + 120
        while not state.exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert state.exists()
    for name in ("rows.jsonl", "rejects.jsonl", "entries.bin", "bands.bin", "shingles.bin"):
        with (state.parent / name).open("ab") as file:
            file.write(b"a write that was torn")
    assert not (killed.run.folder / "train.jsonl").exists()
    done = subprocess.run(killed.command(), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "goes on after row 2048" in done.stderr
    whole = configured(source, name="whole").make()
    assert {name: text.replace(b"killed", b"whole") for name, text in killed.bytes().items()} == whole.bytes()
    assert not (killed.run.folder / "prepare.part").exists()


def test_a_run_stopped_while_writing_writes_again(
    configured: Callable[..., Prepared],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows are in place only when all papers are; what was read is not read again."""
    source = {"kind": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", 50))}
    made = configured(source)

    def stopped(*_arguments: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage, "card", stopped)
        with pytest.raises(KeyboardInterrupt):
            made.make()
    assert not (made.run.folder / "train.jsonl").exists()
    made.make()
    assert "goes on after row 50" in capsys.readouterr().err
    other = configured(source, name="other").make()
    assert {name: text.replace(b"of other", b"of tiny") for name, text in other.bytes().items()} == made.bytes()


_MEASURE = """
import json, sys
from pathlib import Path
from training import prepare
from training.config import load_config
sizes = {}
def mib(name):
    return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith(name))
fill, decide = prepare.Intake.fill, prepare.decide
def filled(self, *arguments):
    for done in fill(self, *arguments):
        sizes.setdefault("warm", mib("VmRSS")) if done >= 1_500 else None
        yield done
    sizes["read"] = mib("VmRSS")
def decided(*arguments):
    found = decide(*arguments)
    sizes["decided"] = mib("VmRSS")
    return found
prepare.Intake.fill, prepare.decide = filled, decided
prepare.prepare(load_config(Path(sys.argv[1])))
sizes["peak"] = mib("VmHWM")
print(json.dumps(sizes))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_with_a_hundred_times_the_rows(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """60 rows and 6,000: once the process is warm (1,500 rows), 4,500 more add next to nothing.

    Held as Python objects they would add 10 MiB or more. With 500 and 50,000 the peaks
    were 455.2 and 455.1 MiB.
    """
    sizes = []
    for count in (60, 6_000):
        source = {"kind": "jsonl", "path": str(write_rows(tmp_path / f"{count}.jsonl", count, count, 60))}
        made = configured(source, name=f"rows-{count}")
        command = [sys.executable, "-c", _MEASURE, str(made.config)]
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout))
    few, many = sizes
    assert many["read"] - many["warm"] < 4
    assert many["decided"] - many["read"] < 6
    assert many["peak"] - few["peak"] < 20


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "jsonl"}, "needs a path"),
        ({"kind": "medquad", "path": "here", "repo": "owner/there"}, "not both"),
        ({"kind": "synthesised", "most_rows": 5}, "no path, repo or most_rows"),
        ({"kind": "jsonl", "path": "here", "synthesise": SMALL}, "only a source of kind synthesised"),
        ({"kind": "synthesised", "synthesise": {**SMALL, "held_out": 501}}, "more than most_test_rows"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(
    configured: Callable[..., Prepared], source: dict[str, Any], message: str
) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        _ = configured(source).run


def test_a_base_without_a_template_is_refused(configured: Callable[..., Prepared], tmp_path: Path) -> None:
    """A fine-tune needs the model's own turn markers; a missing base is named."""
    made = configured({"kind": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", 5))})
    made.change("base", {"model": str(tmp_path)})
    with pytest.raises(TrainingError, match=str(tmp_path)):
        made.make()
