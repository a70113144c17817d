"""Files of rows, streamed: JSON lines, a JSON array, Parquet, MedQuAD's XML documents.

Each reader yields the line (in Parquet the row) and the row, or the reason why there is none. One broken line costs
that line. Parquet is read through `datasets`; JSON is read here, since pyarrow gives up the whole file at one bad line.
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

from training.cleaning import Reason

_LONGEST_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16


def read_rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    """Line (or row) numbers and what stands there."""
    if file.suffix == ".parquet":
        yield from _read_parquet(file)
        return
    with file.open("rb") as stream:
        if file.suffix == ".xml":
            yield from _read_qa_pairs(stream)
        elif _first_byte(stream) == b"[":
            yield from _read_array(stream)
        else:
            yield from _read_lines(stream)


def _first_byte(stream: BinaryIO) -> bytes:
    start = stream.read(_BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    stream.seek(0)
    return start


def _read_lines(stream: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    number = 0
    while line := stream.readline(_LONGEST_LINE_BYTES):
        number += 1
        if not line.endswith(b"\n") and len(line) == _LONGEST_LINE_BYTES:
            while (rest := stream.readline(_LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, Reason.OVER_LONG
            continue
        yield number, _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _parse(line: bytes) -> Mapping[str, Any] | Reason:
    if not line.strip():
        return Reason.EMPTY_LINE
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Reason.NOT_UTF8
    except (ValueError, RecursionError):
        return Reason.BROKEN_JSON
    return content if isinstance(content, dict) else Reason.NOT_AN_OBJECT


def _read_array(stream: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    """The objects of one JSON array (as ChatDoctor is published), a block at a time.

    After something that is no JSON the rest of the file cannot be trusted: one more record says so, the last.
    """
    parse, decode = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8-sig")().decode
    text, line, opened, ended = "", 1, False, False
    while True:
        rest = text.lstrip(" \t\r\n," if opened else " \t\r\n")
        line += text.count("\n", 0, len(text) - len(rest))
        text = rest
        if not opened and text:
            text, opened = text[1:], True
            continue
        if text.startswith("]"):
            return
        content, end = None, 0
        if text:
            with contextlib.suppress(ValueError, RecursionError):
                content, end = parse(text)
        # An object is whole once it is closed; a number or a word may go on in the next block.
        if end and (end < len(text) or ended):
            yield line, content if isinstance(content, dict) else Reason.NOT_AN_OBJECT
            line += text.count("\n", 0, end)
            text = text[end:]
            continue
        if ended or len(text) > _LONGEST_LINE_BYTES:
            yield line, Reason.BROKEN_JSON
            return
        block = stream.read(_BLOCK_BYTES)
        ended = not block
        try:
            text += decode(block, ended)
        except UnicodeDecodeError:
            yield line, Reason.NOT_UTF8
            return


def _read_parquet(file: Path) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    from datasets import load_dataset  # noqa: PLC0415 - slow to import

    rows = load_dataset("parquet", data_files=str(file), split="train", streaming=True)
    yield from enumerate(rows, 1)


class _QAPairs:
    """Follows the elements of one MedQuAD document: QAPairs > QAPair > Question, Answer."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, dict[str, str]]] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity
        self._pair: dict[str, str] | None = None
        self._line = 0
        self._field: str | None = None

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        if name == "QAPair":
            self._pair, self._line = {}, self.parser.CurrentLineNumber
        elif self._pair is not None and name in ("Question", "Answer"):
            self._field = name.lower()
            self._pair[self._field] = ""

    def _end(self, name: str) -> None:
        if name == "QAPair" and self._pair is not None:
            self.pairs.append((self._line, self._pair))
            self._pair = None
        elif name in ("Question", "Answer"):
            self._field = None

    def _text(self, text: str) -> None:
        if self._pair is not None and self._field:
            self._pair[self._field] += text

    def _entity(self, *_declaration: object) -> None:
        raise expat.ExpatError("entities are not read: they can be made to fill the memory")


def _read_qa_pairs(stream: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any] | Reason]]:
    document = _QAPairs()
    ended = False
    while not ended:
        block = stream.read(_BLOCK_BYTES)
        ended = not block
        try:
            document.parser.Parse(block, ended)
        except expat.ExpatError:
            yield from document.pairs
            yield document.parser.CurrentLineNumber, Reason.BROKEN_XML
            return
        yield from document.pairs
        document.pairs.clear()
