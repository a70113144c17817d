"""Load, validate and index the knowledge base of `data/`.

`load(folder)` reads the JSON files, checks every reference, and compiles the lexicon; all problems are reported
together as one `KnowledgeError`. The result is frozen. What it does not do: judge the medicine (see `lint.py`,
and `docs/knowledge.md` for reviewers).

Try it: `python -m backend.core.knowledge`
"""

from __future__ import annotations

import gc
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from backend.core.alarm import Alarm
from backend.core.cues import Cues
from backend.core.entities import (
    NAMED,
    VAGUE,
    WELL,
    Case,
    Condition,
    Finding,
    Kind,
    Link,
    Measured,
    Pathology,
    RedFlag,
    Source,
)
from backend.core.errors import KnowledgeError
from backend.core.lexicon import Lexicon
from backend.core.measures import WORDS as MEASURE_WORDS
from backend.core.rows import (
    AlarmRow,
    CaseRow,
    ConditionRow,
    FindingRow,
    FrenchRow,
    PathologyRow,
    RedFlagRow,
    SourceRow,
)
from backend.core.text import plain

DATA = Path(__file__).resolve().parents[2] / "data"
FILES = (
    "pathologies.json", "findings.json", "red_flags.json", "cues.json", "sources.json", "french.json",
    "lookalikes.json", "alarm.json",
)  # fmt: skip


