"""Learning how urgent words sound: shares of wordings, the promises in the weights, and the file that is shipped."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", reason="needs the training environment")

from backend.core.alarm import LEVELS, NONE_LIKELY, Alarm, Piece, Word
from backend.core.entities import Patient, Urgency
from backend.core.knowledge import Knowledge, load
from training.alarm import MESSAGES, Judged, MessageRow, learn, measure, read_light, read_neutral, read_wordings, to_row

pytestmark = pytest.mark.training


def judged(text: str, deserves: int, *, bounded: bool = False) -> Judged:
    """A message of one sentence that deserves the first `deserves` of the three levels."""
    words = tuple(Word((word,), (), 0, 1) for word in text.split())
    share = tuple(float(column < deserves) for column in range(len(LEVELS)))
    floor = deserves + 1 if deserves else 0
    return Judged((Piece(words, bounded),), ("always",), share, 1.0, ok=frozenset({floor}), floor=floor)


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    """The real knowledge base."""
    return load()


def test_words_of_grave_messages_raise_and_neutral_words_never_lower(knowledge: Knowledge) -> None:
    """Blood alarms, play reassures unless it is neutral talk, and the level is given back by the file's weights."""
    rows = [judged("sang partout", 3), judged("sang ici", 3), judged("jeu ici", 0), judged("jeu partout", 0)] * 5
    free, kept = learn(rows, frozenset()), learn(rows, frozenset({"jeu"}))
    assert (free.values[free.places["sang"]] > 0).all()
    assert (free.values[free.places["jeu"]] < 0).all()
    assert (kept.values[kept.places["jeu"]] == 0).all()
    row = to_row(free, rows, knowledge, "a test")
    found = measure(rows, Alarm(row.terms, row.traits))
    assert found["emergencies below floor"] == 0
    assert found["safe"] == 1.0


def test_a_bounded_sentence_does_not_teach_words_to_reassure(knowledge: Knowledge) -> None:
    """Where a word stands in bounded sentences only, it gets no negative weight that matters there."""
    rows = [judged("sang", 3), judged("jeu", 0, bounded=True)] * 8
    weights = learn(rows, frozenset())
    row = to_row(weights, rows, knowledge, "a test")
    alarm = Alarm(row.terms, row.traits)
    both = (Piece((Word(("sang",), (), 0, 1),), False), Piece((Word(("jeu",), (), 0, 1),), True))
    assert alarm.raise_level(Urgency.SELF_CARE, NONE_LIKELY, Patient(), both) == alarm.raise_level(
        Urgency.SELF_CARE, NONE_LIKELY, Patient(), both[:1]
    )


def test_the_messages_are_well_formed() -> None:
    """The level is among those that are ok, and none of these is below the floor."""
    for path in sorted(MESSAGES.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = MessageRow.model_validate_json(line)
            place = f"{path.name}:{number}"
            assert row.level in row.ok, place
            assert min(level.rank for level in row.ok) >= row.floor.rank, place


def test_no_held_message_is_learned_from() -> None:
    """What measures is not what teaches."""
    texts: dict[bool, set[str]] = {True: set(), False: set()}
    for path in MESSAGES.glob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        texts[path.name.startswith("held_")] |= {MessageRow.model_validate_json(line).text for line in lines}
    assert not texts[True] & texts[False]


def test_wordings_carry_the_share_of_their_diseases(knowledge: Knowledge) -> None:
    """Shares fall from level to level; the sentences of rules deserve their level wholly."""
    wordings = list(read_wordings(knowledge))
    assert all(list(row.deserves) == sorted(row.deserves, reverse=True) for row in wordings)
    assert any(row.deserves == (1.0, 1.0, 1.0) for row in wordings)


def test_light_words_weigh_nothing_and_neutral_talk_is_known(knowledge: Knowledge) -> None:
    """Neither an article nor a greeting moves a score down."""
    assert {knowledge.lexicon.key("la"), "~" + knowledge.lexicon.key("la")} <= read_light(knowledge)
    assert not read_light(knowledge) & knowledge.alarm.terms.keys()
    assert knowledge.lexicon.key("bonjour") in read_neutral(knowledge)


def test_the_shipped_weights_keep_their_promise(knowledge: Knowledge) -> None:
    """No neutral term and no given level lowers a score in `data/alarm.json`."""
    neutral = read_neutral(knowledge)
    lowering = {term for term, row in knowledge.alarm.terms.items() if min(row) < 0 and term in neutral}
    assert not lowering
