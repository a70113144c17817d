"""Sources: every row is read or reported with its file and line, whatever state the file is in."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.stand_in_hub import COMMIT, Hub, closed_port, serve_hub
from tests.training.conftest import ENVIRONMENT, ROOT
from training.cleaning import Reason, RejectedError
from training.config import SourceConfig, SourceKind
from training.errors import TrainingError
from training.sources import Record, locate, read, survey, turns_of

GENERIC = "If you are a doctor, please answer the medical questions based on the patient's description."
MEDQUAD = """<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000001" source="NIDDK" url="https://www.niddk.nih.gov/">
<Focus>Gout</Focus>
<FocusAnnotations>
\t<UMLS><CUIs><CUI>C0018099</CUI></CUIs></UMLS>
\t<Synonyms><Synonym>Gouty arthritis</Synonym></Synonyms>
</FocusAnnotations>
<QAPairs>
\t<QAPair pid="1">
\t\t<Question qid="0000001-1" qtype="information">What is (are) Gout ?</Question>
\t\t<Answer>A kind of arthritis &amp; a painful one.
Key Points:  it comes in attacks.</Answer>
\t</QAPair>
\t<QAPair pid="2">
\t\t<Question qid="0000001-2" qtype="treatment">What are the treatments for Gout ?</Question>
\t\t<Answer></Answer>
\t</QAPair>
</QAPairs>
</Document>
"""


def source(kind: SourceKind = SourceKind.JSONL, **fields: Any) -> SourceConfig:  # noqa: ANN401 - fields of any type
    """A source of which only the named fields matter."""
    return SourceConfig(kind=kind, licence="CC0", **{"path": "rows.jsonl", **fields})


def records(path: Path, kind: SourceKind = SourceKind.JSONL) -> list[Record]:
    """All that is read at a path."""
    return list(read(0, locate(source(kind, path=str(path)))))


def told(found: list[Record]) -> list[tuple[int, Any]]:
    """Line and problem, or the content."""
    return [(record.line, record.problem or record.content) for record in found]


def test_bad_lines_are_records_with_a_reason(tmp_path: Path) -> None:
    """Each costs itself only; line numbers are those of an editor."""
    lines = [
        b"\xef\xbb\xbf" + b'{"a": "first, after a byte order mark"}', b"{broken", b'["a list"]', b"", b'{"a": "\xff"}',
        b"[" * 100_000, b'"word"', b'{"a": "' + b"x" * (3 << 20) + b'"}', b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": "last, without an end of line"}',
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    assert told(records(tmp_path)) == [
        (1, {"a": "first, after a byte order mark"}), (2, Reason.BROKEN_JSON), (3, Reason.NOT_AN_OBJECT),
        (4, Reason.EMPTY_LINE), (5, Reason.NOT_UTF8), (6, Reason.BROKEN_JSON), (7, Reason.NOT_AN_OBJECT),
        (8, Reason.OVER_LONG), (9, Reason.BROKEN_JSON), (10, {"a": "last, without an end of line"}),
    ]  # fmt: skip


@given(st.lists(st.binary()))
def test_any_bytes_are_as_many_records_as_lines(lines: list[bytes]) -> None:
    """Nothing crashes and nothing vanishes: one record for each line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"".join(b"{" + line.replace(b"\n", b"") + b"\n" for line in [*lines, b""]))
        assert [record.line for record in records(path)] == list(range(1, len(lines) + 2))


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_as_it_streams(tmp_path: Path, indent: int | None) -> None:
    """The form in which ChatDoctor is published, over many blocks, on one line or on many."""
    rows = [{"instruction": GENERIC, "input": f"é{number}" * 50, "output": "]},["} for number in range(2_000)]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    found = records(tmp_path)
    assert [record.content for record in found] == rows
    assert [record.line for record in found[:3]] == ([1, 1, 1] if indent is None else [2, 7, 12])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'[{"a": 1}, 7, {"b": 2}]', [(1, {"a": 1}), (1, Reason.NOT_AN_OBJECT), (1, {"b": 2})]),
        (b'[{"a": 1},\n{"b": }, {"c": 3}]', [(1, {"a": 1}), (2, Reason.BROKEN_JSON)]),
        (b'[{"a": 1},\n{"b": "cut', [(1, {"a": 1}), (2, Reason.BROKEN_JSON)]),
        (b'[{"a": "\xff"}]', [(1, Reason.NOT_UTF8)]),
        (b"[]", []),
    ],
)
def test_a_broken_array_says_where(tmp_path: Path, text: bytes, expected: list[Any]) -> None:
    """What stands before the fault is read."""
    (tmp_path / "rows.json").write_bytes(text)
    assert told(records(tmp_path)) == expected


