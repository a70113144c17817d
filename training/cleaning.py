"""One row of text made fit to train on: whitespace, HTML, control tokens, language, and the size of an answer.

Everything here is a pure function of its arguments, so that several processes give what one gives. Names and
signatures are in `training/signatures.py`, duplicates in `training/duplicates.py`.

Languages are told by py3langid (BSD, numpy only, a model of 4.6 MB; lingua's wheel is 96 MB), limited to the
languages below: on 24 short sentences of patients (the tests) it names every one; on longer texts not measured.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import cache
from typing import Any

LONGEST_CHARS = 100_000
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "nl", "pl", "pt", "ro", "ru", "tr", "zh")
_LANGUAGE_CHARS = 2_000
_MOST_PARTS = 20


class Reason(StrEnum):
    """Why a row that was read is not among the rows that are kept."""

    EMPTY_LINE = "empty_line"
    NOT_UTF8 = "not_utf8"
    BROKEN_JSON = "broken_json"
    BROKEN_XML = "broken_xml"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_KEY = "missing_key"
    WRONG_TYPE = "wrong_type"
    EMPTY_QUESTION = "empty_question"
    EMPTY_ANSWER = "empty_answer"
    LANGUAGE = "other_language"
    OVER_LONG = "over_long"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    OVERLAPS_HELD_OUT = "overlaps_held_out"
    BEYOND_MOST_ROWS = "beyond_most_rows"


class RejectedError(ValueError):
    """A row cannot be used; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


_INLINE = "a abbr b big cite code del em font i img ins label q s small span strike strong sub sup tt u var wbr"
_BLOCK = (
    "article blockquote body br button center dd div dl dt footer form h1 h2 h3 h4 h5 h6 head header hr html iframe "
    "input li link meta nav ol option p pre script section select source style svg table tbody td th thead title tr ul"
)
_INLINE_TAG = re.compile(rf"</?(?:{'|'.join(_INLINE.split())})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(_BLOCK.split())})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
# What chat models take for the end of a turn or its beginning: nobody else's text may hold one.
_CONTROL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|<unk>|<pad>|\[/?INST\]|<</?SYS>>")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffc\ufffd]")
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_SPACE_BEFORE_STOP = re.compile(r" +(?=[.,)\]])")
_SENTENCE = re.compile(r".+?(?:[.!?…]+(?=\s|$)|\n+|$)\s*", re.DOTALL)


def clean_text(text: str, tokens: Iterable[str] = ()) -> str:
    """Plain text in NFC: no HTML, no control token (`tokens` are the base's own), single spaces, short gaps.

    "Less than" signs and angle brackets that are no HTML stay: `température <38` is left as it is.
    """
    for _ in range(3):  # forums escape what is escaped already
        unescaped = html.unescape(text)
        if unescaped == text:
            break
        text = unescaped
    # Lone surrogates are legal in JSON and cannot be written as UTF-8.
    text = text.encode("utf-8", "ignore").decode("utf-8")
    text = unicodedata.normalize("NFC", _LINE_END.sub("\n", text))
    text = _INVISIBLE.sub("", _HIDDEN.sub(" ", text))
    for pattern, filler in ((_CONTROL_TOKEN, " "), (_BLOCK_TAG, "\n"), (_INLINE_TAG, "")):
        text = pattern.sub(filler, text)
    for token in tokens:
        text = text.replace(token, " ")
    text = "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cn") else " " for c in text)
    lines = (_SPACE_BEFORE_STOP.sub("", _BLANKS.sub(" ", line)).strip() for line in text.split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()


_WHAT_IS_ARE = re.compile(r"^what is \(are\)\s+", re.IGNORECASE)
_SPACE_BEFORE_MARK = re.compile(r"\s+\?+(?:\s*\?)*$")


def clean_medquad_question(text: str) -> str:
    """MedQuAD's generated questions as a person would write them: `What is (are) Gout ?` -> `What is Gout?`."""
    text = _SPACE_BEFORE_MARK.sub("?", _WHAT_IS_ARE.sub("What is ", text))
    return text[:1].upper() + text[1:]


_RUN_ON_ITEM = re.compile(r"[^\S\n]{2,}-\s+")


def break_medquad_lists(text: str) -> str:
    """MedQuAD's lists with one item a line: their items run on, several blanks before each dash."""
    return _RUN_ON_ITEM.sub("\n- ", text)


@cache
def _identifier() -> Any:  # noqa: ANN401 - untyped library
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415 - loads a model of 100 MB in memory

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(LANGUAGES))
    return identifier


def language_of(text: str) -> str:
    """The two-letter code of the likeliest of LANGUAGES; an empty text has none and is called `und`."""
    sample = text[:_LANGUAGE_CHARS]
    if not any(c.isalpha() for c in sample):
        return "und"
    return str(_identifier().classify(sample)[0])


def sentences(text: str) -> Iterator[str]:
    """The sentences and lines of a text with the blanks after them; joined they are the text."""
    for found in _SENTENCE.finditer(text):
        yield found.group()


def split_answer(answer: str, fits: Callable[[str], bool]) -> list[str]:
    """An answer in parts that fit, cut between sentences; empty when a sentence alone is too long.

    Every part ends where a sentence ends, so that the model never learns to stop in the middle of one.
    """
    parts: list[str] = []
    part = ""
    for sentence in sentences(answer):
        if part and not fits((part + sentence).strip()):
            parts.append(part.strip())
            part = ""
        if not part and not fits(sentence.strip()):
            return []
        part += sentence
    return parts if len(parts := [*parts, part.strip()]) <= _MOST_PARTS else []