@dataclass(frozen=True)
class Knowledge:
    """The knowledge base, frozen. `version` is the first 12 hex digits of the SHA-256 of its files."""

    version: str
    findings: Mapping[str, Finding]
    pathologies: Mapping[str, Pathology]
    red_flags: tuple[RedFlag, ...]
    sources: Mapping[str, Source]
    cues: Cues
    sms: Mapping[str, str]
    numbers: Mapping[str, int]
    distributive: frozenset[str]
    adverb_verbs: frozenset[str]
    fillers: frozenset[str]
    sites: frozenset[str]
    genders: Mapping[str, str]
    lexicon: Lexicon
    alarm: Alarm

    @cached_property
    def diseases(self) -> frozenset[str]:
        """Findings that name a disease."""
        return frozenset(finding.id for finding in self.findings.values() if finding.kind is Kind.HISTORY)

    @cached_property
    def events(self) -> frozenset[str]:
        """What happened to somebody, or what they take or do."""
        return frozenset(f.id for f in self.findings.values() if f.kind in (Kind.CONTEXT, Kind.RISK))

    @cached_property
    def complaints(self) -> frozenset[str]:
        """Symptoms and signs: who has them is ill now."""
        return frozenset(f.id for f in self.findings.values() if f.kind in (Kind.SYMPTOM, Kind.SIGN))

    @cached_property
    def troubles(self) -> frozenset[str]:
        """Complaints, and what happened to somebody ("ma fille a bu du déboucheur"): who has them is the patient."""
        happened = (f.id for f in self.findings.values() if f.kind is Kind.CONTEXT and not f.about_others)
        ill = (f for f in self.complaints if not self.findings[f].about_others)
        return frozenset(ill).union(happened)

    @cached_property
    def alarming(self) -> frozenset[str]:
        """Findings that a red-flag rule asks for, and their children, which imply them."""
        asked = {
            f for rule in self.red_flags for condition in rule.when for wanted in condition.findings for f in wanted
        }
        return frozenset(f for f in self.findings if not asked.isdisjoint((f, *self.ancestors(f))))

    @cached_property
    def cue_words(self) -> frozenset[str]:
        """Words of cues long enough to be worth correcting; a person is never read into a misspelt word."""
        words = (self.cues.words() - set(self.cues.relatives)) | MEASURE_WORDS | set(self.numbers)
        return frozenset(word for word in words if len(word) >= 5)

    @cached_property
    def measured(self) -> Mapping[str, tuple[tuple[str, Measured], ...]]:
        """For each unit, the findings that a number in it can state."""
        by_unit: dict[str, list[tuple[str, Measured]]] = defaultdict(list)
        for finding in self.findings.values():
            for measured in finding.measures:
                by_unit[measured.unit].append((finding.id, measured))
        return {unit: tuple(found) for unit, found in by_unit.items()}

    @cached_property
    def _relatives(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for finding in self.findings:
            for parent in self.ancestors(finding):
                found[finding].add(parent)
                found[parent].add(finding)
        return {finding: frozenset(relatives) for finding, relatives in found.items()}

    def relatives(self, finding: str) -> frozenset[str]:
        """Parents and children of a finding, at any distance."""
        return self._relatives.get(finding, frozenset())

    def is_finding(self, target: str) -> bool:
        """Whether a wording states a finding; the others are text patterns of red-flag rules."""
        return target in self.findings

    def is_course(self, finding: str) -> bool:
        """Whether a finding is a time course or a trigger."""
        return self.findings[finding].kind is Kind.COURSE

    def is_vague(self, finding: str) -> bool:
        """Whether a finding names no place and no kind ("douleur", "saignement")."""
        return finding.endswith(VAGUE)

    def importance_of(self, finding: str) -> int:
        """How bad it would be to leave a finding unexplained, 1 to 5."""
        return self.findings[finding].importance

    def is_about_others(self, finding: str) -> bool:
        """Whether a finding lies in somebody else's illness."""
        return self.findings[finding].about_others

    def ancestors(self, finding: str) -> tuple[str, ...]:
        """The parents of a finding, nearest first."""
        line = []
        parent = self.findings[finding].parent
        while parent is not None:
            line.append(parent)
            parent = self.findings[parent].parent
        return tuple(line)

    def group_of(self, finding: str) -> str:
        """The name under which a finding is damped with those that say nearly the same."""
        line = (finding, *self.ancestors(finding))
        return next((group for f in line if (group := self.findings[f].group)), line[-1])


def load(folder: Path = DATA) -> Knowledge:
    """Read `folder` (the files in `FILES`). About 0.5 s for 560 pathologies and 46,000 wordings.

    Raises:
        KnowledgeError: a file is missing or malformed, or a reference leads nowhere.
    """
    with _without_collector():
        return _load(folder)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the garbage collector: it would look again and again at objects that stay, for a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(folder: Path) -> Knowledge:
    contents = _read_files(folder)
    sources: dict[str, SourceRow] = _parse(contents, "sources.json", dict[str, SourceRow])
    findings: list[FindingRow] = _parse(contents, "findings.json", list[FindingRow])
    pathologies: list[PathologyRow] = _parse(contents, "pathologies.json", list[PathologyRow])
    red_flags: list[RedFlagRow] = _parse(contents, "red_flags.json", list[RedFlagRow])
    french: FrenchRow = _parse(contents, "french.json", FrenchRow)
    lookalikes: list[str] = _parse(contents, "lookalikes.json", list[str])
    alarm: AlarmRow = _parse(contents, "alarm.json", AlarmRow)
    cues_data: dict[str, Any] = _parse(contents, "cues.json", dict[str, Any])
    problems = [
        *_check_findings(findings),
        *_check_pathologies(pathologies, {row.id for row in findings}, sources),
        *_check_red_flags(red_flags, {row.id for row in findings}, sources),
    ]
    if problems:
        raise KnowledgeError(problems)
    cited = {key: Source(row.title, row.publisher, row.year, row.url) for key, row in sources.items()}
    known = {row.id: _to_pathology(row, cited) for row in pathologies}
    said = {row.id: _to_finding(row) for row in findings}
    taken = frozenset(wording for finding in said.values() for wording in finding.lay)
    for pathology in known.values():
        said[pathology.history_finding] = _name_of(pathology, said.get(pathology.history_finding), taken)
    flags = tuple(_to_red_flag(row, cited) for row in red_flags)
    cues = Cues(cues_data)
    other_words = cues.words() | MEASURE_WORDS | set(french.numbers) | set(alarm.words)
    wordings = {finding.id: finding.lay for finding in said.values()}
    wordings |= {f"{WELL}{finding.id}": finding.well for finding in said.values() if finding.well}
    wordings |= {f"{flag.id}/{index}": c.texts for flag in flags for index, c in enumerate(flag.when)}
    kept_as_typed = [*lookalikes, *map(plain, french.names)]
    lexicon = Lexicon(
        wordings, french.families | _acronyms(pathologies), french.light, other_words, kept_as_typed, french.quantifiers
    )
    return Knowledge(
        version=_version(contents.values()),
        findings=said,
        pathologies=known,
        red_flags=flags,
        sources=cited,
        cues=cues,
        sms=french.sms,
        numbers=french.numbers,
        adverb_verbs=frozenset(plain(word) for word in french.adverb_verbs),
        fillers=frozenset(plain(word) for word in french.fillers),
        distributive=frozenset(lexicon.key(word) for word in french.distributive),
        sites=frozenset(french.sites),
        genders={noun: gender for gender, nouns in french.nouns.items() for noun in nouns},
        lexicon=lexicon,
        alarm=Alarm(alarm.terms, alarm.traits),
    )


def _acronyms(rows: Sequence[PathologyRow]) -> dict[str, list[str]]:
    """Families of one for names like "BAV", so that no inflection takes "bave" for one."""
    names = (name for row in rows for name in (row.name, *row.aka))
    return {name.lower(): [] for name in names if name.isalpha() and name.isupper()}


def _read_files(folder: Path) -> dict[str, bytes]:
    missing = [f"{name}: missing from {folder}" for name in FILES if not (folder / name).is_file()]
    if missing:
        raise KnowledgeError(missing)
    return {name: (folder / name).read_bytes() for name in FILES}


def _version(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]


def _parse(contents: Mapping[str, bytes], name: str, shape: Any) -> Any:  # noqa: ANN401 - any shape of row
    try:
        return TypeAdapter(shape).validate_json(contents[name])
    except ValidationError as error:
        places = [
            f"{name}: {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise KnowledgeError(places) from None


def _twice(ids: Sequence[str], what: str) -> list[str]:
    return [f"{what} {repeated}: defined twice" for repeated, count in sorted(Counter(ids).items()) if count > 1]


def _check_findings(rows: Sequence[FindingRow]) -> list[str]:
    by_id = {row.id: row for row in rows}
    problems = _twice([row.id for row in rows], "finding")
    for row in rows:
        if row.id.startswith(NAMED):
            problems.append(f"finding {row.id}: the prefix {NAMED} is kept for the names of diseases")
        seen = {row.id}
        parent = row.parent
        while parent is not None:
            if parent not in by_id:
                problems.append(f"finding {row.id}: unknown parent {parent}")
                break
            if parent in seen:
                problems.append(f"finding {row.id}: is its own ancestor")
                break
            seen.add(parent)
            parent = by_id[parent].parent
    return problems


def _check_pathologies(rows: Sequence[PathologyRow], findings: set[str], sources: Mapping[str, Any]) -> list[str]:
    problems = _twice([row.id for row in rows], "pathology")
    for row in rows:
        listed = [link.id for link in row.findings]
        problems += _twice(listed, f"pathology {row.id}: finding")
        problems += [f"pathology {row.id}: unknown finding {f}" for f in listed if f not in findings]
        problems += [f"pathology {row.id}: unknown source {s}" for s in row.sources if s not in sources]
        if row.history_finding is not None and row.history_finding not in findings:
            problems.append(f"pathology {row.id}: unknown history finding {row.history_finding}")
        if len(row.prevalence) != 5:
            problems.append(f"pathology {row.id}: prevalence needs all five age bands")
    return problems


def _check_red_flags(rows: Sequence[RedFlagRow], findings: set[str], sources: Mapping[str, Any]) -> list[str]:
    problems = _twice([row.id for row in rows], "red flag")
    for row in rows:
        for condition in row.when:
            if not condition.findings and not condition.text:
                problems.append(f"red flag {row.id}: an alternative has neither findings nor text")
            for wanted in _alternatives(condition):
                problems += [f"red flag {row.id}: unknown finding {f}" for f in wanted if f not in findings]
        problems += [f"red flag {row.id}: unknown source {s}" for s in row.sources if s not in sources]
    return problems


def _alternatives(condition: ConditionRow) -> tuple[tuple[str, ...], ...]:
    return tuple((wanted,) if isinstance(wanted, str) else tuple(wanted) for wanted in condition.findings)


def _to_finding(row: FindingRow) -> Finding:
    return Finding(
        id=row.id, label=row.label, article=row.article, kind=row.kind, importance=row.importance,
        question=row.question, lay=tuple(row.lay), parent=row.parent, group=row.group,
        measures=tuple(Measured(m.unit.value, m.min, m.max) for m in row.measures), about_others=row.about_others,
        well=tuple(row.well),
    )  # fmt: skip


def _to_pathology(row: PathologyRow, sources: Mapping[str, Source]) -> Pathology:
    return Pathology(
        id=row.id, name=row.name, article=row.article, name_en=row.name_en, aka=tuple(row.aka),
        icd10=tuple(row.icd10), group=row.group, urgency=row.urgency, specialist=row.specialist,
        prevalence={str(band): str(value) for band, value in row.prevalence.items()}, sex=row.sex,
        links=tuple(Link(link.id, link.frequency) for link in row.findings), advice=row.advice,
        when_to_worry=row.when_to_worry, history_finding=row.history_finding or NAMED + row.id,
        sources=tuple(sources[key] for key in row.sources),
    )  # fmt: skip


def _name_of(pathology: Pathology, own: Finding | None, taken: frozenset[str]) -> Finding:
    """The finding "this disease is known or named": its own, or the one that the pathology points to."""
    names = (pathology.name, *pathology.aka)
    if own is not None:
        return replace(own, lay=(*own.lay, *(name for name in names if name not in taken)))
    return Finding(
        id=pathology.history_finding, label=pathology.name, article=pathology.article, kind=Kind.HISTORY,
        importance=1, question=f"Avez-vous, ou avez-vous déjà eu, {pathology.phrase} ?", lay=names,
    )  # fmt: skip


def _to_red_flag(row: RedFlagRow, sources: Mapping[str, Source]) -> RedFlag:
    return RedFlag(
        id=row.id, label=row.label, level=row.level, phone=row.phone, message=row.message,
        when=tuple(
            Condition(_alternatives(c), tuple(c.text), c.age_min, c.age_max, c.sex, c.pregnant) for c in row.when
        ),
        positive=tuple(_to_case(case) for case in row.positive),
        negative=tuple(_to_case(case) for case in row.negative),
        sources=tuple(sources[key] for key in row.sources),
    )  # fmt: skip


def _to_case(row: str | CaseRow) -> Case:
    return Case(row) if isinstance(row, str) else Case(row.text, row.age, row.sex, row.pregnant)


if __name__ == "__main__":
    import time

    started = time.perf_counter()
    base = load()
    took_ms = 1000 * (time.perf_counter() - started)
    print(f"version {base.version}, loaded in {took_ms:.0f} ms")
    print(f"{len(base.pathologies)} pathologies, {len(base.findings)} findings, {len(base.red_flags)} red flags")
    print(f"{len(base.lexicon.wordings)} wordings, {len(base.lexicon.vocabulary)} keys")
