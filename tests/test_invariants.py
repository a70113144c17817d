"""The invariants of the design, as properties over generated messages; ten times as many under the slow marker."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

from backend.core.diagnose import Diagnoser
from backend.core.entities import Answer, Assessment, Observation, Origin, Patient, State
from backend.core.facts import facts_of
from backend.core.guard import Refusal, load_guard, split_reply
from backend.core.prompt import Style, render
from backend.core.text import plain
from backend.core.wording import word_reply
from tests.strategies import as_sms, base, messages, noise, stands_alone, statements, typos, without_accents

CASES = 500
SLOW_CASES = 5_000
PATIENTS = (
    Patient(),
    Patient(30, "F"),
    Patient(70, "M"),
    Patient(3, "M"),
    Patient(0.1, "F"),
    Patient(28, "F", pregnant=True),
)


def in_both_sizes(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], type]:
    """A class with the property at 500 cases, and at 5,000 under the slow marker."""

    def decorate(prop: Callable[..., None]) -> type:
        quick = staticmethod(settings(max_examples=CASES, derandomize=True)(given(*strategies)(prop)))
        slow = staticmethod(pytest.mark.slow(settings(max_examples=SLOW_CASES)(given(*strategies)(prop))))
        return type(
            prop.__name__, (), {"test_holds": quick, "test_holds_ten_times_as_often": slow, "__doc__": prop.__doc__}
        )

    return decorate


@cache
def diagnoser() -> Diagnoser:
    """One diagnoser for all properties."""
    return Diagnoser(base())


def assess(text: str, patient: Patient = Patient()) -> Assessment:  # noqa: B008 - frozen
    """Shorthand."""
    return diagnoser().assess(text, patient)


def level(text: str, patient: Patient = Patient()) -> int:  # noqa: B008 - frozen
    """The urgency as a number."""
    return assess(text, patient).triage.level.rank


def essence(assessment: Assessment) -> tuple[Any, ...]:
    """What must not change: everything but offsets, quotes and timings."""
    causes = tuple((c.pathology.id, round(c.probability, 9)) for c in assessment.differential)
    findings = frozenset((o.finding.id, o.state) for o in assessment.observations)
    reasons = frozenset(reason.rule for reason in assessment.triage.reasons)
    return assessment.outcome, assessment.triage.level, reasons, causes, findings, round(assessment.p_other, 9)


# --- 1. urgency is monotone ------------------------------------------------------------------------------------------


@in_both_sizes(messages(), st.sampled_from(noise()), st.sampled_from(PATIENTS))
def TestNoiseNeverLowers(message: str, sentence: str, patient: Patient) -> None:
    """A sentence that says nothing of the patient, before or after, never lowers the urgency."""
    own = level(message, patient)
    assert level(f"{message} {sentence}", patient) >= own
    assert level(f"{sentence} {message}", patient) >= own


@in_both_sizes(messages(), st.sampled_from(PATIENTS), st.integers(0, 2**32))
def TestTypingNeverLowers(message: str, patient: Patient, seed: int) -> None:
    """Lost accents, letter case and common SMS forms never lower the urgency."""
    own = level(message, patient)
    rng = random.Random(seed)
    mixed = "".join(rng.choice((c.lower(), c.upper())) for c in message)
    for changed in (without_accents(message), message.upper(), mixed, as_sms(message)):
        assert level(changed, patient) >= own, changed


@cache
def french_words() -> set[str]:
    """Every word of a French dictionary, folded."""
    return {plain(word) for word in DefaultDictionaryFactory().get_dictionary("fr")}


@in_both_sizes(messages(), st.sampled_from(PATIENTS), st.integers(0, 2**32))
def TestTyposNeverLower(message: str, patient: Patient, seed: int) -> None:
    """One edit in each long word, when it makes no other word, never lowers the urgency."""
    changed = typos(message, seed, french_words())
    assert level(changed, patient) >= level(message, patient), changed


def alone_firing() -> list[tuple[str, int]]:
    """Findings that alone fire a rule for anybody, with the level."""
    return [
        (finding, rule.level.rank)
        for rule in base().red_flags
        for condition in rule.when
        if len(condition.findings) == 1 and not condition.texts and condition.age_min is None
        and condition.age_max is None and condition.sex is None and not condition.pregnant
        for finding in condition.findings[0]
    ]  # fmt: skip


@in_both_sizes(messages(), st.sampled_from(alone_firing()), st.sampled_from(PATIENTS))
def TestARedFlagNeverLowers(message: str, flag: tuple[str, int], patient: Patient) -> None:
    """Answering yes to a finding that alone fires a rule never lowers the urgency, and reaches the rule's level."""
    finding, rank = flag
    own = level(message, patient)
    answered = diagnoser().assess(message, patient, [Answer(finding, State.PRESENT)]).triage.level.rank
    assert answered >= max(own, rank)


