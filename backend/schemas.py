"""The HTTP contract as pydantic models: what comes in, what goes out, and the French text of each field error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from backend.core.entities import Answer, State
from backend.errors import FieldProblem

LONGEST_TEXT = 4_000


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class EvidenceIn(_In):
    """An answer to an earlier question."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    state: Literal["present", "absent", "unknown"]


class DiagnoseRequest(_In):
    """A description of symptoms."""

    symptoms: Annotated[
        str,
        Field(
            min_length=3, max_length=LONGEST_TEXT, description="What the person feels, in everyday French.",
            examples=["J'ai mal au ventre en bas à droite depuis ce matin, avec des nausées et un peu de fièvre"],
        ),
    ]  # fmt: skip
    age: Annotated[float, Field(ge=0, le=120, allow_inf_nan=False, description="Years; decimals allowed.")] | None = (
        None
    )
    sex: Literal["F", "M"] | None = None
    pregnant: bool | None = None
    evidence: Annotated[list[EvidenceIn], Field(max_length=100, description="Answers to earlier questions.")] = []
    max_results: Annotated[int, Field(ge=1, le=10)] = 5
    reply: Annotated[bool, Field(description="Write the reply too.")] = True
    stream: Annotated[bool, Field(description="Answer as server-sent events.")] = False

    @model_validator(mode="after")
    def _plausible(self) -> DiagnoseRequest:
        if self.pregnant and self.sex == "M":
            raise PydanticCustomError("implausible", "pregnant with sex M")
        if not self.symptoms.strip():
            raise PydanticCustomError("blank", "symptoms are blank")
        return self

    def answers(self) -> list[Answer]:
        """The evidence as core records; the last answer to a finding counts."""
        return [Answer(finding, state) for finding, state in {e.id: State(e.state) for e in self.evidence}.items()]


_MESSAGES = {
    "missing": "Ce champ est obligatoire.",
    "extra_forbidden": "Ce champ n'existe pas ; ceux qui existent sont décrits à l'adresse /docs.",
    "string_type": "Il faut un texte.",
    "string_unicode": "Ce texte contient des caractères invalides.",
    "string_too_short": "Ce texte est trop court (3 caractères au moins).",
    "string_too_long": "Ce texte est trop long (4 000 caractères au plus).",
    "bool_type": "Il faut true ou false.",
    "int_type": "Il faut un nombre entier.",
    "float_type": "Il faut un nombre.",
    "finite_number": "Il faut un nombre.",
    "greater_than_equal": "Ce nombre est trop petit.",
    "less_than_equal": "Ce nombre est trop grand.",
    "literal_error": "Cette valeur n'est pas permise.",
    "list_type": "Il faut une liste.",
    "too_long": "Cette liste est trop longue (100 au plus).",
    "model_type": "Il faut un objet JSON.",
    "model_attributes_type": "Il faut un objet JSON.",
    "implausible": "« pregnant » et « sex » se contredisent.",
    "blank": "Décrivez ce que vous ressentez.",
}
_FIELDS_OF_WHOLE = {"implausible": "pregnant", "blank": "symptoms"}


def field_problems(errors: Sequence[dict[str, Any]]) -> tuple[FieldProblem, ...]:
    """Pydantic's errors without any of the input: field path, error type, French sentence."""
    problems = []
    for error in errors:
        kind = str(error["type"])
        path = [part for part in error["loc"] if part != "body"]
        if kind == "extra_forbidden":  # an unknown key is the client's text: say where, not what
            path = path[:-1]
        field = ".".join(str(part) for part in path) or _FIELDS_OF_WHOLE.get(kind, "")
        problems.append(FieldProblem(field, kind, _MESSAGES.get(kind, "Cette valeur n'est pas valide.")))
    return tuple(problems)


class ReasonOut(BaseModel):
    rule: str
    label: str
    quote: str | None
    source: str | None


class UrgencyOut(BaseModel):
    level: Literal["urgence_vitale", "urgences", "medecin_24h", "medecin_7j", "autosoins"]
    phone: str | None
    message: str
    reasons: list[ReasonOut]


class EvidenceOut(BaseModel):
    """`weight` in nats: the change of log-odds of the cause against a cause outside the base."""

    finding: str
    label: str
    weight: float
    quote: str | None


class CauseOut(BaseModel):
    id: str
    name: str
    name_en: str
    icd10: list[str]
    probability: float
    prior_weight: float
    urgency: str
    specialist: str
    advice: str
    when_to_worry: str
    evidence_for: list[EvidenceOut]
    evidence_against: list[EvidenceOut]
    sources: list[str]


class FindingOut(BaseModel):
    """`start` and `end` count code points of the text as sent; null for an answer."""

    id: str
    label: str
    state: Literal["present", "absent", "unknown", "past", "other"]
    start: int | None
    end: int | None
    quote: str | None
    origin: Literal["text", "answer"]


class SpanOut(BaseModel):
    start: int
    end: int
    quote: str


class QuestionOut(BaseModel):
    finding: str
    text: str
    why: str


class ReplyOut(BaseModel):
    text: str
    source: Literal["model", "template"]
    model: str | None
    reason: str | None


class VersionsOut(BaseModel):
    api: str
    knowledge: str
    model: str | None


class TimingsOut(BaseModel):
    understand: float
    rank: float
    queue: float
    reply: float
    total: float


class AssessmentOut(BaseModel):
    """Everything but the reply: the first event of a stream."""

    request_id: str
    outcome: Literal["answered", "abstained"]
    urgency: UrgencyOut
    differential: list[CauseOut]
    p_other: float
    p_not_shown: float
    findings: list[FindingOut]
    unmatched: list[SpanOut]
    questions: list[QuestionOut]
    ignored_evidence: list[str]
    disclaimer: str
    versions: VersionsOut
    timings_ms: TimingsOut


class DiagnoseResponse(AssessmentOut):
    """The answer to POST /diagnose."""

    reply: ReplyOut | None


class PathologyItem(BaseModel):
    id: str
    name: str
    name_en: str
    icd10: list[str]
    urgency: str


class PathologyList(BaseModel):
    pathologies: list[PathologyItem]


class LinkOut(BaseModel):
    finding: str
    label: str
    frequency: str


class PathologyOut(PathologyItem):
    """One entry of the knowledge base, whole."""

    aka: list[str]
    group: str
    specialist: str
    prevalence: dict[str, str]
    sex: str
    findings: list[LinkOut]
    advice: str
    when_to_worry: str
    sources: list[str]


class FindingItem(BaseModel):
    id: str
    label: str
    kind: str
    question: str


class FindingList(BaseModel):
    findings: list[FindingItem]


class ProblemOut(BaseModel):
    field: str
    type: str
    message: str


class ErrorBody(BaseModel):
    code: str
    message: str
    fields: list[ProblemOut] | None = None
    request_id: str


class ErrorOut(BaseModel):
    error: ErrorBody
