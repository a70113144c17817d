"""Core records -> wire records. Numbers are sent in full, so that the weights add up on the other side."""

from __future__ import annotations

from typing import Literal

from backend.core.entities import Assessment, Cause, Evidence, Finding, Pathology
from backend.replies import Reply
from backend.schemas import (
    AssessmentOut,
    CauseOut,
    EvidenceOut,
    FindingItem,
    FindingOut,
    LinkOut,
    PathologyItem,
    PathologyOut,
    QuestionOut,
    ReasonOut,
    ReplyOut,
    SpanOut,
    TimingsOut,
    UrgencyOut,
    VersionsOut,
)

API_VERSION = "1"
DISCLAIMER = (
    "Doctis AI informe et oriente ; ce n'est ni un diagnostic ni un dispositif médical certifié, et cela ne remplace "
    "pas un médecin. En cas d'urgence ou de doute, appelez le 15 ou le 112."
)


def pathology_item(pathology: Pathology) -> PathologyItem:
    """One line of GET /pathologies."""
    return PathologyItem(
        id=pathology.id, name=pathology.name, name_en=pathology.name_en, icd10=list(pathology.icd10),
        urgency=pathology.urgency.value,
    )  # fmt: skip


def pathology_out(pathology: Pathology, labels: dict[str, str]) -> PathologyOut:
    """GET /pathologies/{id}; `labels` maps finding ids to French labels."""
    return PathologyOut(
        **pathology_item(pathology).model_dump(),
        aka=list(pathology.aka), group=pathology.group, specialist=pathology.specialist,
        prevalence=pathology.prevalence, sex=pathology.sex,
        findings=[
            LinkOut(finding=link.finding, label=labels[link.finding], frequency=link.frequency.value)
            for link in pathology.links
        ],
        advice=pathology.advice, when_to_worry=pathology.when_to_worry, sources=_cite(pathology),
    )  # fmt: skip


def finding_item(finding: Finding) -> FindingItem:
    """One line of GET /findings."""
    return FindingItem(id=finding.id, label=finding.label, kind=finding.kind.value, question=finding.question)


def assessment_out(assessment: Assessment, request_id: str, knowledge_version: str, model: str | None) -> AssessmentOut:
    """An assessment on the wire. Numbers are sent in full so that the weights add up."""
    triage = assessment.triage
    return AssessmentOut(
        request_id=request_id,
        outcome=assessment.outcome.value,
        urgency=UrgencyOut(
            level=triage.level.value, phone=triage.phone, message=triage.message,
            reasons=[ReasonOut(rule=r.rule, label=r.label, quote=r.quote, source=r.source) for r in triage.reasons],
        ),
        differential=[_cause_out(cause) for cause in assessment.differential],
        p_other=assessment.p_other,
        p_not_shown=assessment.p_not_shown,
        findings=[
            FindingOut(
                id=o.finding.id, label=o.finding.label, state=o.state.value, start=o.start, end=o.end, quote=o.quote,
                origin=o.origin.value,
            )
            for o in assessment.observations
        ],
        unmatched=[SpanOut(start=span.start, end=span.end, quote=span.quote) for span in assessment.unmatched],
        questions=[QuestionOut(finding=q.finding, text=q.text, why=q.why) for q in assessment.questions],
        ignored_evidence=list(assessment.ignored_evidence),
        disclaimer=DISCLAIMER,
        versions=VersionsOut(api=API_VERSION, knowledge=knowledge_version, model=model),
        timings_ms=TimingsOut(
            understand=round(assessment.understand_ms, 3), rank=round(assessment.rank_ms, 3), queue=0.0, reply=0.0,
            total=round(assessment.understand_ms + assessment.rank_ms, 3),
        ),
    )  # fmt: skip


def reply_out(reply: Reply) -> ReplyOut:
    """The reply on the wire."""
    source: Literal["model", "template"] = "model" if reply.source == "model" else "template"
    return ReplyOut(text=reply.text, source=source, model=reply.model, reason=reply.reason)


def _cause_out(cause: Cause) -> CauseOut:
    pathology = cause.pathology
    return CauseOut(
        id=pathology.id, name=pathology.name, name_en=pathology.name_en, icd10=list(pathology.icd10),
        probability=cause.probability, prior_weight=cause.prior_weight, urgency=pathology.urgency.value,
        specialist=pathology.specialist, advice=pathology.advice, when_to_worry=pathology.when_to_worry,
        evidence_for=[_evidence_out(e) for e in cause.evidence_for],
        evidence_against=[_evidence_out(e) for e in cause.evidence_against],
        sources=_cite(pathology),
    )  # fmt: skip


def _evidence_out(evidence: Evidence) -> EvidenceOut:
    return EvidenceOut(finding=evidence.finding, label=evidence.label, weight=evidence.weight, quote=evidence.quote)


def _cite(pathology: Pathology) -> list[str]:
    return [f"{source.title}, {source.publisher}, {source.year}" for source in pathology.sources]
