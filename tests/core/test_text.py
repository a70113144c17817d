"""Normalisation: what must make no difference, and offsets that always point at the text as sent."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.text import plain, read


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Fièvre", "fievre"),
        ("ŒDÈME", "oedeme"),
        ("fie\u0300vre", "fievre"),
        ("l’oeil", "l'oeil"),
        ("𝐟𝐢𝐞̀𝐯𝐫𝐞", "fievre"),
        ("fiè\u200bvre", "fievre"),
        ("a\x00b", "a b"),
    ],
)
def test_plain_ignores_case_accents_ligatures_and_invisible_characters(typed: str, expected: str) -> None:
    """Forms of the same word fold to the same letters."""
    assert plain(typed) == expected


def test_read_spells_out_sms_forms_on_the_same_span() -> None:
    """The letter "g" becomes two words that both point at the one typed letter."""
    tokens = read("g mal", {"g": "j ai"}).tokens
    assert [(t.word, t.start, t.end) for t in tokens] == [("j", 0, 1), ("ai", 0, 1), ("mal", 2, 5)]


def test_read_keeps_accents_to_tell_sms_forms_apart() -> None:
    """The form "mé" is "mais" in SMS spelling; "me" is a pronoun."""
    assert [t.word for t in read("mé me", {"mé": "mais"}).tokens] == ["mais", "me"]


def test_read_squeezes_stretched_letters() -> None:
    """The word "troooop" is "trop", and "ballonnement" keeps its double letters."""
    assert [t.word for t in read("troooop ballonnement", {}).tokens] == ["trop", "ballonnement"]


def test_read_separates_sentences_at_marks_and_role_tags() -> None:
    """Text after a role tag or a brace is another sentence: it cannot deny what stands before."""
    tokens = read("mal au ventre <|user|> non {x} fin", {}).tokens
    words = {t.word: t.sentence for t in tokens}
    assert words["ventre"] < words["user"] < words["non"] < words["x"] < words["fin"]


@given(st.text(max_size=300))
def test_offsets_stay_inside_the_text_and_in_order(text: str) -> None:
    """Whatever is typed, every token has a non-empty span of the text, in reading order."""
    last = 0
    for token in read(text, {}).tokens:
        assert 0 <= token.start < token.end <= len(text)
        assert token.start >= last
        last = token.start


@given(st.sampled_from(["J'ai mal à la tête depuis hier.", "Œdème à l'œil, 39,5 de fièvre"]))
def test_unicode_form_does_not_change_the_words(text: str) -> None:
    """Composed and decomposed accents give the same words, each with its own offsets."""
    composed = [t.word for t in read(unicodedata.normalize("NFC", text), {}).tokens]
    decomposed = [t.word for t in read(unicodedata.normalize("NFD", text), {}).tokens]
    assert composed == decomposed
