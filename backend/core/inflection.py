"""Which French words count as the same word: a light stemmer for regular endings, and families for the rest.

A *key* is what the lexicon compares: "vomissais", "vomi" and "vomissements" share one. Families (irregular
verbs, everyday synonyms such as mal/douleur) are data, in `data/french.json`. The stemmer works on folded words
(no accents) and aims at French symptom language only; it was written for this lexicon and not measured as a
general stemmer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

# Each ending with the shortest stem that it must leave. A word loses its plural, then one derivation or one inflection,
# the longest that it can.
_DERIVATIONS = {"issement": 3, "ement": 4, "ation": 5, "euse": 5, "eux": 5, "ion": 5, "ure": 5}
_INFLECTIONS = {
    "issaient": 3, "issait": 3, "issai": 3, "issant": 3, "issent": 3, "aient": 4, "ente": 5, "ante": 4, "ant": 4,
    "ait": 4, "ai": 4, "ent": 4, "ee": 3, "er": 3, "ez": 4, "e": 3, "ir": 3, "it": 3, "i": 3,
}  # fmt: skip
_LONGEST_ENDING = 8
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


def _cut(word: str, endings: Mapping[str, int]) -> str:
    for length in range(min(_LONGEST_ENDING, len(word)), 0, -1):
        shortest = endings.get(word[-length:])
        if shortest is not None and len(word) - length >= shortest:
            return word[:-length]
    return word


class Inflection:
    """Maps a folded word to its key. `families` maps a key to the forms that share it; a form may be in several."""

    def __init__(self, families: Mapping[str, list[str]]) -> None:
        self._keys_of: dict[str, tuple[str, ...]] = {}
        for key, forms in families.items():
            for form in dict.fromkeys((key, *forms)):
                self._keys_of[form] = (*self._keys_of.get(form, ()), f"+{key}")

    def key(self, word: str) -> str:
        """The key of a folded word; families come first and are marked with a plus sign."""
        return self.keys(word)[0]

    def keys(self, word: str) -> tuple[str, ...]:
        """Every key that a word of a message may stand for ("pertes": losing, or a discharge)."""
        return self._keys_of.get(word) or (stem(word),)
