"""A record of any source -> the rows to train on, with what tells duplicates; the work of one process of `prepare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.prompt import SYSTEM_PROMPT, Style, user_text
from training.cleaning import (
    LONGEST_CHARS,
    Reason,
    RejectedError,
    break_medquad_lists,
    clean_medquad_question,
    clean_text,
    language_of,
    split_answer,
)
from training.config import SourceConfig, SourceKind, TuneRun
from training.duplicates import bands_of, key_of, shingles_of, words_of
from training.errors import TrainingError
from training.replies import spell_out
from training.signatures import hide_names, remove_signatures
from training.sources import Record, turns_of
from training.synthesise import facts_from_json
from training.tokenizer import Tokenizer

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Made:
    """One row ready to be written, and its fingerprints."""

    row: str
    language: str
    tokens: int
    exact: int
    question: int
    bands: bytes
    shingles: bytes


class DialogueMaker:
    """Makes rows for one base model; holds its tokenizer, to count the tokens of a dialogue as training renders it."""

    def __init__(self, run: TuneRun) -> None:
        self._prepare = run.prepare
        self._longest = run.qlora.longest_tokens
        self._slots = run.base.style is Style.SLOTS
        if self._slots:
            self._vocabulary = Tokenizer(Path(run.base.model) / "tokenizer.model")
        else:
            self._count, self._control_tokens = _chat_counter(run.base.model, run.base.revision)

    def make(self, record: Record) -> list[Made]:
        """The rows of a record: one, or several parts of one that is too long.

        Raises:
            RejectedError: it makes none.
        """
        if record.problem or record.content is None:
            raise RejectedError(record.problem or Reason.NOT_AN_OBJECT)
        source = self._prepare.sources[record.source]
        if source.kind is SourceKind.SYNTHESISED:
            return [self._drawn_slots(record.content) if self._slots else self._drawn(record)]
        return self._told(record, source)

    def _told(self, record: Record, source: SourceConfig) -> list[Made]:
        question, answer, language = self._clean(record, source)
        if language not in self._prepare.languages:
            raise RejectedError(Reason.LANGUAGE)

        counted: dict[str, int] = {}

        def fits(part: str) -> bool:
            counted[part] = self._count(_messages(question, part))
            return counted[part] <= self._longest

        parts = [answer] if fits(answer) else []
        if not parts and self._prepare.over_long == "split":
            parts = split_answer(answer, fits)
        if not parts:
            raise RejectedError(Reason.OVER_LONG)
        made = []
        for place, part in enumerate(parts):
            name = _name_of(record, source) + (f"/{place + 1}" if len(parts) > 1 else "")
            messages = _messages(question, part)
            row = {"id": name, "source": source.kind.value, "language": language, "messages": messages}
            made.append(self._made(row, language, counted[part], question, part))
        return made

    def _clean(self, record: Record, source: SourceConfig) -> tuple[str, str, str]:
        question, answer = turns_of(source, record.content or {})
        for text, reason in ((question, Reason.EMPTY_QUESTION), (answer, Reason.EMPTY_ANSWER)):
            if not text.strip():
                raise RejectedError(reason)
            if len(text) > LONGEST_CHARS:
                raise RejectedError(Reason.OVER_LONG)
        if source.kind is SourceKind.MEDQUAD:
            answer = break_medquad_lists(answer)
        question, answer = (clean_text(text, self._control_tokens) for text in (question, answer))
        if source.kind is SourceKind.MEDQUAD:
            question = clean_medquad_question(question)
        language = language_of(f"{answer}\n{question}")
        question, answer = hide_names(question, language), hide_names(remove_signatures(answer), language)
        for text, reason in ((question, Reason.EMPTY_QUESTION), (answer, Reason.EMPTY_ANSWER)):
            if not any(c.isalnum() for c in text):
                raise RejectedError(reason)
        return question, answer, language

    def _drawn(self, record: Record) -> Made:
        """A consultation of our own, as the server will ask the model about it."""
        drawn = record.content or {}
        facts = facts_from_json(drawn["facts"])
        reply = spell_out(drawn["reply"], facts)
        messages = _messages(user_text(facts, drawn["text"]), reply)
        tokens = self._count(messages)
        if tokens > self._longest:
            raise RejectedError(Reason.OVER_LONG)
        row = {
            "id": _name_of(record, self._prepare.sources[record.source]), "source": SourceKind.SYNTHESISED.value,
            "language": "fr", "messages": messages, "origin": drawn["origin"], "text": drawn["text"],
            "facts": drawn["facts"],
        }  # fmt: skip
        return self._made(row, "fr", tokens, drawn["text"], reply)

    def _drawn_slots(self, drawn: Any) -> Made:  # noqa: ANN401 - JSON
        prompt = self._vocabulary.prompt([(text, special) for text, special in drawn["prompt"]])
        tokens = len(prompt) + len(self._vocabulary.reply(drawn["reply"]))
        if tokens > self._longest:
            raise RejectedError(Reason.OVER_LONG)
        return self._made(
            drawn, "fr", tokens, drawn["text"], spell_out(drawn["reply"], facts_from_json(drawn["facts"]))
        )

    def _made(self, row: Any, language: str, tokens: int, question: str, answer: str) -> Made:  # noqa: ANN401 - JSON
        asked, told = words_of(question), words_of(answer)
        shingles = shingles_of([*asked, *told])
        return Made(
            row=json.dumps(row, ensure_ascii=False), language=language, tokens=tokens,
            exact=key_of([*asked, *told]), question=key_of(asked),
            bands=bands_of(shingles, self._prepare.near_duplicate).tobytes(), shingles=shingles.tobytes(),
        )  # fmt: skip


def _name_of(record: Record, source: SourceConfig) -> str:
    return f"{source.kind.value}-{record.source + 1}-{record.number}"


def _messages(question: str, answer: str) -> Messages:
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def _chat_counter(model: str, revision: str | None) -> tuple[Callable[[Messages], int], tuple[str, ...]]:
    """Counts the tokens of a dialogue in the base's own template; and the base's control tokens."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import, only for chat models

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise TrainingError(f"the tokenizer of base.model {model} cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise TrainingError(f"{model} has no chat template; a fine-tune needs an instruction model")
    # Rows that are too long are counted too: the warning about the model's own limit says nothing new.
    tokenizer.model_max_length = int(1e9)

    # Llama's tokenizer caches whole turns, which never come again: 10,000 of them are 20 MiB in every process.
    model_of_turns = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    getattr(model_of_turns, "_resize_cache", lambda _entries: None)(0)

    def count(messages: Messages) -> int:
        return len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))

    tokens = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return count, tuple(sorted((token for token in tokens if token.strip()), key=lambda token: (-len(token), token)))
