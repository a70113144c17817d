"""The nouns of the service: immutable records that every other module passes around.

Nothing here computes; a newcomer reads this file to learn the vocabulary. Wire values are the enum values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NAMED = "named_"
"""Prefix of the findings that are the names of diseases."""
FAMILY_HISTORY = "family_"
"""Prefix of the findings that say what relatives have or had."""

WELL = "well/"
"""Prefix of what says that a finding is not there ("respire normalement")."""
VAGUE = "_unspecified"
"""Suffix of the findings that name no place and no kind ("douleur"): any other on the same words says more."""

CAUSES, TOO_LITTLE, WORDS = "likely_causes", "too_little_understood", "alarming_words"
"""Reasons of an urgency that are no red-flag rule."""


class State(StrEnum):
    """What the message says of a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    PAST = "past"
    OTHER = "other"


class Urgency(StrEnum):
    """Five levels of care, least urgent first; compare them with `rank`."""

    SELF_CARE = "autosoins"
    DOCTOR_7_DAYS = "medecin_7j"
    DOCTOR_24_HOURS = "medecin_24h"
    EMERGENCY_DEPARTMENT = "urgences"
    LIFE_THREATENING = "urgence_vitale"

    @property
    def rank(self) -> int:
        """0 (self-care) to 4 (call 15 now)."""
        return _RANK[self]


_RANK = {level: rank for rank, level in enumerate(Urgency)}


class Kind(StrEnum):
    """What sort of thing a finding is."""

    SYMPTOM = "symptom"
    SIGN = "sign"
    COURSE = "course"
    RISK = "risk"
    HISTORY = "history"
    CONTEXT = "context"


class Frequency(StrEnum):
    """Human Phenotype Ontology frequency classes (HP:0040279)."""

    OBLIGATE = "obligate"
    VERY_FREQUENT = "very_frequent"
    FREQUENT = "frequent"
    OCCASIONAL = "occasional"
    VERY_RARE = "very_rare"
    EXCLUDED = "excluded"


class Origin(StrEnum):
    """Where a finding of the answer comes from."""

    TEXT = "text"
    ANSWER = "answer"


class Outcome(StrEnum):
    """Whether enough was understood to rank causes."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"


@dataclass(frozen=True, slots=True)
class Source:
    """An official or scholarly document that was really looked up."""

    title: str
    publisher: str
    year: int
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A number that states a finding: `unit` of `measures.Unit`, bounds included."""

    unit: str
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person can say about a health problem: symptom, sign, time course, risk, history or context.

    `label` is a French noun phrase without its article; `importance` (1 to 5) says how much a good
    diagnosis must explain it; findings of one `group` say nearly the same thing and are damped together;
    `about_others` is an exposure that lies in somebody else's illness ("mon mari a la gastro"); `well` holds the
    wordings that say that it is not there ("respire normalement").
    """

    id: str
    label: str
    article: str
    kind: Kind
    importance: int
    question: str
    lay: tuple[str, ...]
    parent: str | None = None
    group: str | None = None
    measures: tuple[Measured, ...] = ()
    about_others: bool = False
    well: tuple[str, ...] = ()

    @property
    def phrase(self) -> str:
        """The label with its article, ready for a sentence: "une fièvre", "l'appendicite"."""
        return join_article(self.article, self.label)


@dataclass(frozen=True, slots=True)
class Link:
    """How often a finding is seen in a pathology."""

    finding: str
    frequency: Frequency


@dataclass(frozen=True, slots=True)
class Pathology:
    """One disease: how frequent it is for whom, what it shows, how urgent it is, what to tell the person."""

    id: str
    name: str
    article: str
    name_en: str
    aka: tuple[str, ...]
    icd10: tuple[str, ...]
    group: str
    urgency: Urgency
    specialist: str
    prevalence: dict[str, str]
    sex: str
    links: tuple[Link, ...]
    advice: str
    when_to_worry: str
    history_finding: str
    sources: tuple[Source, ...]

    @property
    def phrase(self) -> str:
        """The name with its article: "une appendicite"."""
        return join_article(self.article, self.name)


@dataclass(frozen=True, slots=True)
class Condition:
    """One alternative of a red-flag rule: everything in it must hold.

    `findings` is a conjunction of disjunctions of finding ids; `texts` are wordings, any one of which is enough.
    """

    findings: tuple[tuple[str, ...], ...] = ()
    texts: tuple[str, ...] = ()
    age_min: float | None = None
    age_max: float | None = None
    sex: str | None = None
    pregnant: bool = False


@dataclass(frozen=True, slots=True)
class RedFlag:
    """An emergency rule with the sentences that prove it."""

    id: str
    label: str
    level: Urgency
    phone: str | None
    message: str
    when: tuple[Condition, ...]
    positive: tuple[Case, ...]
    negative: tuple[Case, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A test sentence of a red-flag rule, with the patient's fields where they matter."""

    text: str
    age: float | None = None
    sex: str | None = None
    pregnant: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to an earlier question: a finding and present, absent or unknown."""

    finding: str
    state: State


@dataclass(frozen=True, slots=True)
class Patient:
    """What the request says of the person in its own fields; None means not said. `age` in years."""

    age: float | None = None
    sex: str | None = None
    pregnant: bool | None = None


@dataclass(frozen=True, slots=True)
class Mention:
    """A place in the text that states a finding.

    `start` and `end` count code points of the text as sent. `tokens` are the indices of the words that
    matched. `remote` marks something long over (years ago), `person` whom it is about ("" is the patient).
    `guesses` names the misspelt words (token index, key) that could be read in several ways.
    """

    finding: str
    start: int
    end: int
    tokens: tuple[int, ...]
    state: State = State.PRESENT
    remote: bool = False
    person: str = ""
    guesses: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """A finding of the answer: from the text (with its place) or from an earlier question; `guesses` as a mention's."""

    finding: Finding
    state: State
    origin: Origin
    start: int | None = None
    end: int | None = None
    quote: str | None = None
    guesses: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The share of one item in a cause's log-odds against `p_other`, in nats; `quote` None when no words carry it."""

    finding: str
    label: str
    weight: float
    quote: str | None


@dataclass(frozen=True, slots=True)
class Cause:
    """A ranked possible cause; `prior_weight` plus all weights is its log-odds against the causes outside the base."""

    pathology: Pathology
    probability: float
    prior_weight: float
    evidence_for: tuple[Evidence, ...]
    evidence_against: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the urgency is what it is: a red-flag rule, or a likely cause."""

    rule: str
    label: str
    quote: str | None
    source: str | None


@dataclass(frozen=True, slots=True)
class Triage:
    """The urgency with the number to call, a sentence for the person, and the reasons."""

    level: Urgency
    phone: str | None
    message: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question worth asking next, and why."""

    finding: str
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the text as sent."""

    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything about one message but the written reply."""

    outcome: Outcome
    triage: Triage
    differential: tuple[Cause, ...]
    p_other: float
    p_not_shown: float
    observations: tuple[Observation, ...]
    unmatched: tuple[Span, ...]
    questions: tuple[Question, ...]
    ignored_evidence: tuple[str, ...]
    patient: Patient
    person: str
    """How a reply calls the patient: "vous" or "votre fille"."""
    understand_ms: float
    rank_ms: float


def join_article(article: str, noun: str) -> str:
    """`("l'", "otite")` -> "l'otite"; `("une", "angine")` -> "une angine"."""
    return f"{article}{noun}" if article.endswith("'") else f"{article} {noun}"
