"""Composed replies: what the model learns to write passes the guard, in every tone, for every kind of facts."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache

import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Patient, Urgency
from backend.core.facts import Facts, facts_of
from backend.core.guard import Guard, split_reply
from backend.core.prompt import (
    ADVICE_SLOT,
    ALARM_SLOT,
    CAUSE_SLOTS,
    PHONE_SLOT,
    TONES,
    WHO_SLOT,
    WORRY_SLOT,
    slot_values,
)
from tests.strategies import base
from training.replies import Composer, spell_out
from training.synthesise import _invented

_SLOT = re.compile(r"<\|[^|]*\|>")
CASES = 100
SLOW_CASES = 700
FACTS = Facts(
    level=Urgency.DOCTOR_7_DAYS, who="vous", abstained=False, probable=True, causes=("une migraine", "une sinusite"),
    signs=("un mal de tête", "des points lumineux"), advice="Reposez-vous au calme.",
    worry="Appelez le 15 si le mal de tête est brutal.",
)  # fmt: skip


@cache
def every_kind_of_facts(count: int) -> tuple[Facts, ...]:
    """Invented facts in any combination, and for a third of them those of emergency sentences."""
    rng = random.Random(5)
    diagnoser = Diagnoser(base())
    cases = [case for rule in base().red_flags for case in rule.positive]
    told = rng.sample(cases, count // 3)
    real = (facts_of(diagnoser.assess(c.text, Patient(c.age, c.sex, c.pregnant))) for c in told)
    return (*(_invented(rng)[1] for _ in range(count - len(told))), *real)


@cache
def composed(count: int = CASES) -> tuple[tuple[Facts, str], ...]:
    """Every facts in every tone, half of the sentences in the words of another tone."""
    rng = random.Random(6)
    composer = Composer(spread=0.5)
    return tuple(
        (facts, composer.compose(facts, tone, rng)) for facts in every_kind_of_facts(count) for tone in range(TONES)
    )


def compose(facts: Facts, tone: int = 0, seed: int = 0, spread: float = 0.0) -> str:
    """One reply."""
    return Composer(spread=spread).compose(facts, tone, random.Random(seed))


@pytest.mark.parametrize("count", [CASES, pytest.param(SLOW_CASES, marks=pytest.mark.slow)])
def test_every_reply_passes_the_guard(count: int, guard: Guard) -> None:
    """Once the slots are filled in, no sentence would be refused from the model that learns it."""
    said = {(facts, sentence) for facts, reply in composed(count) for sentence in split_reply(spell_out(reply, facts))}
    verdicts = {(sentence, guard.refuse(sentence, facts)) for facts, sentence in said}
    assert {(sentence, reason) for sentence, reason in verdicts if reason is not None} == set()


def test_every_reply_says_what_to_do_first_when_urgent(guard: Guard) -> None:
    """The place and delay of the level are told without condition; in an emergency in the first sentence."""
    for facts, reply in composed():
        sentences = split_reply(spell_out(reply, facts))
        urgent = facts.level.rank >= Urgency.EMERGENCY_DEPARTMENT.rank
        assert guard.states_action(sentences[:1] if urgent else sentences, facts.level), sentences


def test_a_reply_uses_only_slots_of_its_facts() -> None:
    """No slot that the prompt does not hold, and no placeholder of the phrases is left."""
    for facts, reply in composed():
        assert set(_SLOT.findall(reply)) <= set(slot_values(facts)), reply
        assert "{" not in reply
        assert "<|" not in spell_out(reply, facts)


def test_a_reply_tells_every_fact_that_matters() -> None:
    """The first cause, the alarm, the number, the advice and the worry of the facts are all in the reply."""
    wanted = {CAUSE_SLOTS[0], ALARM_SLOT, PHONE_SLOT, ADVICE_SLOT, WORRY_SLOT}
    for facts, reply in composed():
        assert wanted & set(slot_values(facts)) <= set(_SLOT.findall(reply)), reply


def test_replies_are_three_to_six_sentences_but_for_bare_and_crowded_facts() -> None:
    """Two when there is nothing but a cause, seven when an alarm, a number and questions meet; both are rare."""
    lengths = [len(split_reply(reply)) for _, reply in composed()]
    usual = sum(3 <= length <= 6 for length in lengths)
    assert set(lengths) <= set(range(2, 8))
    assert usual / len(lengths) >= 0.95


def test_tones_are_different_words() -> None:
    """Eight tones, eight replies to the same facts."""
    assert len({compose(FACTS, tone) for tone in range(TONES)}) == TONES


def test_without_spread_the_tone_alone_chooses() -> None:
    """The seed makes no difference then; with spread it does."""
    assert len({compose(FACTS, seed=seed) for seed in range(20)}) == 1
    assert len({compose(FACTS, seed=seed, spread=1.0) for seed in range(20)}) > 10


def test_the_relative_is_spoken_of() -> None:
    """A reply about a relative names them in most tones; one to the writer never does."""
    relative = replace(FACTS, who="votre grand-mère")
    naming = {who: sum(WHO_SLOT in compose(f, t) for t in range(TONES)) for who, f in (("", FACTS), ("her", relative))}
    assert naming[""] == 0
    assert naming["her"] >= TONES / 2


@pytest.mark.parametrize("tone", range(TONES))
def test_a_probable_cause_is_said_more_firmly_than_a_possible_one(tone: int) -> None:
    """Certainty changes the sentence about the cause, and nothing else."""
    probable, possible = (split_reply(compose(replace(FACTS, probable=p), tone)) for p in (True, False))
    different = [left for left, right in zip(probable, possible, strict=True) if left != right]
    assert len(different) == 1
    assert CAUSE_SLOTS[0] in different[0]


def test_abstaining_names_no_cause_and_asks() -> None:
    """The questions of the facts close what is asked for."""
    facts = Facts(
        Urgency.DOCTOR_24_HOURS, "vous", abstained=True, probable=False, causes=(), signs=(), questions=("Où ?",)
    )
    for tone in range(TONES):
        reply = compose(facts, tone)
        assert set(_SLOT.findall(reply)) == {"<|q1|>"}
        assert "24 heures" in reply


def test_spelling_out_gives_the_words_back() -> None:
    """Each slot becomes its text, each time it is written; what is no slot stays."""
    assert spell_out("<|c1|>, <|c2|> et <|c1|> : <|s1|> <|autre|>", FACTS) == (
        "une migraine, une sinusite et une migraine : un mal de tête <|autre|>"
    )