def test_medquad_documents_are_read_as_published(tmp_path: Path) -> None:
    """Pairs with their lines, from folders, in the order of their names; other elements are left alone."""
    for folder in ("5_NIDDK_QA", "10_MPlus_ADAM_QA"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0000001.xml").write_text(MEDQUAD, encoding="utf-8")
    found = records(tmp_path, SourceKind.MEDQUAD)
    assert [(record.file, record.line) for record in found] == [
        ("10_MPlus_ADAM_QA/0000001.xml", 9), ("10_MPlus_ADAM_QA/0000001.xml", 14),
        ("5_NIDDK_QA/0000001.xml", 9), ("5_NIDDK_QA/0000001.xml", 14),
    ]  # fmt: skip
    answer = "A kind of arthritis & a painful one.\nKey Points:  it comes in attacks."
    assert found[0].content == {"question": "What is (are) Gout ?", "answer": answer}
    assert found[1].content == {"question": "What are the treatments for Gout ?", "answer": ""}


def test_a_broken_document_keeps_its_first_pairs(tmp_path: Path) -> None:
    """The fault is one record; a document with entities, which could fill the memory, is refused."""
    (tmp_path / "a.xml").write_text(MEDQUAD.replace("</QAPair>\n</QAPairs>", "</QAPai"), encoding="utf-8")
    (tmp_path / "b.xml").write_text('<!DOCTYPE d [<!ENTITY e "x">]>\n<Document>&e;</Document>', encoding="utf-8")
    (tmp_path / "c.xml").write_bytes(b"")
    found = records(tmp_path, SourceKind.MEDQUAD)
    assert [(record.file, record.line, record.problem) for record in found] == [
        ("a.xml", 9, None), ("a.xml", 18, Reason.BROKEN_XML), ("b.xml", 1, Reason.BROKEN_XML),
        ("c.xml", 1, Reason.BROKEN_XML),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"instruction": "Q", "input": "", "output": "A"}, {}, ("Q", "A")),
        ({"instruction": "Q", "output": "A"}, {}, ("Q", "A")),
        ({"instruction": "Explain", "input": "I cough", "output": "A"}, {}, ("Explain\n\nI cough", "A")),
        ({"instruction": GENERIC, "input": "I cough", "output": "A"}, {}, ("I cough", "A")),
        ({"instruction": GENERIC, "input": "", "output": "A"}, {}, (GENERIC, "A")),
        ({"instruction": GENERIC, "input": "I", "output": "A"}, {"instruction": "keep"}, (f"{GENERIC}\n\nI", "A")),
        ({"instruction": "Explain", "input": "I", "output": "A"}, {"instruction": "ignore"}, ("I", "A")),
        ({"instruction": GENERIC, "input": "I", "output": "A"}, {"kind": SourceKind.CHATDOCTOR}, ("I", "A")),
        ({"instruction": GENERIC, "input": "", "output": "A"}, {"kind": SourceKind.CHATDOCTOR}, ("", "A")),
        ({"input": "I", "output": "A"}, {"kind": SourceKind.CHATDOCTOR}, ("I", "A")),
        ({"question": "Q", "answer": None, "document_id": 3}, {"kind": SourceKind.MEDQUAD}, ("Q", "")),
    ],
)
def test_the_turns_of_a_row(row: dict[str, Any], fields: dict[str, Any], expected: tuple[str, str]) -> None:
    """The patient speaks in the user's turn: a generic instruction is not what a patient says."""
    assert turns_of(source(**fields), row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input": "I", "output": "A"}, Reason.MISSING_KEY),
        ({"instruction": "Q", "input": ""}, Reason.MISSING_KEY),
        ({"instruction": "Q", "input": "", "output": 7}, Reason.WRONG_TYPE),
        ({"instruction": ["Q"], "input": "", "output": "A"}, Reason.WRONG_TYPE),
        ({"instruction": "Q", "input": {}, "output": "A"}, Reason.WRONG_TYPE),
    ],
)
def test_a_row_of_another_shape_is_refused(row: dict[str, Any], reason: Reason) -> None:
    """A missing key and a value that is no text are told apart."""
    with pytest.raises(RejectedError) as refused:
        turns_of(source(), row)
    assert refused.value.reason is reason


