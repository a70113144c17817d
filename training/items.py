"""Held-out rows as token ids: a prompt as the model is served it, and the reply that it should write.

The ids come from the tokenizer that training used; every model of a run, quantized or not, is given the same ones. That
the GGUF makes the same ids from the same text is checked by the gate, not assumed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backend.core.facts import Facts
from backend.core.prompt import SYSTEM_PROMPT, Piece, Style, render, slot_values, user_text
from training.config import BaseModelConfig, Run, TuneRun
from training.paths import model_path, tokenizer_path
from training.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and its reply; the reply ends with the end token."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]


class Reader(Protocol):
    """How a run's tokenizer turns rows and facts into ids, and ids into text."""

    end_ids: frozenset[int]

    def item(self, row: Mapping[str, Any]) -> Item:
        """The ids of one row."""

    def prompt(self, facts: Facts, text: str) -> tuple[int, ...]:
        """The ids of the prompt that the server would make."""

    def text(self, ids: Sequence[int], facts: Facts) -> str:
        """What the person would read, slots filled in."""


class ChatReader:
    """The tokenizer of a Hugging Face folder: ids as `qlora` makes them, texts as the model's own template does."""

    def __init__(self, folder: Path, base: BaseModelConfig) -> None:
        from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import, and only chat models need it

        from training.encoding import ChatEncoder  # noqa: PLC0415 - the same

        self.style = base.style
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._encoder = ChatEncoder(self.tokenizer)
        ends = {self.tokenizer.eos_token_id, self._encoder.stop}
        self.end_ids = frozenset(token for token in ends if isinstance(token, int))

    def item(self, row: Mapping[str, Any]) -> Item:
        """The ids of one row, as in training."""
        example = self._encoder.example(row)
        return Item(tuple(example.ids[: example.reply_start]), tuple(example.ids[example.reply_start :]))

    def prompt(self, facts: Facts, text: str) -> tuple[int, ...]:
        """The ids of the prompt about `facts`, as in training."""
        return tuple(self._encoder.encode(self._encoder.prompt_pieces(dialogue(facts, text))))

    def text(self, ids: Sequence[int], facts: Facts) -> str:  # noqa: ARG002 - the text is whole as it is
        """The reply without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def template_text(self, messages: Sequence[Mapping[str, str]], *, opened: bool) -> str:
        """The dialogue as the model's own template writes it; `opened`: the assistant's turn is begun."""
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opened))

    def whole_ids(self, text: str) -> list[int]:
        """The ids of a whole text, special tokens read and the stretches between them tokenized each by itself.

        That is how llama.cpp cuts; `encode` of transformers 5 does not begin every stretch with a space for a Llama
        vocabulary with `legacy: false`, but neither training nor serving calls it on a whole dialogue.
        """
        return self._encoder.encode([Piece(text, special=True)])


class SlotReader:
    """The sentencepiece vocabulary of an embedded model, with our own markers."""

    def __init__(self, vocabulary: Path) -> None:
        self.tokenizer = Tokenizer(vocabulary)
        self.end_ids = frozenset({self.tokenizer.eos})

    def item(self, row: Mapping[str, Any]) -> Item:
        """The ids of one row of `synthesise`."""
        prompt = self.tokenizer.prompt([(text, special) for text, special in row["prompt"]])
        return Item(tuple(prompt), tuple(self.tokenizer.reply(row["reply"])))

    def prompt(self, facts: Facts, text: str) -> tuple[int, ...]:
        """The ids of the prompt, markers as single tokens."""
        pieces = render(facts, text, Style.SLOTS).pieces
        return tuple(self.tokenizer.prompt([(piece.text, piece.special) for piece in pieces]))

    def text(self, ids: Sequence[int], facts: Facts) -> str:
        """The reply, its slot tokens replaced by what they stand for."""
        names = {self.tokenizer.marker(slot): value for slot, value in slot_values(facts).items()}
        text, plain = "", list[int]()
        for token in [*ids, None]:
            if token is not None and token not in names:
                plain.append(token)
                continue
            text += self.tokenizer.decode(plain)
            plain = []
            text += names[token] if token is not None else ""
        return text


def style_of(run: Run) -> Style:
    """The prompt style of a run."""
    return run.base.style if isinstance(run, TuneRun) else Style.SLOTS


def reader_of(run: Run) -> Reader:
    """The reader for a run's own tokenizer."""
    if not isinstance(run, TuneRun):
        return SlotReader(tokenizer_path(run))
    if run.base.style is Style.SLOTS:
        return SlotReader(model_path(run) / "tokenizer.model")
    return ChatReader(model_path(run), run.base)


def dialogue(facts: Facts, text: str) -> list[dict[str, str]]:
    """The messages that `render` writes in a chat model's own markers."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": user_text(facts, text)}]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def within(items: Sequence[Item], most_tokens: int) -> list[Item]:
    """The first items that together hold at most `most_tokens`; at least one."""
    kept: list[Item] = []
    total = 0
    for item in items:
        total += len(item.prompt) + len(item.reply)
        if kept and total > most_tokens:
            break
        kept.append(item)
    return kept