@pytest.mark.parametrize("ending", ["C'est passé au bout de dix minutes.", "Maintenant tout est rentré dans l'ordre."])
def test_a_red_flag_that_has_passed_keeps_its_level(ending: str) -> None:
    """Every emergency sentence, with the symptom over since minutes, is as urgent."""
    for rule in base().red_flags:
        for case in rule.positive:
            patient = Patient(case.age, case.sex, case.pregnant)
            text = case.text if case.text[-1] in ".!?" else f"{case.text}."
            own = min(level(text, patient), rule.level.rank)  # what the causes add may pass with them
            assert level(f"{text} {ending}", patient) >= own, text


# --- 2. weights add up -----------------------------------------------------------------------------------------------


@in_both_sizes(messages(), st.sampled_from(PATIENTS), st.integers(1, 10))
def TestWeightsAddUp(message: str, patient: Patient, shown: int) -> None:
    """By hand: prior plus weights are the log-odds against the outside, and all probabilities sum to one."""
    assessment = diagnoser().assess(message, patient, (), shown)
    total = sum(c.probability for c in assessment.differential) + assessment.p_not_shown + assessment.p_other
    assert total == pytest.approx(1.0, abs=1e-9)
    for cause in assessment.differential:
        by_hand = cause.prior_weight + sum(e.weight for e in (*cause.evidence_for, *cause.evidence_against))
        assert by_hand == pytest.approx(np.log(cause.probability / assessment.p_other), abs=1e-6)


@in_both_sizes(st.lists(st.sampled_from(sorted(base().findings)), min_size=1, max_size=8, unique=True))
def TestRemovingACitedFindingLowersTheCause(findings: list[str]) -> None:
    """Without a finding that speaks for a cause, its log-odds are lower."""
    ranking = diagnoser().ranking
    every = [Observation(base().findings[f], State.PRESENT, Origin.ANSWER) for f in findings]
    scores = ranking.score(every, Patient())
    column = scores.order[0]
    for evidence in ranking.explain(scores, column).evidence_for:
        rest = [o for o in every if o.finding.id != evidence.finding]
        assert ranking.score(rest, Patient()).log_odds_D[column] < scores.log_odds_D[column]


# --- 3. patient text is data -----------------------------------------------------------------------------------------


@in_both_sizes(messages(), st.sampled_from(noise()))
def TestPatientTextIsNeverSpecial(message: str, sentence: str) -> None:
    """In every prompt style no special piece holds a word of the patient; markers in the text change no finding."""
    text = f"{message} {sentence}"
    assessment = assess(text)
    for style in Style:
        pieces = render(facts_of(assessment), text, style).pieces
        special = " ".join(piece.text for piece in pieces if piece.special)
        assert sentence not in special
    told = {(o.finding.id, o.state) for o in assessment.observations}
    assert {(o.finding.id, o.state) for o in assess(message).observations} <= told


# --- 4. what the service writes --------------------------------------------------------------------------------------


