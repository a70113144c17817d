"""Text -> mentions: where the message states a finding, before asking whether it is affirmed or denied.

Each sentence is scanned once: the keys it holds select the wordings that could be there, and a wording is found
when all its keys stand close together in one clause. Longer wordings win over shorter ones inside them, except
that a time course ("brutal") and a symptom live beside each other. Assertion is the business of `assertion.py`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.core.entities import NAMED, Mention
from backend.core.lexicon import NEGATORS, Lexicon, Wording
from backend.core.sentences import COPULAS, Sentence

_BREAKERS = frozenset({"mais", "sauf", "hormis", "cependant", "pourtant", "toutefois"})
_TIME_UNITS = frozenset({"an", "ans", "mois", "semaine", "semaines", "jour", "jours", "heure", "heures", "h", "fois"})
_APART = frozenset({"sans", "ni"})
_COORDINATORS = frozenset({"et", "ou", "ni"})
_JOINTS = frozenset({"et", "ou", "ni", ","})
_SUBJECTS = frozenset({"j", "je", "il", "elle", "on", "ca", "c", "ils", "elles"})
_TAKES_UP = frozenset({"qui", "elle", "il", "elles", "ils", "ca"})  # "ma jambe a été écrasée, elle est dure"
_SIDES = frozenset({"gauche", "gauches", "droit", "droits", "droite", "droites"})
_MOST_LIGHT_WORDS = 6
_BESIDE = 3
_INTENSIFIERS = frozenset({"tres", "si", "plus", "aussi", "trop", "vraiment", "assez", "bien", "super", "hyper"})
_MOST_LIGHT_WORDS_IN_PHRASE = 2
_LONGEST_LIST = 24
_INFINITIVES = ("er", "ir", "re")


class Kin(Protocol):
    """What the matcher needs to know of findings to let a longer wording swallow a shorter one."""

    def relatives(self, finding: str) -> Container[str]:
        """Parents and children of a finding, at any distance."""
        ...

    def is_finding(self, target: str) -> bool:
        """Whether a wording states a finding, and not only a text pattern of a rule."""
        ...

    def importance_of(self, finding: str) -> int:
        """How bad it would be to leave a finding unexplained, 1 to 5."""
        ...

    def is_course(self, finding: str) -> bool:
        """Whether it is a time course or a trigger, which lives beside a symptom ("douleur brutale")."""
        ...

    def is_about_others(self, finding: str) -> bool:
        """Whether it lies in somebody else's illness, which is theirs too ("ma mère est asthmatique")."""
        ...

    def is_vague(self, finding: str) -> bool:
        """Whether it names no place and no kind ("douleur", "saignement")."""
        ...


@dataclass(frozen=True, slots=True)
class _Match:
    wording: Wording
    tokens: tuple[int, ...]
    missing_words: int
    shared_words: int
    coordinated: bool
    guesses: Mapping[int, str]

    @property
    def spread(self) -> int:
        return max(self.tokens) - min(self.tokens)


@dataclass(frozen=True, slots=True)
class Lists:
    """What makes a list of places: `heads` (keys: "mal", "boutons") reach over `sites` (words: "tête", "gauche").

    After one of `adverb_verbs` (words: "fonctionne", "va") "mal" is no pain. `fillers` (words: "sourde", "parfois") may
    stand between a complaint and its place.
    """

    heads: Container[str]
    sites: Container[str]
    adverb_verbs: Container[str] = frozenset()
    fillers: Container[str] = frozenset()

    def sites_include(self, words: Sequence[str]) -> bool:
        """Whether one of the words is a place of the body."""
        return any(word in self.sites for word in words)


