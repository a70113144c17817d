"""Text -> sentences whose words are read: what each word may stand for, misspelt ones and pronouns included."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from backend.core.lexicon import Lexicon, sound, within_one_edit
from backend.core.text import SENTENCE_ENDS, Document, Token

_GENDERS = {"il": "m", "ils": "m", "elle": "f", "elles": "f"}
COPULAS = frozenset({"est", "sont", "suis", "etait", "etaient", "etais", "parait", "semble", "semblent"})
"""Verbs that tell what something is like: the "ni" of "ne sont ni rouges ni gonflées" denies it."""
_AFTER_IMPERSONAL = frozenset({"y", "faut", "fallait", "faudrait", "fait", "parait", "semble", "suffit"})
_MOST_TAKEN_UP = 3
_WHAT_PEOPLE_DO = frozenset(
    ["joue", "jouait", "boit", "buvait", "mange", "mangeait", "dort", "dormait", "court", "courait", "rit", "sourit",
     "pleure", "parle", "marche", "tousse", "vomit", "respire", "tete", "refuse", "veut", "dit"]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sentence:
    """The tokens of one sentence, the keys each may stand for, and its words with typing errors in cues mended.

    `first` is the index in the document of the first token. `stands_for` gives the keys of the nouns that a pronoun
    may take up, by index in the sentence ("mon genou a doublé. Il est rouge").
    """

    first: int
    tokens: tuple[Token, ...]
    keys: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    stands_for: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nouns:
    """What pronouns may stand for: the `genders` ("m", "f") of things told of, and the names of `relatives`."""

    genders: Mapping[str, str]
    relatives: Container[str]


def split_sentences(
    document: Document, lexicon: Lexicon, cue_words: Container[str], nouns: Nouns
) -> tuple[Sentence, ...]:
    """The sentences of a document, with every word read through the lexicon."""
    sentences: list[Sentence] = []
    before: Sequence[str] = ()
    for _, group in groupby(enumerate(document.tokens), key=lambda item: item[1].sentence):
        numbered = [(index, token) for index, token in group if token.word not in SENTENCE_ENDS]
        if numbered:
            tokens = tuple(token for _, token in numbered)
            keys = tuple(lexicon.readings(token.word) for token in tokens)
            words = tuple(_mended(token.word, lexicon, cue_words) for token in tokens)
            sentences.append(Sentence(numbered[0][0], tokens, keys, words, _taken_up(words, before, lexicon, nouns)))
            before = words
    return tuple(sentences)


def _taken_up(
    words: Sequence[str], before: Sequence[str], lexicon: Lexicon, nouns: Nouns
) -> dict[int, tuple[str, ...]]:
    """The nouns that each il and elle of a sentence may stand for: those told of just before, unless it is a person.

    What people do ("elle joue et boit") takes up no thing.
    """
    found: dict[int, tuple[str, ...]] = {}
    told = [word for word in before if word in nouns.genders]
    for index, word in enumerate(words):
        if word in nouns.relatives:
            break
        if word in nouns.genders:
            told.append(word)
        follows = words[index + 1] if index + 1 < len(words) else ""
        gender = None if follows in _AFTER_IMPERSONAL or follows in _WHAT_PEOPLE_DO else _GENDERS.get(word)
        if gender and (meant := [noun for noun in told if nouns.genders[noun] == gender]):
            found[index] = tuple(dict.fromkeys(lexicon.key(noun) for noun in meant[-_MOST_TAKEN_UP:]))
    return found


def _mended(word: str, lexicon: Lexicon, cue_words: Container[str]) -> str:
    """The word, or the cue that it spells with one error; one with its stem is too far ("ancben": "anciennement")."""
    near = (form for form in lexicon.corrections(word) if within_one_edit(word, form) or sound(word) == sound(form))
    return next((form for form in near if form in cue_words), word)