@in_both_sizes(messages(), st.sampled_from(PATIENTS))
def TestTheServicesOwnWordsPassTheGuard(message: str, patient: Patient) -> None:
    """No dose, no prescription, no stated diagnosis, no other cause in the template's reply; it says where to go."""
    facts = facts_of(assess(message, patient))
    guard = load_guard_once()
    sentences = [sentence for text in word_reply(facts) for sentence in split_reply(text)]
    assert [guard.refuse(sentence, facts) for sentence in sentences] == [None] * len(sentences), sentences
    assert guard.states_action(sentences, facts.level)


def test_the_urgency_messages_pass_the_guard() -> None:
    """Messages of the rules give no dose and state no diagnosis."""
    guard = load_guard_once()
    for rule in base().red_flags:
        facts = facts_of(assess(rule.positive[0].text))
        for sentence in split_reply(rule.message):
            assert guard.refuse(sentence, facts) not in (Refusal.DOSE, Refusal.STOP_TREATMENT), sentence
            assert not guard.states_diagnosis(sentence, facts), sentence


@cache
def load_guard_once() -> Any:  # noqa: ANN401 - a Guard
    """One guard for all properties."""
    return load_guard(base())


# --- 5. what must make no difference ---------------------------------------------------------------------------------


@in_both_sizes(st.lists(statements().filter(stands_alone), min_size=2, max_size=5, unique=True), st.integers(0, 2**32))
def TestOrderCaseFormAndSpacesMakeNoDifference(sentences: list[str], seed: int) -> None:
    """Sentences that stand alone in another order, another case, Unicode form or spacing: the same assessment."""
    shuffled = sentences[:]
    random.Random(seed).shuffle(shuffled)
    own = essence(assess(" ".join(sentences)))
    assert essence(assess(" ".join(shuffled))) == own
    text = " ".join(sentences)
    for changed in (
        text.upper(),
        text.lower(),
        unicodedata.normalize("NFD", text),
        text.replace(" ", "  \n".strip("\n")),
    ):
        assert essence(assess(changed)) == own, changed


# --- 6. self-consistency ---------------------------------------------------------------------------------------------


def drawn_patients(count: int, seed: int) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """Causes drawn evenly and the findings said: each by its frequency, a third left unsaid."""
    rng = np.random.default_rng(seed)
    listed_DF = listed_probabilities()
    for _ in range(count):
        cause = int(rng.integers(len(listed_DF)))
        yield cause, rng.random(listed_DF.shape[1]) < listed_DF[cause] * 2 / 3


@cache
def listed_probabilities() -> np.ndarray[Any, Any]:
    """P(finding | cause) as the entries list it, shape (D, F)."""
    weights = diagnoser().ranking.weights
    listed_DF = np.zeros((len(weights.pathologies), len(weights.row)))
    for column, pathology in enumerate(weights.pathologies):
        for link in pathology.links:
            listed_DF[column, weights.row[link.finding]] = weights.p_FD[weights.row[link.finding], column]
    return listed_DF


def test_patients_drawn_from_the_base_are_diagnosed_near_the_ceiling() -> None:
    """Top-1 of the ranking over top-1 of the true generating probabilities: at least .90 on 500 patients."""
    ranking = diagnoser().ranking
    findings = list(base().findings.values())
    said_DF = np.clip(listed_probabilities() * 2 / 3, 1e-6, 1 - 1e-6)
    right = ceiling = 0
    for cause, said_F in drawn_patients(CASES, seed=7):
        observations = [Observation(findings[i], State.PRESENT, Origin.ANSWER) for i in np.flatnonzero(said_F)]
        right += ranking.score(observations, Patient()).order[0] == cause
        truth_D = np.where(said_F, np.log(said_DF), np.log1p(-said_DF)).sum(axis=1)
        ceiling += int(truth_D.argmax()) == cause
    assert right / ceiling >= 0.90, (right, ceiling)


# --- 7. the same answer every time -----------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_assessment_alone_or_among_eight() -> None:
    """Eight threads on the same messages agree with one."""
    texts = [case.text for rule in base().red_flags for case in rule.positive][:80]
    alone = [essence(assess(text)) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: essence(assess(text)), texts * 4))
    assert together == alone * 4
