"""Which French words count as the same word: a light stemmer for regular endings, and families for the rest.

A *key* is what the lexicon compares: "vomissais", "vomi" and "vomissements" share one. Families (irregular
verbs, everyday synonyms such as mal/douleur) are data, in `data/french.json`. The stemmer works on folded words
(no accents) and aims at French symptom language only; it was written for this lexicon and not measured as a
general stemmer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

# (ending, shortest stem left), longest first. A word loses its plural, then one derivation or one inflection.
_DERIVATIONS = (
    ("issement", 3), ("ement", 4), ("ation", 5), ("euse", 5), ("eux", 5), ("ion", 5), ("ure", 5),
)  # fmt: skip
_INFLECTIONS = (
    ("issaient", 3), ("issait", 3), ("issai", 3), ("issant", 3), ("issent", 3), ("aient", 4), ("ante", 4),
    ("ant", 4), ("ait", 4), ("ai", 4), ("ent", 4), ("ee", 3), ("er", 3), ("ez", 4), ("e", 3),
    ("ir", 3), ("it", 3), ("ie", 3), ("i", 3),
)  # fmt: skip
_SHORTEST = 4


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The part of a folded word that regular inflection leaves alone: "tousses", "toussait" -> "tous"."""
    if len(word) < _SHORTEST:
        return word
    if len(word) > _SHORTEST and word[-1] in "sx" and not word.endswith("eux"):
        word = word[:-1]
    cut = _cut(word, _DERIVATIONS)
    word = _cut(word, _INFLECTIONS) if cut == word else cut
    if len(word) >= _SHORTEST and word[-1] == word[-2]:
        word = word[:-1]
    return word


def _cut(word: str, endings: tuple[tuple[str, int], ...]) -> str:
    for ending, shortest in endings:
        if word.endswith(ending) and len(word) - len(ending) >= shortest:
            return word[: -len(ending)]
    return word


class Inflection:
    """Maps a folded word to its key. `families` maps a key to the forms that share it."""

    def __init__(self, families: Mapping[str, list[str]]) -> None:
        self._key_of = {form: f"+{key}" for key, forms in families.items() for form in (key, *forms)}

    def key(self, word: str) -> str:
        """The key of a folded word; families come first and are marked with a plus sign."""
        return self._key_of.get(word) or stem(word)
