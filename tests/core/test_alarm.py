"""How urgent the words themselves sound: the sums, the promises, and the real weights on words no rule knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.core.alarm import LEVELS, NONE_LIKELY, Alarm, Piece, Word, heaviest, traits_of
from backend.core.diagnose import Diagnoser
from backend.core.entities import WORDS, Patient, Urgency
from backend.core.knowledge import Knowledge
from backend.core.understand import read_message

DAY, EMERGENCY, _ = LEVELS


def piece(*words: str, bounded: bool = False) -> Piece:
    """A sentence of words of three letters each, one space apart."""
    return Piece(tuple(Word((word,), (), 4 * place, 4 * place + 3) for place, word in enumerate(words)), bounded)


def test_the_heaviest_stretch() -> None:
    """The contiguous stretch with the greatest sum, of one word at least."""
    assert heaviest([-1, 3, -1, 2, -5, 1]) == (1, 4)
    assert heaviest([-3, -1, -2]) == (1, 2)


def test_a_level_is_reached_at_a_sum_of_zero() -> None:
    """The constant and the words of every sentence add up, level by level; the most alarming words are quoted."""
    alarm = Alarm({"aaa": (60, 10, 0), "bbb": (50, 10, 0), "ccc": (-20, 0, 0)}, {"always": (-100, -50, -200)})
    assert alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), [piece("aaa")]) is None
    raised = alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), [piece("ccc", "aaa"), piece("bbb")])
    assert raised is None
    raised = alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), [piece("ccc", "aaa", "aaa"), piece("bbb")])
    assert raised is not None
    assert (raised.level, raised.start, raised.end) == (DAY, 4, 11)


def test_it_never_lowers_and_only_raises() -> None:
    """A level that is given already is no news."""
    alarm = Alarm({"aaa": (500, 500, -500)}, {})
    assert alarm.raise_level(EMERGENCY, NONE_LIKELY, Patient(), [piece("aaa")]) is None
    raised = alarm.raise_level(DAY, NONE_LIKELY, Patient(), [piece("aaa")])
    assert raised is not None
    assert raised.level is EMERGENCY


def test_a_bounded_sentence_never_lowers_a_score() -> None:
    """What somebody thinks, or says of nobody's health, counts nothing rather than less."""
    alarm = Alarm({"aaa": (100, 0, 0), "bbb": (-90, 0, 0)}, {"always": (-50, -99, -99)})
    said = piece("aaa")
    assert alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), [said, piece("bbb", bounded=True)]) is not None
    assert alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), [said, piece("bbb")]) is None


def test_a_misspelt_word_is_read_as_the_most_alarming() -> None:
    """Of several readings the heaviest counts; an unknown one weighs nothing."""
    alarm = Alarm({"aaa": (10, 0, 0), "bbb": (30, 0, 0)}, {"always": (-30, -1, -1)})
    both = Piece((Word(("aaa", "bbb"), (), 0, 3),), bounded=False)
    assert alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), [both]) is not None


def test_traits() -> None:
    """Levels count cumulatively, so that one more alarm never lowers a score."""
    assert traits_of(DAY, NONE_LIKELY, Patient(age=0.1, pregnant=True)) == [
        "given>=1", "given>=2", "age<0.25", "age<1", "age<3", "age<6", "age<15", "pregnant",
    ]  # fmt: skip
    assert traits_of(Urgency.SELF_CARE, NONE_LIKELY, Patient(age=70)) == ["age>=50", "age>=65"]
    assert traits_of(Urgency.SELF_CARE, (0.5, 0.2, 0.01), Patient()) == [
        "causes2>=0.05", "causes2>=0.15", "causes2>=0.3", "causes3>=0.05", "causes3>=0.15",
    ]  # fmt: skip


def test_negated_words_are_other_terms(knowledge: Knowledge) -> None:
    """Within five words of a negation, in its clause."""
    (one,) = read_message("pas de sang, mais du sang", Patient(), knowledge).pieces
    keys = [word.own[0] for word in one.words]
    assert keys.count("~" + knowledge.lexicon.key("sang")) == 1
    assert knowledge.lexicon.key("sang") in keys


@pytest.mark.parametrize(
    ("text", "bounded"),
    [
        ("Le cabinet est fermé le samedi.", True),
        ("Ma voisine a eu pareil et c'est passé tout seul.", True),
        ("Mon mari dit que c'est un rhume.", True),
        ("J'ai du mal à respirer.", True),
        ("Je n'ai pas de fièvre.", False),
    ],
)
def test_what_may_only_raise(text: str, bounded: bool, knowledge: Knowledge) -> None:
    """Neutral talk, other people, opinions and alarming findings; a denial may reassure."""
    (one,) = read_message(text, Patient(), knowledge).pieces
    assert one.bounded is bounded


def test_what_is_known_so_far_never_lowers_a_score(knowledge: Knowledge) -> None:
    """The real weights of the levels that the rules gave, and of likely grave causes, are not negative."""
    for trait, weights in knowledge.alarm.traits.items():
        if trait.startswith(("given>=", "causes")):
            assert min(weights) >= 0, trait


@pytest.mark.parametrize(
    "text",
    [
        "La débroussailleuse lui a ouvert la cuisse, ça gicle et on n'arrive pas à stopper.",
        "J'ai reçu une poutre sur la poitrine et depuis j'ai le souffle court et la tête qui tourne.",
    ],
)
def test_words_that_no_rule_knows_raise_the_level(text: str, diagnoser: Diagnoser) -> None:
    """With the words the level is an emergency, and the reason quotes the message."""
    found = diagnoser.assess(text, Patient())
    assert found.triage.level.rank >= EMERGENCY.rank
    assert all(reason.quote in text for reason in found.triage.reasons if reason.rule == WORDS and reason.quote)


def test_without_weights_nothing_is_raised(diagnoser: Diagnoser) -> None:
    """The reason appears only through the weights."""
    text = "La débroussailleuse lui a ouvert la cuisse, ça gicle et on n'arrive pas à stopper."
    quiet = Diagnoser(replace(diagnoser.knowledge, alarm=Alarm({}, {})))
    assert WORDS not in {reason.rule for reason in quiet.assess(text, Patient()).triage.reasons}
    assert WORDS in {reason.rule for reason in diagnoser.assess(text, Patient()).triage.reasons}