def test_a_source_is_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    """The files are the same however they are named, and other files are left alone."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    names = ("data/b.jsonl", "data/more/a.json", "data/notes.txt", "data/other.jsonl")
    for name in names:
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    found = [locate(source(path=str(tmp_path / path))) for path in ("data", "data/b.jsonl", "data/*.jsonl")]
    assert [[place.name_of(file) for file in place.files] for place in found] == [
        ["b.jsonl", "more/a.json", "other.jsonl"], ["b.jsonl"], ["b.jsonl", "other.jsonl"],
    ]  # fmt: skip
    with pytest.raises(TrainingError, match="nowhere"):
        locate(source(path=str(tmp_path / "nowhere")))


def test_a_survey_tells_content_and_rows(tmp_path: Path) -> None:
    """The hash changes with a byte or a name; the number of rows is known beforehand."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": 1}\n' * 3, encoding="utf-8")
    first = survey(locate(source(path=str(rows))))
    assert first[1] == 3
    rows.write_text('{"a": 2}\n' * 3, encoding="utf-8")
    second = survey(locate(source(path=str(rows))))
    rows.rename(tmp_path / "other.jsonl")
    assert len({first[0], second[0], survey(locate(source(path=str(tmp_path))))[0]}) == 3


@pytest.mark.training
def test_parquet_is_read_through_datasets(tmp_path: Path) -> None:
    """A local copy of the Hub's files: rows by their numbers, nulls as nulls."""
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    place = locate(source(SourceKind.MEDQUAD, path=str(tmp_path)))
    found = list(read(0, place))
    assert told(found) == [(1, {"question": "What is Gout?", "answer": None}), (2, {"question": "Q", "answer": "A"})]
    assert survey(place)[1] == 2


def write_parquet(path: Path) -> None:
    """Two rows of MedQuAD as the Hub has it, one without an answer."""
    from datasets import Dataset  # noqa: PLC0415 - only in the training environment

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list([{"question": "What is Gout?", "answer": None}, {"question": "Q", "answer": "A"}]).to_parquet(
        path
    )


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in of the Hub with no data set yet."""
    with serve_hub() as served:
        yield served


_LOCATE = """
from training.config import SourceConfig
from training.sources import locate, read
place = locate(SourceConfig(kind="medquad", licence="CC BY 4.0", revision={revision!r}))
print(place.revision, [(r.file, r.line, r.content) for r in read(0, place)])
"""


def located(hub_url: str, home: Path, revision: str | None = None) -> subprocess.CompletedProcess[str]:
    """Locate MedQuAD on a hub, in a process of its own: the Hub's address is read at import."""
    environment = ENVIRONMENT | {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    code = _LOCATE.format(revision=revision)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.training
def test_a_data_set_of_the_hub_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    """Its data files only, at a revision that is recorded; the second time nothing is downloaded."""
    file = "data/train-00000-of-00001.parquet"
    write_parquet(tmp_path / file)
    names = ("README.md", file)
    described = json.dumps({"id": "lavita/MedQuAD", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
    tree = [{"type": "file", "path": name, "size": (tmp_path / file).stat().st_size, "oid": "0" * 40} for name in names]
    for revision in ("main", COMMIT):
        hub.files[f"/api/datasets/lavita/MedQuAD/revision/{revision}"] = described.encode()
    hub.files[f"/api/datasets/lavita/MedQuAD/tree/{COMMIT}?recursive=true&expand=false"] = json.dumps(tree).encode()
    hub.files[f"/datasets/lavita/MedQuAD/resolve/{COMMIT}/{file}"] = (tmp_path / file).read_bytes()
    for _ in range(2):
        done = located(hub.url, tmp_path / "home")
        assert done.returncode == 0, done.stderr + str([r.path for r in hub.requests])
        assert done.stdout.startswith(f"{COMMIT} [('{file}', 1, {{'question': 'What is Gout?'")
    assert len([r for r in hub.asked("GET") if "/resolve/" in r.path]) == 1


@pytest.mark.training
def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    """The message names the data set and the way out."""
    with closed_port() as address:
        done = located(address, tmp_path / "home")
    assert done.returncode == 1
    assert "lavita/MedQuAD cannot be fetched from the Hub" in done.stderr
    assert "local copy" in done.stderr
