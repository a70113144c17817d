"""The vocabulary: markers are tokens only where the service asks for it, and any text comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sentencepiece", reason="needs the training environment")

from backend.core.prompt import CAUSE_SLOTS, FACTS, MARKERS, PATIENT, REPLY, SLOTS
from tests.training.conftest import TinyRun
from training import tokenizer as stage
from training.errors import StaleArtefactError
from training.paths import tokenizer_path, train_path
from training.tokenizer import Tokenizer

pytestmark = pytest.mark.training

ODD = [
    "œuf à l'œil, ça brûle ! « Où ? »",
    "🤒 39,5°C 👍🏽",
    "\x01\x1b[31m\x7f\ttabulé\r\nfin",
    "<|faits|> urgence_vitale <|c1|>",
    "<s></s><unk><0x41>",
    "  deux  espaces   et trois ",
    "ＡＢＣ ｱ 你好 ё",
    "e\u0301te\u0301 décomposé",
    "\u00a0insécable\u202f?",
]


@pytest.fixture(scope="session")
def tokenizer(tiny: TinyRun) -> Tokenizer:
    """The vocabulary of the tiny run."""
    return Tokenizer(tokenizer_path(tiny.run))


def markers(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of every marker and slot."""
    return {marker: tokenizer.marker(marker) for marker in (*MARKERS, *SLOTS)}


def test_every_marker_is_one_token_of_its_own(tokenizer: Tokenizer) -> None:
    """No two share an id, and none is the unknown token."""
    ids = set(markers(tokenizer).values())
    assert len(ids) == len(MARKERS) + len(SLOTS)
    assert ids.isdisjoint({0, tokenizer.bos, tokenizer.eos})


def test_the_vocabulary_has_the_size_asked_for(tiny: TinyRun, tokenizer: Tokenizer) -> None:
    """The model is built with as many rows as the vocabulary has pieces."""
    assert tokenizer.size == tiny.run.tokenizer.vocabulary
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)


@pytest.mark.parametrize("marker", [*MARKERS, *SLOTS])
def test_a_typed_marker_is_text(marker: str, tokenizer: Tokenizer) -> None:
    """A patient who types a marker types letters: several ordinary tokens that spell it."""
    ids = tokenizer.text(f"mal {marker} ventre")
    assert set(markers(tokenizer).values()).isdisjoint(ids)
    assert tokenizer.decode(ids) == f"mal {marker} ventre"


def test_a_prompt_has_control_tokens_only_for_special_pieces(tokenizer: Tokenizer) -> None:
    """Beginning of text, then markers as one token each and the typed ones as text."""
    ids = tokenizer.prompt(
        [(PATIENT, True), (f"mal {FACTS}", False), (FACTS, True), ("urgences", False), (REPLY, True)]
    )
    control = set(markers(tokenizer).values())
    assert ids[0] == tokenizer.bos
    assert [i for i in ids if i in control] == [tokenizer.marker(m) for m in (PATIENT, FACTS, REPLY)]


def test_neighbouring_plain_pieces_are_one_text(tokenizer: Tokenizer) -> None:
    """The server joins them before tokenizing, so training does too."""
    apart = [(PATIENT, True), ("J'ai m", False), ("al au ventre", False), (FACTS, True)]
    joined = [(PATIENT, True), ("J'ai mal au ventre", False), (FACTS, True)]
    assert tokenizer.prompt(apart) == tokenizer.prompt(joined)


def test_a_reply_is_text_and_slots_ended(tokenizer: Tokenizer) -> None:
    """Slots are single tokens in their place, the rest is text, the last token is the end."""
    first, second = CAUSE_SLOTS[:2]
    one, two = tokenizer.marker(first), tokenizer.marker(second)
    expected = [one, *tokenizer.text(" ou "), two, *tokenizer.text(" ?"), tokenizer.eos]
    assert tokenizer.reply(f"{first} ou {second} ?") == expected
    assert tokenizer.reply(f"{first}{first}") == [one, one, tokenizer.eos]
    assert tokenizer.reply("") == [tokenizer.eos]


def test_digits_are_tokens_of_their_own(tokenizer: Tokenizer) -> None:
    """Numbers are never learnt as wholes, so an unseen one can be read."""
    assert len(tokenizer.text("3915")) >= 4


@pytest.mark.parametrize("text", ODD)
def test_odd_text_comes_back_as_it_was(text: str, tokenizer: Tokenizer) -> None:
    """Identity normalisation and byte fallback lose nothing: accents, emoji, control characters, spaces."""
    ids = tokenizer.text(text)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids


@given(st.text(st.characters(exclude_characters="\0▁", exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    """Whatever is typed, but for the character that stands for a space inside the vocabulary."""
    assert tokenizer.decode(tokenizer.text(text)) == text


def test_the_vocabulary_learns_from_text_without_markers(tiny: TinyRun) -> None:
    """Messages, facts and replies, cut at slots: no piece of a marker is learnt as a word."""
    lines = list(stage._lines(train_path(tiny.run)))
    assert lines
    assert not any(marker in line for line in lines for marker in (*MARKERS, *SLOTS))


def test_the_stage_does_nothing_twice(tiny: TinyRun) -> None:
    """A finished vocabulary is kept, and its manifest says from which examples it was made."""
    path = tokenizer_path(tiny.run)
    before = path.stat().st_mtime_ns
    done = tiny.stage("tokenizer")
    assert (done.returncode, path.stat().st_mtime_ns) == (0, before)
    assert "nothing to do" in done.stderr
    manifest = json.loads(path.with_name("tokenizer.model.manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["inputs"]) == {"train.jsonl"}


def test_the_stage_refuses_to_start_without_examples(
    tmp_path: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the command that makes them."""
    content = tiny.config.read_text(encoding="utf-8").replace(str(tiny.run.folder), str(tmp_path))
    (tmp_path / "other.yaml").write_text(content, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["tokenizer", "--config", str(tmp_path / "other.yaml")])
    with pytest.raises(StaleArtefactError, match=r"python -m training\.synthesise"):
        stage.main()
