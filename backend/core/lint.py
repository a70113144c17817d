"""Check the knowledge base beyond what loading needs: `python -m backend.core.lint` prints problems and counts.

Errors (exit 1): a red-flag sentence that does not do what it says, a wording claimed by two findings, an advice with a
dose, a drug to take, a diagnosis or a promise, an article that makes bad French, an ICD-10 code of the wrong shape.
It does not judge the medicine: that is a clinician's work (`docs/knowledge.md`).
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator

from backend.core.canonical import not_canonical
from backend.core.diagnose import Diagnoser
from backend.core.entities import NAMED, Case, Kind, Pathology, Patient, RedFlag, Urgency
from backend.core.facts import Facts
from backend.core.guard import Guard, load_guard, split_reply
from backend.core.knowledge import Knowledge, load
from backend.core.weights import BANDS

_ICD10 = re.compile(r"[A-Z]\d\d(\.\d)?$")
_ARTICLES = frozenset({"un", "une", "des", "la", "l'", "le", "les", "du", "de la", "de l'"})
_CAUSE_ARTICLES = frozenset({"un", "une", "des", "la", "l'"})
_FEWEST_LINKS = 10
_FEWEST_WORDINGS = 4
_FEWEST_SENTENCES = 2
_DOSE = re.compile(r"\d\s*(mg|g|ml|µg|comprim|goutte|gélule|sachet|ampoule|cuill)")


def find_problems(knowledge: Knowledge) -> list[str]:
    """Every problem found, one line each."""
    diagnoser = Diagnoser(knowledge)
    guard = load_guard(knowledge)
    problems = [f"{name}: not written in the canonical layout; run make fmt" for name in not_canonical()]
    problems += [*_lint_findings(knowledge), *_shared_wordings(knowledge)]
    for pathology in knowledge.pathologies.values():
        problems += [f"pathology {pathology.id}: {problem}" for problem in _lint_pathology(pathology, guard)]
    for rule in knowledge.red_flags:
        problems += [f"red flag {rule.id}: {problem}" for problem in _lint_red_flag(rule, diagnoser)]
    return problems


def _lint_findings(knowledge: Knowledge) -> Iterator[str]:
    for finding in knowledge.findings.values():
        if finding.article not in _ARTICLES:
            yield f"finding {finding.id}: article {finding.article!r}"
        proper = finding.kind is Kind.HISTORY  # names of diseases may be proper nouns
        if finding.label != finding.label.strip(" .") or not (proper or finding.label[0].islower()):
            yield f"finding {finding.id}: label {finding.label!r} is not a plain noun phrase"
        if len(finding.lay) < _FEWEST_WORDINGS and not finding.id.startswith(NAMED):
            yield f"finding {finding.id}: only {len(finding.lay)} wordings"


def _shared_wordings(knowledge: Knowledge) -> Iterator[str]:
    owners: dict[tuple[object, ...], dict[str, str]] = defaultdict(dict)
    for wording in knowledge.lexicon.wordings:
        keys = wording.keys if wording.ordered else tuple(sorted(wording.keys))
        owners[(keys, wording.ordered, wording.phrase)][wording.target] = " ".join(wording.words)
    for found in owners.values():
        real = {t: words for t, words in found.items() if knowledge.is_finding(t) and not t.startswith(NAMED)}
        if len(real) > 1 and len(set(real.values())) == 1:
            yield f"wording {next(iter(real.values()))!r} belongs to {', '.join(sorted(real))}"


def _lint_pathology(pathology: Pathology, guard: Guard) -> Iterator[str]:
    if pathology.article not in _CAUSE_ARTICLES:
        yield f"article {pathology.article!r}: use one of {sorted(_CAUSE_ARTICLES)}"
    if len(pathology.links) < _FEWEST_LINKS:
        yield f"only {len(pathology.links)} findings"
    yield from (f"ICD-10 code {code!r}" for code in pathology.icd10 if not _ICD10.match(code))
    if all(pathology.prevalence[band.name] == "never" for band in BANDS):
        yield "never seen at any age"
    facts = Facts(pathology.urgency, "vous", False, True, (pathology.phrase,), ())
    for text in (pathology.advice, pathology.when_to_worry):
        if text[-1] not in ".!":
            yield f"text without a final mark: {text[-20:]!r}"
        if _DOSE.search(text.lower()):
            yield f"dose in {text!r}"
        for sentence in split_reply(text):
            if guard.states_diagnosis(sentence, facts):
                yield f"diagnosis in {sentence!r}"


def _lint_red_flag(rule: RedFlag, diagnoser: Diagnoser) -> Iterator[str]:
    if rule.level.rank < Urgency.DOCTOR_24_HOURS.rank:
        yield f"level {rule.level.value} is not an alarm"
    if rule.level is Urgency.LIFE_THREATENING and not rule.phone:
        yield "no number to call"
    for kind, cases in (("positive", rule.positive), ("negative", rule.negative)):
        if len(cases) < _FEWEST_SENTENCES:
            yield f"only {len(cases)} {kind} sentences"
    for case in rule.positive:
        if not fires(rule, case, diagnoser):
            yield f"does not fire on {case.text!r}"
    for case in rule.negative:
        if fires(rule, case, diagnoser):
            yield f"fires on {case.text!r}"


def fires(rule: RedFlag, case: Case, diagnoser: Diagnoser) -> bool:
    """Whether `rule` is among the reasons of the urgency for a test sentence."""
    assessment = diagnoser.assess(case.text, Patient(case.age, case.sex, case.pregnant))
    return any(reason.rule == rule.id for reason in assessment.triage.reasons)


def main() -> int:
    """Print the problems, or the counts; 1 when there are problems."""
    knowledge = load()
    problems = find_problems(knowledge)
    for problem in problems:
        print(problem)
    wordings = sum(len(finding.lay) for finding in knowledge.findings.values())
    sentences = sum(len(rule.positive) + len(rule.negative) for rule in knowledge.red_flags)
    named = sum(finding.startswith(NAMED) for finding in knowledge.findings)
    print(
        f"{len(knowledge.pathologies)} pathologies, {len(knowledge.findings) - named} findings (and {named} disease "
        f"names), {wordings} wordings, {len(knowledge.red_flags)} red-flag rules with {sentences} test sentences: "
        f"{len(problems)} problem(s)"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
