"""The next questions worth asking: first those that open a red flag, then those that would teach most.

A red-flag question is one whose "yes" would complete an emergency rule of higher level than the present one, on a
finding that a likely cause shows and that is not far-fetched (a "yes" at least 8 % likely). The others are ordered by
expected information gain: H(causes) minus the expected entropy after the answer, in nats, "je ne sais pas" leaving
things as they are. Findings already spoken of are not asked again; at most one question per group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from backend.core.entities import Condition, Patient, Question, RedFlag, Urgency
from backend.core.knowledge import Knowledge
from backend.core.ranking import Scores
from backend.core.weights import Array, Weights

MOST_QUESTIONS = 5
_MOST_RED_FLAG_QUESTIONS = 2
_CANDIDATE_CAUSES = 12
_LEAST_ALARMING = 0.08
_CONSIDERED_CAUSES = 60


def choose_questions(
    scores: Scores, spoken_of: frozenset[str], level: Urgency, patient: Patient, knowledge: Knowledge, weights: Weights
) -> tuple[Question, ...]:
    """At most five questions, the most useful first. Cost: about 0.5 ms for 120 pathologies."""
    likely = scores.order[:_CANDIDATE_CAUSES]
    listed = dict.fromkeys(link.finding for column in likely for link in weights.pathologies[column].links)
    candidates = [finding for finding in listed if finding not in spoken_of]
    alarming = _red_flag_questions(candidates, scores, spoken_of, level, patient, knowledge, weights)
    chosen: list[Question] = []
    groups: set[str] = set()
    for question in (*alarming, *_informative_questions(candidates, scores, likely, knowledge, weights)):
        group = knowledge.group_of(question.finding)
        if group not in groups and len(chosen) < MOST_QUESTIONS:
            groups.add(group)
            chosen.append(question)
    return tuple(chosen)


def _red_flag_questions(
    candidates: Sequence[str], scores: Scores, spoken_of: frozenset[str], level: Urgency, patient: Patient,
    knowledge: Knowledge, weights: Weights,
) -> list[Question]:  # fmt: skip
    """Findings that would complete a more urgent rule whose other findings are already there."""
    best: dict[str, tuple[float, RedFlag]] = {}
    wanted = set(candidates)
    for rule in knowledge.red_flags:
        if rule.level.rank <= level.rank:
            continue
        for finding in wanted.intersection(_missing_links(rule, spoken_of, patient)):
            p_yes = float(scores.p_D @ weights.p_FD[weights.row[finding]])
            if p_yes < _LEAST_ALARMING:
                continue
            score = rule.level.rank + p_yes
            if finding not in best or score > best[finding][0]:
                best[finding] = (score, rule)
    ordered = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))[:_MOST_RED_FLAG_QUESTIONS]
    return [
        Question(f, knowledge.findings[f].question, f"Pour ne pas passer à côté d'une urgence : {_lower(rule.label)}.")
        for f, (_, rule) in ordered
    ]


def _missing_links(rule: RedFlag, spoken_of: frozenset[str], patient: Patient) -> Iterator[str]:
    """The findings any one of which alone would complete an alternative of the rule."""
    for condition in rule.when:
        if condition.texts or condition.pregnant or not _may_concern(condition, patient):
            continue
        missing = [wanted for wanted in condition.findings if not spoken_of.intersection(wanted)]
        if len(missing) == 1:
            yield from missing[0]


def _may_concern(condition: Condition, patient: Patient) -> bool:
    """Whether age and sex fit; somebody whose age is not known is not asked about babies."""
    if condition.sex and condition.sex != patient.sex:
        return False
    if patient.age is None:
        return condition.age_max is None
    return (condition.age_min or 0.0) <= patient.age <= (condition.age_max or float("inf"))


def _informative_questions(
    candidates: Sequence[str], scores: Scores, likely: Sequence[int], knowledge: Knowledge, weights: Weights
) -> list[Question]:
    rows = [weights.row[finding] for finding in candidates]
    considered = scores.order[:_CONSIDERED_CAUSES]  # the others answer like the background
    p_C = scores.p_D[considered]
    yes_QC = weights.p_FD[np.ix_(rows, considered)].astype(np.float64)
    gains = information_gains(p_C, 1.0 - float(p_C.sum()), yes_QC, weights.background_F[rows])
    order = sorted(range(len(candidates)), key=lambda index: (-float(gains[index]), candidates[index]))
    return [
        Question(f, knowledge.findings[f].question, _why(f, likely, weights))
        for f in (candidates[index] for index in order[: 3 * MOST_QUESTIONS])
    ]


def information_gains(p_D: Array, p_other: float, yes_QD: Array, yes_other_Q: Array) -> Array:
    """Expected drop of the entropy of the causes (nats) for each of Q questions answered yes at rates `yes_QD`."""
    prior = np.append(p_D, p_other)
    yes = np.column_stack([yes_QD, yes_other_Q])
    joint_yes, joint_no = prior * yes, prior * (1 - yes)
    after = _entropy_of_joint(joint_yes) + _entropy_of_joint(joint_no)
    gains: Array = _entropy_of_joint(prior[None, :]) - after
    return gains


def _entropy_of_joint(joint: Array) -> Array:
    """For each row, P(answer) times the entropy of the causes given the answer."""
    total = joint.sum(axis=1)
    safe = np.where(joint > 0, joint, 1.0)
    entropy: Array = np.where(total > 0, total * np.log(np.where(total > 0, total, 1.0)), 0.0) - (
        np.where(joint > 0, joint * np.log(safe), 0.0).sum(axis=1)
    )
    return entropy


def _why(finding: str, likely: Sequence[int], weights: Weights) -> str:
    """Which of the likeliest causes a "yes" would favour most, and which least, in plain words."""
    present_D = weights.present_FD[weights.row[finding]]
    raised = max(likely[:5], key=lambda column: float(present_D[column]))
    lowered = min(likely[:3], key=lambda column: float(present_D[column]))
    towards = weights.pathologies[raised].name
    if raised == lowered or present_D[lowered] >= present_D[raised]:
        return f"Un oui rendrait plus probable : {towards}."
    return f"Aide à distinguer : {towards} et {weights.pathologies[lowered].name}."


def _lower(label: str) -> str:
    return label[:1].lower() + label[1:]
