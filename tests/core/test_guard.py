"""What a reply may not say, on reviewed French sentences that a clinician can read and extend."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.diagnose import Diagnoser
from backend.core.entities import Patient, Urgency
from backend.core.facts import Facts, facts_of
from backend.core.guard import Guard, Refusal, load_guard, split_reply
from backend.core.wording import action, word_reply
from tests.strategies import base

SENTENCES = Path(__file__).parents[1] / "sentences" / "guard.jsonl"
"""Lines with an `id` are facts; the others are a sentence (`say`) judged on facts (`on`). `refused` names the rule that
must refuse it, null is a good sentence; `missed` marks a bad one that passes today: a known limit, kept in sight."""

_TEXTS = ("causes", "signs", "questions")


@dataclass(frozen=True)
class Judged:
    """A sentence with the facts it is said about and the rule that must refuse it (None: it may be said)."""

    on: str
    say: str
    facts: Facts
    refused: Refusal | None
    missed: bool


def facts_from_row(row: dict[str, Any]) -> Facts:
    """Facts of a line; what is left out is empty or false."""
    defaults: dict[str, Any] = {"who": "vous", "abstained": False, "probable": False, "causes": [], "signs": []}
    values = {**defaults, **{key: value for key, value in row.items() if key != "id"}}
    values |= {key: tuple(values[key]) for key in _TEXTS if key in values}
    return Facts(**{**values, "level": Urgency(row["level"])})


def read_sentences() -> Iterator[Judged]:
    """Every sentence of the file."""
    facts: dict[str, Facts] = {}
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "id" in row:
            facts[row["id"]] = facts_from_row(row)
        else:
            refused = Refusal(row["refused"]) if row["refused"] else None
            yield Judged(row["on"], row["say"], facts[row["on"]], refused, row.get("missed", False))


JUDGED = list(read_sentences())
BAD = [j for j in JUDGED if j.refused and not j.missed]
GOOD = [j for j in JUDGED if not j.refused]
MISSED = [j for j in JUDGED if j.missed]
FACTS = {j.on: j.facts for j in JUDGED}


def name(judged: object) -> str:
    """How a test of a sentence is called."""
    return f"{judged.on}: {judged.say[:50]}" if isinstance(judged, Judged) else str(judged)


@pytest.mark.parametrize("judged", BAD, ids=name)
def test_a_bad_sentence_is_refused_by_its_rule(judged: Judged, guard: Guard) -> None:
    """Each bad sentence of the file is refused, for the reason written beside it."""
    assert guard.refuse(judged.say, judged.facts) is judged.refused


@pytest.mark.parametrize("judged", GOOD, ids=name)
def test_a_good_sentence_may_be_said(judged: Judged, guard: Guard) -> None:
    """Near misses pass: quoted advice, durations, hedged causes of the facts, conditions, lost or kept accents."""
    assert guard.refuse(judged.say, judged.facts) is None


@pytest.mark.parametrize("judged", MISSED, ids=name)
@pytest.mark.xfail(strict=True, reason="known limit; when this passes, remove `missed` from its line in guard.jsonl")
def test_a_known_miss_is_refused(judged: Judged, guard: Guard) -> None:
    """Bad sentences that the guard lets pass today stay in sight until it refuses them."""
    assert guard.refuse(judged.say, judged.facts) is not None


def test_every_rule_has_bad_sentences_and_there_are_enough_good_ones() -> None:
    """Two or more bad sentences for each reason to refuse, 60 in all, and 40 good ones."""
    counts = Counter(judged.refused for judged in BAD)
    assert [reason for reason in Refusal if counts[reason] < 2] == []
    assert len(BAD) >= 60
    assert len(GOOD) >= 40


@pytest.mark.parametrize("level", Urgency)
def test_the_decided_action_may_be_said_and_a_milder_one_may_not(level: Urgency, guard: Guard) -> None:
    """Of the five actions only the decided one passes; beside it, the 15 from "urgences" and a pharmacist at 7 days."""
    facts = replace(FACTS["infarctus"], level=level)
    also = {Urgency.EMERGENCY_DEPARTMENT: {Urgency.LIFE_THREATENING}, Urgency.DOCTOR_7_DAYS: {Urgency.SELF_CARE}}
    passing = {other for other in Urgency if guard.refuse(action(other), facts) is None}
    assert passing == {level} | also.get(level, set())


@pytest.mark.parametrize("level", Urgency)
def test_only_the_action_of_the_level_counts_as_said(level: Urgency, guard: Guard) -> None:
    """A reply that tells another place or delay, or none, has not said what to do."""
    assert [other for other in Urgency if guard.states_action([action(other)], level)] == [level]
    assert not guard.states_action(["Ce que vous décrivez peut faire penser à une migraine."], level)
    assert not guard.states_action([], level)


@pytest.mark.parametrize(
    ("level", "sentence"),
    [
        (Urgency.LIFE_THREATENING, "Appelez le 15 si la douleur revient."),
        (Urgency.EMERGENCY_DEPARTMENT, "Allez aux urgences si la fièvre monte."),
        (Urgency.DOCTOR_24_HOURS, "Voyez un médecin dans les 24 heures en cas de fièvre."),
        (Urgency.DOCTOR_7_DAYS, "Prenez rendez-vous dans les 7 jours si cela dure."),
        (Urgency.SELF_CARE, "Demandez conseil à un pharmacien si cela dure."),
    ],
)
def test_an_action_under_a_condition_is_not_said(level: Urgency, sentence: str, guard: Guard) -> None:
    """What to do must be told without an "if"; a second, plain sentence is enough."""
    assert not guard.states_action([sentence], level)
    assert guard.states_action([sentence, action(level)], level)


@pytest.mark.parametrize(
    ("sentence", "on", "expected"),
    [
        ("Vous avez une migraine.", "migraine", True),
        ("Votre mère a une cystite.", "rein", True),
        ("Vous souffrez d'une appendicite.", "appendicite", True),
        ("Vous êtes fatigué.", "migraine", True),
        ("Vous avez mal.", "migraine", False),
        ("Vous avez des points lumineux.", "migraine", False),
        ("Une migraine dure souvent une journée.", "migraine", False),
        ("Si vous avez une migraine, reposez-vous.", "migraine", True),
    ],
)
def test_naming_a_disease_is_not_stating_it(sentence: str, on: str, expected: bool, guard: Guard) -> None:
    """Only a sentence that gives the disease to the person states a diagnosis."""
    assert guard.states_diagnosis(sentence, FACTS[on]) is expected


def test_the_person_of_the_facts_is_who_a_diagnosis_is_stated_of(guard: Guard) -> None:
    """The same words about somebody else than the patient of the facts are not a diagnosis of the patient."""
    sentence = "Votre fille a une cystite."
    assert guard.states_diagnosis(sentence, replace(FACTS["rein"], who="votre fille"))
    assert not guard.states_diagnosis(sentence, FACTS["rein"])


def test_a_disease_of_the_facts_is_refused_on_other_facts(guard: Guard) -> None:
    """The same hedged sentence passes where its cause is a fact and nowhere else."""
    sentence = "Ce que vous décrivez peut faire penser à une appendicite."
    passing = {on for on, facts in FACTS.items() if guard.refuse(sentence, facts) is None}
    assert passing == {"appendicite"}


def test_a_sign_that_begins_like_the_cause_is_read_whole(diagnoser: Diagnoser, guard: Guard) -> None:
    """A sign, "une paupière qui saute toute seule": not the cause followed by the promise "toute seule"."""
    facts = facts_of(diagnoser.assess("J'ai l'œil qui saute depuis plusieurs jours.", Patient()))
    assert any("toute seule" in sign for sign in facts.signs)
    first = word_reply(facts)[0]
    assert "toute seule" in first
    assert guard.refuse(first, facts) is None


def test_a_number_passes_with_the_facts_that_hold_it(guard: Guard) -> None:
    """The 3114 may be said when it is the phone of the facts, not otherwise."""
    sentence = "Vous pouvez aussi appeler le 3114."
    with_phone = replace(FACTS["flou"], phone="3114")
    assert (guard.refuse(sentence, with_phone), guard.refuse(sentence, FACTS["flou"])) == (None, Refusal.NUMBER)


def test_quoted_advice_passes_only_word_for_word(guard: Guard) -> None:
    """The advice of the facts holds a number of times a day; another number in it is refused."""
    advice = "Un lavage du nez à l'eau salée, 3 à 4 fois par jour, soulage souvent."
    changed = advice.replace("3 à 4", "8 à 9")
    assert (guard.refuse(advice, FACTS["rhume"]), guard.refuse(changed, FACTS["rhume"])) == (None, Refusal.DOSE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bonjour. Allez aux urgences ! Vraiment ?", ["Bonjour.", "Allez aux urgences !", "Vraiment ?"]),
        ("  Un seul morceau  ", ["Un seul morceau"]),
        ("Attendez… Non.\nSi.", ["Attendez…", "Non.", "Si."]),
        ("38.5 n'est pas une fin de phrase.", ["38.5 n'est pas une fin de phrase."]),
        ("", []),
    ],
)
def test_a_reply_is_split_into_its_sentences(text: str, expected: list[str]) -> None:
    """Sentences end at a mark followed by a space, and keep the mark."""
    assert split_reply(text) == expected


GUARD = load_guard(base())


@given(st.text(max_size=200), st.sampled_from(sorted(FACTS)))
def test_the_guard_answers_whatever_a_model_writes(text: str, on: str) -> None:
    """Any text gets a verdict: a rule or none, never an exception."""
    assert GUARD.refuse(text, FACTS[on]) in {None, *Refusal}


@pytest.mark.parametrize("opening", ["Bonjour, ", "Bien sûr : "])
def test_a_friendly_opening_hides_no_bad_sentence(opening: str, guard: Guard) -> None:
    """A bad sentence stays refused after words of politeness."""
    assert [judged.say for judged in BAD if guard.refuse(opening + judged.say, judged.facts) is None] == []


@pytest.mark.parametrize("sentence", ["…", "!", "🙂", " ", ""])
def test_a_sentence_without_words_is_refused(sentence: str, guard: Guard) -> None:
    """Marks and pictures say nothing and end the model's part."""
    assert {guard.refuse(sentence, facts) for facts in FACTS.values()} == {Refusal.NOT_FRENCH}
