"""Cues of denial, doubt, time and persons: found as words, the longest of each kind at each place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from backend.core.cues import Cue, CueKind, Cues
from backend.core.knowledge import Knowledge
from backend.core.lexicon import words_of
from tests.strategies import base, messages


def cues_of(**kinds: list[str]) -> Cues:
    """Cues with only these lists, and two relatives."""
    data: dict[str, Any] = {kind.value: [] for kind in CueKind}
    data |= {key: [] for key in ("first_person", "saying", "observing", "possessives", "strict_possessives")}
    data |= {"relative_needs_possessive": [], "not_pregnant_before": [], "own_sex": {}}
    data |= {"present_be": [], "past_with_be": []}
    data["relatives"] = {
        "fille": {"called": "votre fille", "sex": "F"}, "grand-mère": {"called": "votre grand-mère", "sex": "F"},
    }  # fmt: skip
    return Cues({**data, **kinds})


def texts(found: list[Cue]) -> list[tuple[int, int, str]]:
    """Start, end and words of each cue."""
    return [(cue.start, cue.end, cue.text) for cue in found]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((0, 2), (1, 3), True),
        ((1, 3), (0, 2), True),
        ((0, 5), (2, 3), True),
        ((2, 3), (2, 3), True),
        ((0, 2), (2, 4), False),
        ((3, 4), (0, 1), False),
    ],
)
def test_cues_overlap_when_they_share_a_word(left: tuple[int, int], right: tuple[int, int], expected: bool) -> None:
    """Touching is not overlapping; the order does not matter."""
    cues = [Cue(CueKind.NEGATION, start, end, "") for start, end in (left, right)]
    assert cues[0].overlaps(cues[1]) is expected


def test_the_longest_cue_of_a_kind_is_found_at_each_place() -> None:
    """The cue "pas du tout" hides "pas" at the same word, whatever the order of the list; later ones are found too."""
    for listed in (["pas", "pas du tout"], ["pas du tout", "pas"]):
        found = cues_of(negation=listed).find(["je", "ne", "tousse", "pas", "du", "tout", "et", "pas", "de", "fievre"])
        assert texts(found[CueKind.NEGATION]) == [(3, 6, "pas du tout"), (7, 8, "pas")]


def test_each_kind_is_found_apart() -> None:
    """One word may begin a cue of two kinds; both are told, each the longest of its kind."""
    found = cues_of(negation=["pas"], pseudo_negation=["pas mal de", "pas mal"]).find(["pas", "mal", "de", "boutons"])
    assert texts(found[CueKind.NEGATION]) == [(0, 1, "pas")]
    assert texts(found[CueKind.PSEUDO_NEGATION]) == [(0, 3, "pas mal de")]


def test_a_cue_is_whole_words() -> None:
    """A cue is neither found inside a longer word nor across the end of the sentence."""
    cues = cues_of(negation=["pas", "sans aucun"])
    assert cues.find(["je", "suis", "passe", "hier"])[CueKind.NEGATION] == []
    assert cues.find(["malade", "sans"])[CueKind.NEGATION] == []


def test_cues_are_written_with_accents_and_found_folded() -> None:
    """The data is readable French; the words of a sentence are folded."""
    found = cues_of(past=["l'année dernière"]).find(list(words_of("J'ai toussé l'année dernière")))
    assert [cue.text for cue in found[CueKind.PAST]] == ["l annee derniere"]


def test_every_kind_has_a_list_in_the_answer() -> None:
    """A sentence without cues gives an empty list for each kind."""
    assert cues_of().find(["rien"]) == {kind: [] for kind in CueKind}


def test_words_are_all_words_of_the_cues() -> None:
    """The words in which typing errors are corrected."""
    cues = cues_of(negation=["pas du tout"], past=["jadis"])
    assert cues.words() == {"pas", "du", "tout", "jadis", "fille", "grand", "mere"}


@pytest.mark.parametrize(
    ("person", "called"), [("", "vous"), ("fille", "votre fille"), ("grand mere", "votre grand-mère")]
)
def test_the_patient_is_called_as_a_person_would_write_it(person: str, called: str) -> None:
    """The writer is "vous"; a folded relative gets accents and hyphen back."""
    assert cues_of().called(person) == called


def test_every_relative_of_the_data_can_be_called(knowledge: Knowledge) -> None:
    """Each relative has a name for the middle of a sentence, and none of them is "vous"."""
    called = {knowledge.cues.called(person) for person in knowledge.cues.relatives}
    assert {name.split()[0] for name in called} == {"votre", "cette"}
    assert {"votre mère", "votre père", "votre bébé", "votre grand-mère", "votre sœur"} <= called


def test_every_kind_of_cue_has_data(knowledge: Knowledge) -> None:
    """No list of `data/cues.json` is empty, and each cue is found in itself."""
    found = dict.fromkeys(CueKind, 0)
    for row in knowledge.cues._by_first.values():
        for words, kind in row:
            found[kind] += 1
            assert any(cue.text == " ".join(words) for cue in knowledge.cues.find(words)[kind])
    assert [kind for kind, count in found.items() if count == 0] == []


@given(messages())
def test_found_cues_stand_in_the_sentence_in_order(message: str) -> None:
    """For any message, a cue is the words of its place, and there is one of a kind at a place."""
    words = words_of(message)
    for kind, found in base().cues.find(words).items():
        assert [cue.text for cue in found] == [" ".join(words[cue.start : cue.end]) for cue in found]
        assert [cue.start for cue in found] == sorted({cue.start for cue in found})
        assert {cue.kind for cue in found} <= {kind}
