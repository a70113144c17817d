"""The lay lexicon, compiled: wordings become patterns of keys, and unknown words get bounded typo corrections.

A wording such as "mal au ventre" is kept as the set of its important words; light words (articles, pronouns,
intensifiers) may come and go. A wording with a negative word ("plus d'appétit") keeps its order. One with a single
important word among others ("veux mourir") is a phrase: its words in order, articles and pronouns apart; one that
starts with "=" ("=d'un coup") is taken to the letter. `(a|b)` means either. "!marcher" is every way to say that one
cannot ("n'arrive plus à", "impossible de"), "~marcher" that one has trouble to ("du mal à", "une gêne pour"), "+marche"
that one does it well ("marche normalement", "marche sans peine").

A word that nobody knows is corrected only when it is one edit away from a lexicon word, or sounds like it
("balonement"), has at least five letters, and is not itself a French word: `data/lookalikes.json` lists the real
words that stand that close ("souffre" next to "souffle").
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from string import ascii_lowercase
from sys import intern
from typing import NamedTuple

from backend.core.entities import NAMED
from backend.core.inflection import Inflection, stem
from backend.core.text import plain

NEGATORS = frozenset({"pas", "plus", "jamais", "sans", "rien", "aucun", "aucune", "ni"})
# Words that a phrase does without; every other light word of it ("veut plus le biberon") is kept.
_DROPPED_IN_PHRASES = frozenset(
    ["le", "la", "les", "l", "un", "une", "des", "du", "de", "d", "au", "aux", "a", "mon", "ma", "mes", "ton",
     "ta", "tes", "son", "sa", "ses", "je", "j", "tu", "il", "elle", "on", "nous", "vous", "ils", "elles",
     "me", "m", "te", "t", "se", "s", "ce", "cet", "cette", "ces", "ca", "cela", "c", "ne", "n", "qu", "que",
     "qui"]
)  # fmt: skip
_CANNOT = (
    "=(arrive|arrivent|parviens|parvient|réussis|réussit|peux|peut|peuvent|pouvais|pouvait) (plus|pas) ",
    "=(sais|sait) plus ", "=(plus|pas) (pu|réussi|arrivé|parvenu|moyen|possible) ", "=(impossible|incapable) ",
    "=sans (pouvoir|arriver|réussir|parvenir) ",
)  # fmt: skip
_HAS_TROUBLE = (
    "=(du|de) mal (à|pour) ", "=(difficulté|difficultés|gêne|galère|peine) (à|pour) ", "=(gêné|gênée) pour ",
    "=(difficile|dur|empêche|empêchent) (de|d') ",
)  # fmt: skip
_DOES_WELL = (
    "(bien|normalement|normal|correctement|librement|parfaitement)", "comme d'habitude",
    "sans (peine|problème|problèmes|souci|soucis|difficulté|difficultés|gêne|effort|aucun problème|aucune gêne)",
)  # fmt: skip
_NONE: frozenset[str] = frozenset()
_FEW_WORDS = 2
_SHORTEST_CORRECTED = 5
_SHORTEST_STEM = 6
_USES_OF_A_CUE = 50
_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_GLUED = re.compile(r"[^\s'()][()]+[^\s'()]")
_WORDS = re.compile(r"\d+|[a-z]+")
_DOUBLED = re.compile(r"(.)\1")
# "urticere" ~ "urticaire", "nosee" ~ "nausee", "jener" ~ "gener"; a nasal "ain" is no "en".
_SPELT_AND_HEARD = (
    ("ph", "f"), ("qu", "k"), ("y", "i"), ("h", ""), ("ain", "1"), ("ein", "1"), ("eau", "o"), ("au", "o"), ("ai", "e"),
    ("ei", "e"), ("ge", "je"), ("gi", "ji"),
)  # fmt: skip
_FINAL_E = re.compile(r"(?<=....)(ees|ee|er|ez|es|e|s)$")


class Wording(NamedTuple):
    """One way to say `target` (a finding id, or a red-flag text pattern)."""

    target: str
    keys: tuple[str, ...]
    words: tuple[str, ...]
    ordered: bool
    phrase: bool
    details: frozenset[str] = frozenset()
    """Its light words that say something ("petit", "sous"), articles and pronouns apart."""
    needed: frozenset[str] = frozenset()
    """Those without which two important words say something else: "vomit *tous* les mois"."""


def unfold(wording: str) -> list[str]:
    """The wordings that "!marcher" (cannot), "~marcher" (has trouble to) or "+marche" (does it well) stands for.

    A wording without such a mark stands for itself.
    """
    mark, act = wording[:1], wording[1:]
    if mark == "+":
        return [f"={act} {ending}" for ending in _DOES_WELL]
    openings = {"!": _CANNOT, "~": _HAS_TROUBLE}.get(mark)
    return [opening + act for opening in openings] if openings else [wording]


def spoken(wording: str) -> list[str]:
    """The plain wordings that a person would say, with one form of each inability ("n'arrive plus à marcher")."""
    openings = {"!": "n'arrive plus à ", "~": "du mal à ", "=": ""}
    mark = wording[:1]
    return expand(openings[mark] + wording[1:] if mark in openings else wording)


def expand(wording: str) -> list[str]:
    """Every plain wording that `(a|b)` alternatives stand for."""
    if "(" not in wording:
        return [wording]
    parts = _ALTERNATIVES.split(wording)
    choices = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(combination) for combination in itertools.product(*choices)]


def words_of(wording: str) -> tuple[str, ...]:
    """The folded words of a wording: "mal à l'œil" -> ("mal", "a", "l", "oeil")."""
    return tuple(_WORDS.findall(plain(wording)))


def expand_words(wording: str) -> list[tuple[str, ...]]:
    """The words of every plain wording that `wording` stands for; each piece is read once."""
    if _GLUED.search(wording):
        return [words_of(each) for each in expand(wording)]
    parts = _ALTERNATIVES.split(wording)
    if len(parts) == 1:
        return [words_of(wording)]
    choices = [
        [words_of(each) for each in part.split("|")] if index % 2 else [words_of(part)]
        for index, part in enumerate(parts)
    ]
    return [tuple(itertools.chain.from_iterable(combination)) for combination in itertools.product(*choices)]


class Lexicon:
    """All wordings of one knowledge base, indexed by their rarest key. Frozen once built."""

    def __init__(
        self,
        wordings: Mapping[str, Iterable[str]],
        families: Mapping[str, list[str]],
        light: Iterable[str],
        other_words: Iterable[str],
        lookalikes: Iterable[str],
        quantifiers: Iterable[str] = (),
    ) -> None:
        self._inflection = Inflection(families)
        self.light = frozenset(light) - NEGATORS
        self._details = self.light - _DROPPED_IN_PHRASES
        self._quantifiers = frozenset(quantifiers)
        keys = _Keys(self.key)
        compiled = [
            self._compile(target, words, wording.startswith("="), keys)
            for target, typed in wordings.items()
            for folded in typed
            for wording in unfold(folded)
            for words in expand_words(wording)
        ]
        self.wordings = tuple(dict.fromkeys(compiled))
        self._uses = Counter(key for wording in self.wordings for key in set(wording.keys))
        self.vocabulary = frozenset(self._uses)
        self.by_anchor = _index(self.wordings, self._uses)
        forms = {word for w in self.wordings for word in w.words if w.phrase or word not in self.light}
        forms |= {form for key, known in families.items() if f"+{key}" in self.vocabulary for form in known}
        other_words = tuple(other_words)
        forms |= {word for word in other_words if len(word) >= _SHORTEST_CORRECTED}
        self.forms = frozenset(forms)
        self._lookalikes = frozenset(lookalikes)
        self._corrector = Corrector(self.forms)
        self._uses.update(dict.fromkeys((self.key(word) for word in other_words), _USES_OF_A_CUE))

    def _compile(self, target: str, words: tuple[str, ...], literal: bool, keys: Mapping[str, str]) -> Wording:
        words = tuple([intern(word) for word in words])
        important = [word for word in words if word not in self.light]
        literal = literal or not important
        negative = not NEGATORS.isdisjoint(important)
        telling = sum(word not in NEGATORS for word in important) if negative else len(important)
        phrase = literal or (telling < 2 and len(words) > 1)
        kept: Iterable[str] = important
        if phrase:
            kept = words if literal else [word for word in words if word not in _DROPPED_IN_PHRASES]
        details = _NONE if phrase else self._details.intersection(words)
        needed = details & self._quantifiers if len(important) <= _FEW_WORDS else _NONE
        ordered = phrase or negative or target.startswith(NAMED)  # "fièvre jaune" is no "crachats jaunes et fièvre"
        return Wording(
            target, tuple([keys[word] for word in kept]), words, ordered, phrase, details or _NONE, needed or _NONE
        )

    def key(self, word: str) -> str:
        """What `word` (folded) is compared by; a negative word stands for itself."""
        return f"!{word}" if word in NEGATORS else self._inflection.key(word)

    def readings(self, word: str) -> tuple[str, ...]:
        """The keys that a folded word of a message may stand for: its own, or those of its corrections.

        The likeliest comes first: same first letter, then most used in the lexicon.
        """
        corrected = sorted(
            self.corrections(word), key=lambda form: (form[0] != word[0], -self._uses[self.key(form)], form)
        )
        if corrected:
            return tuple(dict.fromkeys(self.key(form) for form in corrected))
        return (f"!{word}",) if word in NEGATORS else self._inflection.keys(word)

    def corrections(self, word: str) -> tuple[str, ...]:
        """The known forms that an unknown folded word may stand for; empty when it is known, French or too short."""
        return () if word in self._lookalikes else self.corrections_of_any(word)

    def corrections_of_any(self, word: str) -> tuple[str, ...]:
        """The same, also for real French words that only look alike."""
        known = word in self.forms or word in self.light or self.key(word) in self.vocabulary
        return () if known or len(word) < _SHORTEST_CORRECTED else self._corrector.corrections(word)


class _Keys(dict[str, str]):
    """Remembers the key of each word while a lexicon is compiled."""

    def __init__(self, key: Callable[[str], str]) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, word: str) -> str:
        self[word] = key = self._key(word)
        return key


def _index(wordings: Iterable[Wording], uses: Mapping[str, int]) -> dict[str, tuple[Wording, ...]]:
    """The wordings under the rarest of their keys."""
    anchored: dict[str, list[Wording]] = defaultdict(list)
    for wording in wordings:
        anchored[min(wording.keys, key=uses.__getitem__)].append(wording)
    return {key: tuple(found) for key, found in anchored.items()}


class Corrector:
    """Finds known words one edit away, or that sound alike, by trying every edit of a word (about 0.1 ms each).

    One edit is an insertion, a deletion, a substitution or a swap of neighbours (Damerau 1964).
    """

    def __init__(self, forms: Iterable[str]) -> None:
        self._forms_of: dict[str, list[str]] = defaultdict(list)
        """The forms of each root: a word itself, or its stem, which many forms share."""
        self._by_sound: dict[str, list[str]] = defaultdict(list)
        for form in forms:
            if len(form) >= _SHORTEST_CORRECTED:
                for root in {form, stem(form)}:
                    self._forms_of[root].append(form)
                self._by_sound[sound(form)].append(form)

    def corrections(self, word: str) -> tuple[str, ...]:
        """Known forms within one edit of `word` or with the same sound, in alphabetical order.

        When a form within one edit sounds the same, the word without its first letter is no candidate: "esoufflé" is
        never "souffle"; but "bheures" is "heures", though it sounds like "beurre".
        """
        close = {
            form
            for own in {word, stem(word)}
            for root in _edits(own)
            for form in self._forms_of.get(root, ())
            if within_one_edit(word, form)
            or (len(stem(form)) >= _SHORTEST_STEM and within_one_edit(stem(word), stem(form)))
        }
        alike = self._by_sound.get(sound(word), ())
        if any(within_one_edit(word, form) for form in alike):
            close = {form for form in close if stem(form) != stem(word[1:])}
        return tuple(sorted(close.union(alike)))


def _edits(word: str) -> set[str]:
    """The word, and every string one edit away from it."""
    cuts = [(word[:index], word[index:]) for index in range(len(word) + 1)]
    edits = {word, *(head + tail[1:] for head, tail in cuts), *(head + tail[1::-1] + tail[2:] for head, tail in cuts)}
    for letter in ascii_lowercase:
        edits.update(head + letter + tail for head, tail in cuts)
        edits.update(head + letter + tail[1:] for head, tail in cuts)
    return edits


def within_one_edit(left: str, right: str) -> bool:
    """True when at most one insertion, deletion, substitution or swap of neighbours separates the two."""
    if abs(len(left) - len(right)) > 1:
        return False
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    left, right = left[start:], right[start:]
    if left[1:] == right[1:] or left[1:] == right or left == right[1:]:
        return True
    return len(left) > 1 and left[:2] == right[1::-1] and left[2:] == right[2:]


def sound(word: str) -> str:
    """A rough French sound: doubled letters, mute h, ph, y, ai, au and final e do not count ("diarrhee" ~ "diaree")."""
    for spelt, heard in _SPELT_AND_HEARD:
        word = word.replace(spelt, heard)
    return _FINAL_E.sub("", _DOUBLED.sub(r"\1", word))
