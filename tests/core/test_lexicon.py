"""Wordings, inflection and bounded typo correction."""

from __future__ import annotations

import pytest

from backend.core.inflection import stem
from backend.core.knowledge import Knowledge
from backend.core.lexicon import Lexicon, expand, sound, unfold, within_one_edit


def small(*wordings: str) -> Lexicon:
    """A lexicon of one finding."""
    return Lexicon(
        {"x": wordings}, {"douleur": ["mal", "douleurs"]}, ["au", "le", "j", "ai", "de", "veux"], [], ["souffre"]
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [("tousse", "toussait"), ("gonflé", "gonflées"), ("vertige", "vertiges"), ("essoufflée", "essoufflement")],
)
def test_stem_joins_regular_forms(left: str, right: str) -> None:
    """Regular inflection does not change the stem."""
    fold = str.maketrans("éèê", "eee")
    assert stem(left.translate(fold)) == stem(right.translate(fold))


def test_expand_multiplies_alternatives() -> None:
    """Two groups of two give four wordings."""
    assert expand("(mal|gêne) au (ventre|dos)") == ["mal au ventre", "mal au dos", "gêne au ventre", "gêne au dos"]


def test_one_wording_for_every_inability() -> None:
    """The mark "!" stands for every way to say that one cannot, "~" that one has trouble to."""
    assert "=(impossible|incapable) marcher" in unfold("!marcher")
    assert "=(du|de) mal (à|pour) marcher" in unfold("~marcher")
    assert unfold("marche mal") == ["marche mal"]


def test_light_words_are_not_keys() -> None:
    """Articles may come and go in a wording with two telling words."""
    (wording,) = small("mal au ventre").wordings
    assert wording.keys == ("+douleur", "ventr")


def test_single_telling_word_makes_a_phrase() -> None:
    """The words "veux mourir" need their verb; "de" may go."""
    (wording,) = small("veux de mourir").wordings
    assert (wording.phrase, wording.words, len(wording.keys)) == (True, ("veux", "de", "mourir"), 2)


def test_negative_words_never_collide_with_stems() -> None:
    """The word "passé" has the stem "pas" but is not the negation."""
    lexicon = small("pas faim")
    assert lexicon.key("pas") != lexicon.key("passe")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("fievre", "fievre", True), ("fivre", "fievre", True), ("fieevre", "fievre", True), ("fierve", "fievre", True),
        ("fiebre", "fievre", True), ("fibre", "fievre", False), ("foie", "fievre", False),
    ],
)  # fmt: skip
def test_within_one_edit(left: str, right: str, expected: bool) -> None:
    """One insertion, deletion, substitution or swap of neighbours."""
    assert within_one_edit(left, right) is expected


def test_sound_joins_usual_misspellings() -> None:
    """Doubled letters, mute h and final e do not count."""
    assert sound("diarrhee") == sound("diaree")
    assert sound("ballonnement") == sound("balonement")


def test_a_misspelt_word_is_corrected_but_a_real_word_is_not() -> None:
    """The typing error "essoufle" gets a reading of the lexicon; "souffre" is a French word and stays itself."""
    lexicon = small("souffle court", "essoufflement")
    assert lexicon.readings("essouflement") == (lexicon.key("essoufflement"),)
    assert lexicon.corrections("souffre") == ()


def test_a_distant_word_of_the_same_sound_does_not_hide_a_closer_one(knowledge: Knowledge) -> None:
    """The word "bheures" sounds like "beurre", and is one letter away from "heures": both are tried."""
    assert knowledge.lexicon.key("heures") in knowledge.lexicon.readings("bheures")


def test_breathlessness_misspelt_is_never_a_heart_murmur(knowledge: Knowledge) -> None:
    """The danger known from fuzzy matching: "essouflé" must not be read as "souffle"."""
    for typed in ("essoufle", "esouffle", "essouflee", "essoufflle"):
        assert knowledge.lexicon.key("souffle") not in knowledge.lexicon.readings(typed)
