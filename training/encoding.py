"""Rows of a fine-tune -> token ids, with the loss on the answer only and the end token trained.

A prompt is cut into the same pieces as the service cuts it into: the markers of the model's own chat template, parsed
as special tokens, and what people wrote, which stays text even where it spells a marker. Each stretch of text is
tokenized by itself, as llama.cpp does, so training sees the ids that serving makes. The answer ends with the token
that the template ends a turn with (`<|end|>`, `</s>`, `<|im_end|>`), and nothing follows it.

Rows are never truncated: a cut answer would teach the model never to stop. `prepare` leaves the long ones out.

Not covered: templates that change a message (trim it, or add a reasoning block), which are refused; messages that begin
with spaces, which `prepare` strips (transformers 5 and llama.cpp differ there by one space for a Llama vocabulary).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoTokenizer

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.prompt import SYSTEM_PROMPT, Piece, Style, render, user_text
from training.config import BaseModelConfig
from training.errors import TrainingError
from training.pretrain import Example, encode_row
from training.tokenizer import Tokenizer

# Stand for the texts of a dialogue while its template is rendered: private-use characters, which no template trims.
_FIRST_PLACE = 0xE000
_FACTS = Facts(
    level=Urgency.EMERGENCY_DEPARTMENT, who="vous", abstained=False, probable=True, causes=("une cause",),
    signs=("un signe",),
)  # fmt: skip


class Encoder(Protocol):
    """Turns rows into examples. `stop` ends every answer; `pad` fills batches and is another token."""

    stop: int
    pad: int
    size: int

    def example(self, row: Mapping[str, Any]) -> Example:
        """The ids of a row, and where its answer begins."""
        ...


def open_encoder(base: BaseModelConfig, folder: Path) -> Encoder:
    """The encoder of a base model in `folder`.

    Raises:
        TrainingError: its template is not of the configured style, or no token can pad.
    """
    if base.style is Style.SLOTS:
        return SlotsEncoder(Tokenizer(folder / "tokenizer.model"))
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(folder))
    encoder.check_style(base.style)
    return encoder


def load_dialogues(source: Path, encoder: Encoder, longest: int) -> list[Example]:
    """The examples of a file, none longer than `longest` tokens, each ending with the stop token.

    Raises:
        TrainingError: a row is too long or malformed, or there is none.
    """
    examples, too_long = [], []
    with source.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                example = encoder.example(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise TrainingError(f"{source}, line {number}: not a row of this kind of run ({error!r})") from None
            check_example(example, encoder.stop, f"{source}, line {number}")
            if len(example.ids) > longest:
                too_long.append((len(example.ids), number))
            else:
                examples.append(example)
    if too_long:
        tokens, number = max(too_long)
        raise TrainingError(
            f"{source}: {len(too_long)} rows are longer than {longest} tokens (line {number} has {tokens}); a cut "
            "answer would never stop. Raise qlora.longest_tokens, or run again: python -m training.prepare"
        )
    if not examples:
        raise TrainingError(f"{source} holds no row")
    return examples


def check_example(example: Example, stop: int, place: str) -> None:
    """Proof for one row: an answer of at least one token, and the stop token as its last label.

    Raises:
        TrainingError: naming the place of the row.
    """
    if not 0 < example.reply_start < len(example.ids) - 1:
        raise TrainingError(f"{place}: the answer is empty")
    if example.ids[-1] != stop:
        raise TrainingError(f"{place}: the answer does not end with the stop token, so its end would not be trained")


class SlotsEncoder:
    """Rows of `synthesise`, for a base from `pretrain`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.stop, self.pad, self.size = tokenizer.eos, 0, tokenizer.size  # 0 is <unk>, never in a row

    def example(self, row: Mapping[str, Any]) -> Example:
        """The ids of a row, and where its answer begins."""
        return encode_row(row, self._tokenizer)


