"""The shape of the JSON files of `data/`, row by row: what a reviewer may write. Unknown keys are errors.

What each field means is told in `docs/knowledge.md`; references between files are checked by `knowledge.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.core.entities import Frequency, Kind, Urgency
from backend.core.measures import Unit

Band = Literal["infant", "child", "young", "adult", "senior"]
Prevalence = Literal["very_common", "common", "uncommon", "rare", "very_rare", "never"]
Sex = Literal["both", "F", "M", "F_mostly", "M_mostly"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MeasuredRow(_Row):
    """A number that states a finding; bounds included."""

    unit: Unit
    min: float = float("-inf")
    max: float = float("inf")


class FindingRow(_Row):
    """A line of `findings.json`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: str = Field(min_length=2)
    article: str
    kind: Kind
    importance: int = Field(ge=1, le=5)
    question: str = Field(pattern=r".*\?$")
    lay: list[str]
    parent: str | None = None
    group: str | None = None
    measures: list[MeasuredRow] = []
    about_others: bool = False
    well: list[str] = []


class LinkRow(_Row):
    """A finding of a pathology with its frequency class."""

    id: str
    frequency: Frequency
    note: str | None = None


class PathologyRow(_Row):
    """An entry of `pathologies.json`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    name: str = Field(min_length=3)
    article: str
    name_en: str
    aka: list[str]
    history_finding: str | None
    icd10: list[str] = Field(min_length=1)
    group: str
    urgency: Urgency
    specialist: str
    prevalence: dict[Band, Prevalence]
    sex: Sex
    findings: list[LinkRow] = Field(min_length=1)
    advice: str = Field(min_length=10)
    when_to_worry: str = Field(min_length=10)
    sources: list[str]
    basis: Literal["general_knowledge", "sources"]
    reviewed: str | None


class ConditionRow(_Row):
    """One alternative of a red-flag rule."""

    findings: list[str | list[str]] = []
    text: list[str] = []
    age_min: float | None = None
    age_max: float | None = None
    sex: Literal["F", "M"] | None = None
    pregnant: bool = False


class CaseRow(_Row):
    """A test sentence with the fields of the request."""

    text: str
    age: float | None = None
    sex: Literal["F", "M"] | None = None
    pregnant: bool | None = None


class RedFlagRow(_Row):
    """A rule of `red_flags.json`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: str
    level: Urgency
    phone: str | None
    message: str
    when: list[ConditionRow] = Field(min_length=1)
    sources: list[str]
    basis: Literal["general_knowledge", "sources"]
    positive: list[str | CaseRow]
    negative: list[str | CaseRow]


class SourceRow(_Row):
    """A document of `sources.json`."""

    title: str
    publisher: str
    year: int
    url: str | None = None


class FrenchRow(_Row):
    """The language data of `french.json`."""

    light: list[str]
    families: dict[str, list[str]]
    distributive: list[str]
    quantifiers: list[str]
    adverb_verbs: list[str]
    fillers: list[str]
    sites: list[str]
    names: list[str]
    nouns: dict[Literal["m", "f"], list[str]]
    sms: dict[str, str]
    numbers: dict[str, int]


class AlarmRow(_Row):
    """The whole of `alarm.json`, made by `training/alarm.py`: see `alarm.py` for what the numbers mean."""

    made_from: str
    terms: dict[str, tuple[int, int, int]]
    traits: dict[str, tuple[int, int, int]]
    words: list[str]
