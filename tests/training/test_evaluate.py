"""Judging replies: what counts as accepted, named and contradicted, and what a model below a floor gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch", reason="needs the training environment")

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.guard import Guard
from backend.core.prompt import Piece, Style, render
from backend.engine.manifest import check_model
from tests.training.conftest import TinyRun
from training import evaluate as stage
from training.config import EvaluateConfig
from training.evaluate import gate, judge
from training.paths import quantized_path
from training.synthesise import facts_to_json

pytestmark = pytest.mark.training

FACTS = Facts(
    level=Urgency.EMERGENCY_DEPARTMENT, who="vous", abstained=False, probable=True, causes=("une appendicite",),
    signs=("de la fièvre",), worry="Appelez le 15 si le ventre devient dur.",
)  # fmt: skip
UNCLEAR = Facts(Urgency.DOCTOR_24_HOURS, "vous", abstained=True, probable=False, causes=(), signs=())
GOOD = (
    "Allez aux urgences aujourd'hui. Cela peut faire penser à une appendicite. Appelez le 15 si le ventre devient dur."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, (None, True, True, False, 3)),
        ("Allez aux urgences aujourd'hui.", (None, False, False, False, 1)),
        ("Cela peut faire penser à une appendicite.", (None, False, True, True, 1)),
        (f"{GOOD} Vous pouvez attendre demain matin.", ("urgency", False, True, True, 4)),
        (f"{GOOD} Vous avez une appendicite.", ("diagnosis", False, True, False, 4)),
        ("", (None, False, False, True, 0)),
    ],
    ids=["good", "no cause", "no action", "contradicts", "states a diagnosis", "empty"],
)
def test_a_reply_is_judged_as_the_service_would(
    text: str, expected: tuple[str | None, bool, bool, bool, int], guard: Guard
) -> None:
    """Refused by which rule, accepted whole, first cause named, urgency contradicted, number of sentences."""
    verdict = judge(text, FACTS, guard)
    keys = ("refused", "accepted", "first_cause_named", "urgency_contradicted", "sentences")
    assert tuple(verdict[key] for key in keys) == expected


def test_without_causes_none_can_be_named(guard: Guard) -> None:
    """An abstained reply counts neither for nor against naming the cause."""
    verdict = judge("Voyez un médecin dans les 24 heures. Dites où vous avez mal.", UNCLEAR, guard)
    assert (verdict["first_cause_named"], verdict["accepted"]) == (None, True)


class ScriptedModel:
    """A model that answers with the texts of `replies`, one after another, in pieces."""

    replies: Iterator[Sequence[str]]
    closed = False

    def __init__(self, *_: object) -> None:
        """Takes what a model takes."""

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """One token a piece."""
        return list(range(len(pieces)))

    def generate(self, *_: object) -> Iterator[str]:
        """The next reply."""
        yield from next(ScriptedModel.replies)

    def close(self) -> None:
        """Remember it."""
        ScriptedModel.closed = True


def example(facts: Facts, text: str = "J'ai mal.") -> dict[str, Any]:
    """A line of the held-out file."""
    pieces = render(facts, text, Style.SLOTS).pieces
    prompt = [[piece.text, piece.special] for piece in pieces]
    return {"origin": "x", "text": text, "facts": facts_to_json(facts), "prompt": prompt, "reply": ""}


def test_figures_count_hand_made_replies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slots are filled in as the service does; shares are over all replies, or over those with a cause."""
    ScriptedModel.replies = iter(
        [
            ("Allez aux urgences aujourd'hui. ", "Cela peut faire penser à ", "<|c1|>", ". ", "<|vigilance|>"),
            ("Allez aux urgences aujourd'hui. ", "Cela peut faire penser à ", "<|c2|>", "."),
            ("Vous pouvez attendre demain matin. ", "<|c1|>", " est possible."),
            ("Voyez un médecin dans les 24 heures. ", "Dites où vous avez mal."),
        ]
    )
    monkeypatch.setattr(stage, "LlamaModel", ScriptedModel)
    figures, replies = stage.evaluate(tmp_path / "m.gguf", [example(FACTS)] * 3 + [example(UNCLEAR)])
    assert {key: value for key, value in figures.items() if key != "seconds_per_reply"} == {
        "n": 4,
        "accepted_whole": 2 / 4,
        "first_cause_named": 2 / 3,
        "urgency_contradicted": 1,
        "three_to_six_sentences": 1 / 4,
        "distinct_first_sentences": 3,
        "refusals": {"markup": 1, "urgency": 1},
    }
    assert replies[0]["reply"] == GOOD
    assert ScriptedModel.closed


@pytest.mark.parametrize(
    ("figures", "problems"),
    [
        ({"accepted_whole": 0.9, "first_cause_named": 0.98, "urgency_contradicted": 0}, []),
        ({"accepted_whole": 0.89, "first_cause_named": 0.98, "urgency_contradicted": 0}, ["accepted_whole"]),
        ({"accepted_whole": 0.9, "first_cause_named": 0.97, "urgency_contradicted": 0}, ["first_cause_named"]),
        ({"accepted_whole": 1.0, "first_cause_named": 1.0, "urgency_contradicted": 1}, ["urgency contradicted 1"]),
        (
            {"accepted_whole": 0.0, "first_cause_named": 0.0, "urgency_contradicted": 9},
            ["accepted_whole", "first_cause_named", "urgency contradicted 9"],
        ),
    ],
)
def test_every_floor_that_is_missed_is_named(figures: dict[str, float], problems: list[str]) -> None:
    """At a floor the model passes; below, each reason is told."""
    found = gate(figures, EvaluateConfig())
    assert len(found) == len(problems)
    assert all(told.startswith(expected) for told, expected in zip(found, problems, strict=True))


def evaluated(trained: TinyRun, folder: Path, **floors: float) -> tuple[int, str, Path]:
    """Exit code, error output and published file of the stage with these floors."""
    content = yaml.safe_load(trained.config.read_text(encoding="utf-8"))
    content |= {"evaluate": floors, "model": str(folder / "published" / "doctis-ai-tiny-Q4_K_M.gguf")}
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    done = TinyRun(config).stage("evaluate")
    return done.returncode, done.stderr, Path(content["model"])


def test_a_model_below_its_floors_is_not_published(trained: TinyRun, tmp_path: Path) -> None:
    """After four steps of training the command fails, says why, and keeps the figures and replies for reading."""
    code, error, published = evaluated(trained, tmp_path)
    assert code != 0
    assert "the model is not good enough, nothing was published" in error
    assert not published.exists()
    report = json.loads((trained.run.folder / "evaluation.json").read_text(encoding="utf-8"))
    assert report["n"] == len(report["replies"]) == trained.run.synthesise.held_out
    assert report["accepted_whole"] < 0.9


def test_a_model_above_its_floors_is_published_with_its_card(trained: TinyRun, tmp_path: Path) -> None:
    """With floors of zero the same file and its manifest go where the server looks, and the server takes them."""
    code, error, published = evaluated(
        trained, tmp_path, accepted_whole=0.0, first_cause_named=0.0, most_urgency_contradictions=10
    )
    assert (code, "published" in error) == (0, True)
    assert published.read_bytes() == quantized_path(trained.run).read_bytes()
    assert check_model(published, None) is not None