class ChatEncoder:
    """Rows of `prepare`: a list of messages, the last of which is the answer to learn."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - transformers is untyped
        """Read the template's markers and the stop and padding tokens.

        Raises:
            TrainingError: the template ends a turn with no special token, or no token can pad.
        """
        self._tokenizer = tokenizer
        self._added = {str(token.content): (place, token) for place, token in tokenizer.added_tokens_decoder.items()}
        self._markers = _any_of(self._added)
        self._always_read = _any_of([marker for marker, (_, token) in self._added.items() if not token.special])
        self._frame = cache(self._render_frame)
        self.size = len(tokenizer)
        *_, closing = self._frame(("system", "user", "assistant"), False)
        found = self._markers.match(closing)
        if found is None:
            raise TrainingError(f"the chat template ends an answer with {closing!r}, which is no special token")
        self.stop = int(self._added[found.group()][0])
        self.pad = padding_token(tokenizer, self.stop)

    def check_style(self, style: Style) -> None:
        """Refuse a base whose template is not what the service renders for that style.

        Raises:
            TrainingError: they differ.
        """
        served = render(_FACTS, "J'ai mal.", style).pieces
        asked = user_text(_FACTS, "J'ai mal.")
        ours = self.prompt_pieces(
            [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": asked}]
        )  # fmt: skip
        if _joined(served) != _joined(ours):
            raise TrainingError(
                f"base.style is {style.value}, but the base's chat template renders {''.join(p.text for p in ours)!r}"
            )

    def prompt_pieces(self, messages: Sequence[Mapping[str, str]]) -> list[Piece]:
        """A dialogue up to where the answer begins, in markers and texts, by the model's own template.

        Raises:
            ValueError: the template changes a text.
        """
        *markers, opening = self._frame(tuple(message["role"] for message in messages), True)
        pieces = []
        for marker, message in zip(markers, messages, strict=True):
            pieces += [Piece(marker, special=True), Piece(message["content"])]
        pieces.append(Piece(opening, special=True))
        rendered = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        if "".join(piece.text for piece in pieces) != rendered:
            raise ValueError("the chat template changes a message")
        return pieces

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of a prompt, as the service encodes it (`LlamaModel.encode`)."""
        ids: list[int] = []
        for special, group in groupby(pieces, key=lambda piece: piece.special):
            text = "".join(piece.text for piece in group)
            for part in self._stretches(text) if special else _cut_inside(text, self._always_read):
                ids += self._text(part) if isinstance(part, str) else [part]
        return ids

    def example(self, row: Mapping[str, Any]) -> Example:
        """The ids of a row, and where its answer begins.

        Raises:
            ValueError: the last message is no answer, or the template changes a message.
        """
        *asked, answer = row["messages"]
        if answer["role"] != "assistant" or not answer["content"].strip():
            raise ValueError("the last message is not an answer")
        pieces = self.prompt_pieces(asked)
        prompt = self.encode(pieces)
        # The answer continues the last stretch of text of the prompt: by itself it could get a space that the
        # model never writes there.
        stretches = list(self._stretches(pieces[-1].text))
        before = stretches[-1] if stretches and isinstance(stretches[-1], str) else ""
        first, *others = _cut_inside(answer["content"].strip(), self._always_read)
        begun, whole = self._text(before), self._text(before + first)
        if whole[: len(begun)] != begun:
            raise ValueError("the answer melts into the marker before it")
        ids = [*whole[len(begun) :], *(token for part in others for token in self._text(part)), self.stop]
        return Example((*prompt, *ids), len(prompt))

    def _stretches(self, text: str) -> Iterator[int | str]:
        """Special tokens (ids) and the text between them; spaces that a token swallows are gone."""
        start = 0
        for found in self._markers.finditer(text):
            place, token = self._added[found.group()]
            before = text[start : found.start()]
            before = before.rstrip() if token.lstrip else before
            if before:
                yield before
            yield int(place)
            start = found.end()
            if token.rstrip:
                start += len(text[start:]) - len(text[start:].lstrip())
        if text[start:]:
            yield text[start:]

    def _text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)) if text else []

    def _render_frame(self, roles: tuple[str, ...], asks: bool) -> tuple[str, ...]:
        """What the template writes before, between and after the messages."""
        places = [chr(_FIRST_PLACE + number) for number in range(len(roles))]
        messages = [{"role": role, "content": place} for role, place in zip(roles, places, strict=True)]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        except Exception as error:  # a template is a program of its author's
            raise TrainingError(f"the chat template cannot be rendered: {error}") from None
        pattern = f"[{places[0]}-{places[-1]}]"
        if re.findall(pattern, text) != places:
            raise TrainingError("the chat template does not write every message once, in order")
        return tuple(re.split(pattern, text))


def padding_token(tokenizer: Any, stop: int) -> int:  # noqa: ANN401 - transformers is untyped
    """An existing token to pad with, other than the stop token; none is ever added.

    Raises:
        TrainingError: there is none.
    """
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if token is not None and token != stop:
            return int(token)
    raise TrainingError("the base has no token to pad with other than its end token; choose another base")


def _any_of(markers: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(markers, key=len, reverse=True)
    return re.compile("|".join(re.escape(marker) for marker in longest_first) or r"(?!)")


def _cut_inside(text: str, markers: re.Pattern[str]) -> list[str]:
    """`text` cut inside every marker that is read even where special parsing is off, as `LlamaModel` cuts it."""
    places = [found.start() + len(found.group()) // 2 for found in markers.finditer(text)]
    return [text[start:end] for start, end in pairwise((0, *places, len(text)))]


def _joined(pieces: Sequence[Piece]) -> list[tuple[bool, str]]:
    special: Callable[[Piece], bool] = lambda piece: piece.special  # noqa: E731 - typed for groupby
    return [(key, "".join(piece.text for piece in group)) for key, group in groupby(pieces, key=special)]
