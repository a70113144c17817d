"""The deterministic reply, over every combination of level, person, certainty, alarm and phone."""

from __future__ import annotations

from itertools import product

import pytest

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.guard import Guard, split_reply
from backend.core.text import plain
from backend.core.wording import action, join_words, word_reply

PEOPLE = ("vous", "votre grand-mère")
CERTAINTIES = ("abstained", "probable", "possible")
ALARM = "douleur brutale dans la poitrine"
# Phones that each level gives; the 15 and the 112 are told by the action of the highest level.
PHONES = (None, "15", "114", "3114", "centre antipoison")


def facts_with(level: Urgency, who: str, certainty: str, alarm: str | None, phone: str | None) -> Facts:
    """Facts of one combination, with everything that may be there."""
    abstained = certainty == "abstained"
    return Facts(
        level=level, who=who, abstained=abstained, probable=certainty == "probable",
        causes=() if abstained else ("une migraine", "une céphalée de tension", "une sinusite"),
        signs=() if abstained else ("un mal de tête", "des points lumineux"),
        alarm=alarm, phone=phone,
        advice=None if abstained else "Reposez-vous au calme, dans le noir.",
        worry=None if abstained else "Appelez le 15 si le mal de tête devient brutal.",
        questions=("Où avez-vous mal ?",) if abstained else (),
    )  # fmt: skip


EVERY = [facts_with(*choice) for choice in product(Urgency, PEOPLE, CERTAINTIES, (None, ALARM), PHONES)]
URGENT = [facts for facts in EVERY if facts.level.rank >= Urgency.EMERGENCY_DEPARTMENT.rank]


def test_every_sentence_passes_the_guard(guard: Guard) -> None:
    """Nothing that the template writes would be refused from a model."""
    refused = [
        (facts, sentence, reason)
        for facts in EVERY
        for text in word_reply(facts)
        for sentence in split_reply(text)
        if (reason := guard.refuse(sentence, facts)) is not None
    ]
    assert refused == []


def test_every_reply_says_what_to_do(guard: Guard) -> None:
    """The place and the delay of the level are told without a condition."""
    assert [facts for facts in EVERY if not guard.states_action(word_reply(facts), facts.level)] == []


def test_an_urgent_reply_says_first_where_to_go() -> None:
    """The action is the first sentence when it cannot wait; then the alarm that was recognised."""
    assert {word_reply(facts)[0] for facts in URGENT} == {
        action(Urgency.EMERGENCY_DEPARTMENT),
        action(Urgency.LIFE_THREATENING),
    }
    assert all(ALARM in word_reply(facts)[1] for facts in URGENT if facts.alarm)


def test_a_reply_that_can_wait_says_the_cause_first() -> None:
    """Without an alarm, what it may be comes before the rendez-vous."""
    calm = facts_with(Urgency.DOCTOR_7_DAYS, "vous", "probable", None, None)
    reply = word_reply(calm)
    assert reply[0].startswith("Ce que vous décrivez fait surtout penser à une migraine")
    assert reply.index(action(Urgency.DOCTOR_7_DAYS)) > 0


def test_the_phone_is_named() -> None:
    """A helpline or poison centre stands in the reply; the 15 does when the level is the highest."""
    unnamed = [
        facts
        for facts in EVERY
        if facts.phone
        and (facts.phone not in ("15", "112") or facts.level is Urgency.LIFE_THREATENING)
        and facts.phone not in " ".join(word_reply(facts))
    ]
    assert unnamed == []


def test_no_reply_says_what_the_person_has() -> None:
    """The words "vous avez" never stand in the template's own sentences."""
    assert [facts for facts in EVERY if "vous avez" in plain(" ".join(word_reply(facts)))] == []


def test_a_reply_is_short() -> None:
    """Two to seven sentences, each ended by a mark."""
    replies = [word_reply(facts) for facts in EVERY]
    assert {len(reply) for reply in replies} <= set(range(2, 8))
    assert all(sentence[-1] in ".!?" for reply in replies for sentence in reply)


@pytest.mark.parametrize("who", PEOPLE)
def test_the_relative_is_named_and_you_are_not(who: str) -> None:
    """A reply about a relative says whose symptoms it speaks of."""
    facts = facts_with(Urgency.DOCTOR_7_DAYS, who, "possible", None, None)
    assert (f"pour {who}" in " ".join(word_reply(facts))) is (who != "vous")


@pytest.mark.parametrize(
    ("certainty", "verb"), [("probable", "fait surtout penser à"), ("possible", "peut faire penser à")]
)
def test_the_verb_follows_the_certainty(certainty: str, verb: str) -> None:
    """A cause below one half is only said to be possible."""
    reply = " ".join(word_reply(facts_with(Urgency.DOCTOR_7_DAYS, "vous", certainty, None, None)))
    assert [v for v in ("fait surtout penser à", "peut faire penser à") if v in reply] == [verb]


def test_abstaining_names_no_cause_and_asks_for_more() -> None:
    """Too little was understood: the reply says so, asks where and since when, and still says what to do."""
    reply = word_reply(facts_with(Urgency.DOCTOR_24_HOURS, "vous", "abstained", None, None))
    assert "Je n'ai pas compris assez" in reply[0]
    assert "depuis quand" in reply[1]
    assert reply[-1] == action(Urgency.DOCTOR_24_HOURS)


def test_one_cause_without_signs_is_one_plain_sentence() -> None:
    """No empty list of signs, no other causes."""
    facts = Facts(Urgency.SELF_CARE, "vous", abstained=False, probable=True, causes=("un rhume",), signs=())
    assert word_reply(facts) == ("Ce que vous décrivez fait surtout penser à un rhume.", action(Urgency.SELF_CARE))


@pytest.mark.parametrize(
    ("words", "expected"), [((), ""), (("a",), "a"), (("a", "b"), "a ou b"), (("a", "b", "c"), "a, b ou c")]
)
def test_words_are_joined_as_in_french(words: tuple[str, ...], expected: str) -> None:
    """Commas, and the conjunction before the last."""
    assert join_words(words, "ou") == expected