def find_mentions(sentences: Sequence[Sentence], lexicon: Lexicon, lists: Lists, kin: Kin) -> tuple[Mention, ...]:
    """Every wording found, in reading order; state, person and remoteness are not decided yet.

    Heads of lists reach over places ("mal au dos, au ventre et à la tête"), an adjective over "et" ("rouge et gonflé").
    `kin` says which findings a longer wording swallows; text patterns of rules are all kept. Cost: about 3 ms for 500
    characters and 19,000 wordings.
    """
    found: list[Mention] = []
    for sentence in sentences:
        matches = _matches(sentence, lexicon, lists)
        findings = [match for match in matches if kin.is_finding(match.wording.target)]
        patterns = [match for match in matches if not kin.is_finding(match.wording.target)]
        found.extend(_to_mention(sentence, match) for match in (*_choose(findings, kin), *patterns))
    return tuple(sorted(found, key=lambda mention: (mention.start, mention.end, mention.finding)))


def _matches(sentence: Sentence, lexicon: Lexicon, lists: Lists) -> list[_Match]:
    """Every wording of the sentence, in every reading of its misspelt words; light words only serve phrases."""
    telling, every = _places(sentence, lexicon)
    matches = []
    for key in (*every, *(key for key in telling if key not in every)):
        for wording in lexicon.by_anchor.get(key, ()):
            places = every if wording.phrase else telling
            if any(other not in places for other in wording.keys):
                continue
            for anchor in places[key]:
                if len(wording.keys) == 1 and key in sentence.stands_for.get(anchor, ()):
                    continue  # "pas de fièvre, elle joue": the pronoun alone says nothing
                if match := _match(wording, key, anchor, places, sentence, lexicon, lists):
                    matches.append(match)
    return matches


