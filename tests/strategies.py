"""What property tests draw: messages built from the knowledge base's own wordings, and harmless changes to them."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from backend.core.entities import Kind
from backend.core.knowledge import Knowledge, load
from backend.core.lexicon import spoken
from backend.core.text import plain

_SENTENCES = Path(__file__).parent / "sentences"
_PRONOUN = re.compile(r"\b(il|elle|ils|elles) (?!y |faut |fait |parait |semble )")
_FRAMES = ("J'ai {x}.", "{x}.", "Depuis hier {x}.", "Il y a aussi {x}.", "Je n'ai pas de {x}.", "J'ai peut-être {x}.")
_SMS = {
    "j'ai": "g", "J'ai": "G", "c'est": "c", "pas": "pa", "que": "ke", "qui": "ki", "avec": "ac", "dans": "ds",
    "depuis": "dpuis", "mais": "mé", "quand": "kan", "toujours": "tjrs", "beaucoup": "bcp", "très": "tre",
}  # fmt: skip


@cache
def base() -> Knowledge:
    """The real knowledge base."""
    return load()


@cache
def wordings() -> tuple[str, ...]:
    """Every plain wording of a symptom, sign or course."""
    kinds = (Kind.SYMPTOM, Kind.SIGN, Kind.COURSE)
    found = (f.lay for f in base().findings.values() if f.kind in kinds)
    return tuple(plain for lay in found for typed in lay for plain in spoken(typed))


@cache
def alarming() -> tuple[str, ...]:
    """The positive sentences of every red-flag rule."""
    texts = (case.text for rule in base().red_flags for case in rule.positive)
    return tuple(text if text[-1] in ".!?" else f"{text}." for text in texts)


def noise() -> tuple[str, ...]:
    """Sentences that say nothing of the patient."""
    lines = (_SENTENCES / "noise.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line.strip() and not line.startswith("#"))


def statements() -> st.SearchStrategy[str]:
    """A framed wording, or an emergency sentence."""
    framed = st.builds(lambda frame, x: frame.format(x=x), st.sampled_from(_FRAMES), st.sampled_from(wordings()))
    return st.one_of(framed, st.sampled_from(alarming()))


def stands_alone(text: str) -> bool:
    """Whether no sentence of `text` speaks of an "il" or "elle" whom only a sentence before it could name."""
    for sentence in re.split(r"[.!?]", plain(text)):
        pronoun = _PRONOUN.search(sentence)
        if pronoun and not any(f" {name} " in f" {sentence[: pronoun.start()]} " for name in base().cues.relatives):
            return False
    return True


def messages(most: int = 4) -> st.SearchStrategy[str]:
    """One to `most` sentences."""
    return st.lists(statements(), min_size=1, max_size=most).map(" ".join)


def without_accents(text: str) -> str:
    """The text as typed on a keyboard without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def as_sms(text: str) -> str:
    """Common SMS forms instead of their words."""
    return " ".join(_SMS.get(word, word) for word in text.split(" "))


def typos(text: str, seed: int, is_word: set[str]) -> str:
    """At most one edit in each word of six letters or more, when the result is not another word."""
    rng = random.Random(seed)
    return " ".join(_typo(word, rng, is_word) for word in text.split(" "))


def _typo(word: str, rng: random.Random, is_word: set[str]) -> str:
    core = word.strip(string.punctuation)
    if len(core) < 6 or not core.isalpha() or rng.random() < 0.3:
        return word
    place = rng.randrange(len(core))
    letter = rng.choice(string.ascii_lowercase)
    edited = rng.choice(
        (core[:place] + core[place + 1 :], core[:place] + letter + core[place:],
         core[:place] + letter + core[place + 1 :],
         core[:place] + core[place + 1 : place + 2] + core[place : place + 1] + core[place + 2 :])
    )  # fmt: skip
    folded = plain(edited)
    if any(letter * 4 in folded for letter in string.ascii_lowercase):
        return word  # reads as a stretched word
    another = folded != plain(core) and (folded in is_word or base().lexicon.key(folded) in base().lexicon.vocabulary)
    return word if another else word.replace(core, edited)