def _places(sentence: Sentence, lexicon: Lexicon) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Where each key stands: in words that tell something (and pronouns that take them up), and in every word."""
    telling: dict[str, list[int]] = defaultdict(list)
    every: dict[str, list[int]] = defaultdict(list)
    for index, (token, keys) in enumerate(zip(sentence.tokens, sentence.keys, strict=True)):
        if token.is_word or token.word.isdigit():
            for key in keys:
                every[key].append(index)
                if token.word not in lexicon.light:
                    telling[key].append(index)
            for key in sentence.stands_for.get(index, ()):
                telling[key].append(index)
    return telling, every


def _match(
    wording: Wording, key: str, anchor: int, places: Mapping[str, Sequence[int]], sentence: Sentence, lexicon: Lexicon,
    lists: Lists,
) -> _Match | None:  # fmt: skip
    if wording.ordered:
        arrangements = _arrange_in_order(wording, wording.keys.index(key), anchor, places)
    else:
        arrangements = _arrangements(wording, key, anchor, places)
    for tokens in arrangements:
        if wording.needed and not _has_needed(wording, tokens, sentence):
            continue
        if any(_is_adverb(index, tokens, sentence, lists) for index in tokens):
            continue
        if _stands_close(wording, tokens, sentence, lexicon, lists):
            words = {token.word for token in sentence.tokens[tokens[0] : tokens[-1] + 1]}
            return _Match(
                wording, tokens, len(wording.details - words), sum(word in words for word in wording.words),
                _is_coordinated(tokens, sentence, lists), _guesses(wording, tokens, sentence, lexicon),
            )  # fmt: skip
    return None


def _is_coordinated(tokens: tuple[int, ...], sentence: Sentence, lists: Lists) -> bool:
    """Whether a match reaches over a joint; the head of a list of places may: "mal à la gorge et sous la mâchoire"."""
    if len(tokens) > 2 and any(key in lists.heads for key in sentence.keys[tokens[0]]):
        tokens = tokens[1:]
    return any(token.word in _JOINTS for token in sentence.tokens[tokens[0] : tokens[-1] + 1])


def _is_adverb(index: int, tokens: tuple[int, ...], sentence: Sentence, lists: Lists) -> bool:
    """Whether the "mal" at `index` is no pain: "fonctionne (très) mal", "du mal à plier", "pas mal de gaz"."""
    if sentence.tokens[index].word != "mal":
        return False
    around = [token.word for token in sentence.tokens[max(0, index - 1) : index + 3]]
    if around[0] == "pas" and around[2:3] in (["de"], ["d"]) and not lists.sites_include(around[3:]):
        return True
    if (done := _infinitive(index, sentence)) is not None and done not in tokens:
        return True
    verb = index - 2 if index > 1 and sentence.tokens[index - 1].word in _INTENSIFIERS else index - 1
    return verb >= 0 and verb not in tokens and sentence.tokens[verb].word in lists.adverb_verbs


def _infinitive(index: int, sentence: Sentence) -> int | None:
    """Where the verb of "du mal à (me) plier" stands; None in "mal à la tête" and "mal à en pleurer"."""
    words = [token.word for token in sentence.tokens]
    if index < 1 or words[index - 1] not in ("du", "de") or words[index + 1 : index + 2] not in (["a"], ["pour"]):
        return None
    verb = index + 2
    while verb < len(words) and words[verb] in ("me", "m", "se", "s", "y", "bien", "en"):
        verb += 1
    return verb if verb < len(words) and words[verb].endswith(_INFINITIVES) else None


def _has_needed(wording: Wording, tokens: tuple[int, ...], sentence: Sentence) -> bool:
    """Whether the quantifiers of the wording stand in or beside the matched words."""
    around = sentence.tokens[max(0, tokens[0] - _BESIDE) : tokens[-1] + 1 + _BESIDE]
    return wording.needed.issubset(token.word for token in around)


def _guesses(wording: Wording, tokens: tuple[int, ...], sentence: Sentence, lexicon: Lexicon) -> dict[int, str]:
    """For each misspelt word with several readings, the one that this wording takes."""
    several = (index for index in tokens if len(sentence.keys[index]) > 1)
    ambiguous = [index for index in several if lexicon.corrections(sentence.tokens[index].word)]
    return {index: next(key for key in sentence.keys[index] if key in wording.keys) for index in ambiguous}


def _arrangements(
    wording: Wording, key: str, anchor: int, places: Mapping[str, Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """Ways to place every key around the anchor, each at its nearest place on either side, tightest first."""
    choices: list[list[int]] = []
    for other in wording.keys:
        if other == key:
            continue
        before = [place for place in places[other] if place < anchor][-1:]
        after = [place for place in places[other] if place > anchor][:1]
        choices.append(before + after)
    found = {tuple(sorted({anchor, *choice})) for choice in itertools.product(*choices)}
    whole = (tokens for tokens in found if len(tokens) == len(wording.keys))
    yield from sorted(whole, key=lambda tokens: (tokens[-1] - tokens[0], tokens))


def _arrange_in_order(
    wording: Wording, position: int, anchor: int, places: Mapping[str, Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """The one way to place the keys in their order, each as near as can be to its neighbour, if there is one."""
    tokens = [anchor]
    for other in reversed(wording.keys[:position]):
        before = [place for place in places[other] if place < tokens[0]]
        if not before:
            return
        tokens.insert(0, before[-1])
    for other in wording.keys[position + 1 :]:
        after = [place for place in places[other] if place > tokens[-1]]
        if not after:
            return
        tokens.append(after[0])
    yield tuple(tokens)


def _stands_close(
    wording: Wording, tokens: tuple[int, ...], sentence: Sentence, lexicon: Lexicon, lists: Lists
) -> bool:
    own = set(tokens)
    gap = [index for index in range(tokens[0], tokens[-1]) if index not in own]
    if wording.phrase:
        most = _MOST_LIGHT_WORDS_IN_PHRASE * (len(tokens) - 1)
        return len(gap) <= most and all(sentence.tokens[i].word in lexicon.light for i in gap)
    if _are_two_places(tokens, sentence, lists):
        return False
    if _is_list(tokens, gap, sentence, lexicon, lists):
        return True
    several = len(wording.keys) > 2 and not wording.ordered
    foreign, light = 0, 0
    for index in gap:
        word = sentence.tokens[index].word
        follows = sentence.tokens[index + 1].word
        parts = word == "," and not (several and follows in _TAKES_UP)
        apart = word in _APART and not wording.ordered and sentence.tokens[index - 1].word not in COPULAS
        if word in _BREAKERS or parts or apart:
            return False
        if word in _COORDINATORS:
            then = next(i for i in range(index + 1, tokens[-1] + 1) if i in own or _tells(i, sentence, lexicon))
            reaches = several or then in own or any(key in lists.heads for key in sentence.keys[tokens[0]])
            if follows in _SUBJECTS or not reaches:
                return False
        elif _is_light(word, lexicon, lists) or (word in _SIDES and sentence.tokens[index - 1].word in lists.sites):
            light += 1
        else:
            foreign += 1
    return foreign <= (2 if several else 1) and light <= _MOST_LIGHT_WORDS


def _is_light(word: str, lexicon: Lexicon, lists: Lists) -> bool:
    light = word in lexicon.light or word in NEGATORS or word in _TIME_UNITS or not word[0].isalpha()
    return light or word in lists.fillers


def _tells(index: int, sentence: Sentence, lexicon: Lexicon) -> bool:
    return sentence.tokens[index].word not in lexicon.light


def _are_two_places(tokens: tuple[int, ...], sentence: Sentence, lists: Lists) -> bool:
    """As the "bas" and "ventre" of "mal au bas du dos et au ventre", or "le sein et le creux de l'estomac"."""
    places = [index for index in tokens if not any(key in lists.heads for key in sentence.keys[index])]
    if len(places) < 2 or any(sentence.tokens[index].word not in lists.sites for index in places):
        return False
    return any(sentence.tokens[index].word in ("et", ",", "ni") for index in range(places[0], places[-1]))


def _is_list(tokens: tuple[int, ...], gap: Sequence[int], sentence: Sentence, lexicon: Lexicon, lists: Lists) -> bool:
    """Whether a head and its place stand at the two ends of a list of places, commas included."""
    heads = [index for index in tokens if any(key in lists.heads for key in sentence.keys[index])]
    if len(gap) > _LONGEST_LIST or len(heads) != 1 or heads[0] not in (tokens[0], tokens[-1]):
        return False
    if any(sentence.tokens[index].word not in lists.sites for index in tokens if index not in heads):
        return False
    for index in gap:
        word = sentence.tokens[index].word
        if word in _SUBJECTS or not (
            word in lexicon.light or word in lists.sites or word in lists.fillers or word in _JOINTS
        ):
            return False
    return True


def _choose(matches: list[_Match], kin: Kin) -> list[_Match]:
    """The matches that no better match swallows.

    Better: more keys, tighter, a sign before the disease that has the same name ("saignement de nez"), fewer details
    missing ("mal d'un côté de la tête" asks for the side), more of the typed words, the more important finding.
    """
    matches.sort(
        key=lambda m: (
            kin.is_vague(m.wording.target), -len(m.tokens), m.spread, m.wording.target.startswith(NAMED),
            m.missing_words, -m.shared_words,
            -kin.importance_of(m.wording.target), m.wording.target, m.tokens,
        )
    )  # fmt: skip
    chosen: list[_Match] = []
    for match in matches:
        tokens = set(match.tokens)
        if not any(_swallows(other, match, tokens & set(other.tokens), kin) for other in chosen):
            chosen.append(match)
    return chosen


def _swallows(bigger: _Match, smaller: _Match, shared: set[int], kin: Kin) -> bool:
    """Whether `smaller` says nothing more: the same finding, or inside a wording of its own family or of one piece."""
    if not shared or any(smaller.guesses.get(index, key) != key for index, key in bigger.guesses.items()):
        return False  # apart, or two readings of one misspelt word
    one, other = bigger.wording.target, smaller.wording.target
    if one == other or kin.is_vague(other) or shared == set(bigger.tokens):
        return True
    if len(shared) < len(smaller.tokens):
        return False
    if one in kin.relatives(other):
        return True
    return not (bigger.coordinated or kin.is_course(one) or kin.is_course(other) or kin.is_about_others(one))


def _to_mention(sentence: Sentence, match: _Match) -> Mention:
    first, last = match.tokens[0], match.tokens[-1]
    return Mention(
        finding=match.wording.target,
        start=sentence.tokens[first].start,
        end=sentence.tokens[last].end,
        tokens=tuple(sentence.first + index for index in match.tokens),
        guesses=tuple((sentence.first + index, key) for index, key in match.guesses.items()),
    )
