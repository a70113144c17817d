"""Whom a mention is about: the patient, or somebody else ("ma mère est diabétique, et moi j'ai soif").

The patient is the writer, unless the message is about a relative ("mon mari est tout jaune"). Each mention takes
the nearest person to its left in the sentence; a mention with none is the patient's. Not covered: several
patients in one message (the red-flag rules look at each person apart, see `diagnose.py`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.core.cues import Cue, CueKind, Cues
from backend.core.entities import Mention, Patient
from backend.core.lexicon import within_one_edit
from backend.core.measures import Measure, Unit
from backend.core.sentences import Sentence

WRITER = "je"
FAMILY = "famille"
_NOT_SAID = ""
_SEX_OF = {"il": "M", "elle": "F", "ils": "M", "elles": "F"}
_THIRD_PERSON = frozenset(_SEX_OF)
_IMPERSONAL_AFTER = frozenset({"y", "faut", "fait", "fallait", "parait", "semble", "m", "me"})
_CALLED_SO = frozenset({"maman", "papa", "mamie", "mami", "papi", "papy"})
_CHILD_AGE = 15.0
_SHORTEST_MISSPELT, _SHORTEST_SAYING = 5, 6


@dataclass(frozen=True, slots=True)
class People:
    """Who each mention is about (by index of the mention; "" is not said), and who the patient is ("" the writer).

    `speaks` is true when a relative's complaints are told in the first person ("je réponds pour ma fille : j'ai ...").
    """

    of_mention: tuple[str, ...]
    patient: str
    speaks: bool = False

    def is_patient(self, index: int) -> bool:
        """True when the mention is about the patient."""
        person = self.of_mention[index]
        return person in (_NOT_SAID, self.patient or WRITER) or (self.speaks and person == WRITER)


@dataclass(frozen=True, slots=True)
class _Marker:
    start: int
    person: str
    owns: bool
    """Whether mentions to the right belong to this person (not so in "ma mère dit que", "j'ai vu des taches")."""


def find_people(
    sentences: Sequence[Sentence],
    found_cues: Sequence[Mapping[CueKind, list[Cue]]],
    mentions: Sequence[Mention],
    troubles: frozenset[str],
    measures: Sequence[Measure],
    patient: Patient,
    cues: Cues,
) -> People:
    """Attribute each mention; only `troubles` (symptoms, signs, what happened) make a relative the patient."""
    of_mention = [_NOT_SAID] * len(mentions)
    seen: list[str] = []
    announced = spoken_of = _NOT_SAID
    for sentence, found in zip(sentences, found_cues, strict=True):
        markers = _markers(sentence, found, spoken_of, cues)
        spoken_of = next(
            (_NOT_SAID if m.person == WRITER else m.person for m in reversed(markers) if m.owns), spoken_of
        )
        seen.extend(marker.person for marker in markers if marker.owns and marker.person != WRITER)
        announced = announced or _announced(found, markers)
        for index, mention in enumerate(mentions):
            if sentence.first <= mention.tokens[0] < sentence.first + len(sentence.tokens):
                of_mention[index] = _owner(mention, sentence, markers, found)
    told = {
        (person, mention.tokens[0])  # one word misspelt may be read as several findings
        for person, mention in zip(of_mention, mentions, strict=True)
        if person not in (_NOT_SAID, FAMILY) and mention.finding in troubles and not mention.remote
    }
    counts = Counter(person for person, _ in told)
    aged = _aged_relatives(sentences, found_cues, measures, cues)
    who = announced or _patient(counts, seen, aged, patient, cues)
    if who == WRITER:
        return People(tuple(of_mention), "")
    return People(tuple(of_mention), who, speaks=counts[who] == 0)


def _markers(sentence: Sentence, found: Mapping[CueKind, list[Cue]], spoken_of: str, cues: Cues) -> list[_Marker]:
    """Every person named in a sentence, in order; il and elle stand for the relative named before them.

    `spoken_of` is the relative that the sentences before end with: the one meant when none is named before.
    """
    words = sentence.words
    relatives = {cue.start: cue for cue in _relatives(sentence, found, cues)}
    markers: list[_Marker] = []
    index = 0
    while index < len(words):
        if index in relatives:
            cue = relatives[index]
            after = words[cue.end : cue.end + 5]
            pairs = (f"{word} {then}" for word, then in itertools.pairwise(after))
            saying = any(_says(word, cues) for word in after[:4]) or any(pair in cues.saying for pair in pairs)
            if "comme" not in words[max(0, index - 2) : index]:  # "un caillou comme son frère" is not about the brother
                markers.append(_Marker(index, cue.text, owns=not saying))
            index = cue.end
            continue
        word = words[index]
        follows = words[index + 1] if index + 1 < len(words) else ""
        if word in cues.first_person and index + 1 not in relatives and index + 2 not in relatives:
            watches = cues.observing.intersection(words[index + 1 : index + 3])
            markers.append(_Marker(index, WRITER, owns=not watches))
        elif word in _THIRD_PERSON and follows not in _IMPERSONAL_AFTER and "fallu" not in words[index + 1 : index + 4]:
            earlier = [marker.person for marker in markers if marker.person != WRITER]
            if not markers and cues.relatives.get(spoken_of, {}).get("sex") in (None, _SEX_OF[word]):
                earlier = [spoken_of]
            if earlier and earlier[-1]:
                markers.append(_Marker(index, earlier[-1], owns=True))
        index += 1
    return markers


def _says(word: str, cues: Cues) -> bool:
    """Whether a word is a verb of saying, a misspelt one ("réspond") included."""
    if word in cues.saying:
        return True
    long = len(word) >= _SHORTEST_MISSPELT
    return long and any(len(said) >= _SHORTEST_SAYING and within_one_edit(word, said) for said in cues.saying)


def _relatives(sentence: Sentence, found: Mapping[CueKind, list[Cue]], cues: Cues) -> list[Cue]:
    kept: list[Cue] = []
    for cue in found[CueKind.RELATIVE]:
        before = sentence.words[max(0, cue.start - 3) : cue.start]
        wanted = cues.strict_possessives if cue.text in cues.needs_possessive else cues.possessives
        owned = any(word in wanted for word in before)
        called = cue.text in _CALLED_SO and before[-1:] != ("de",)  # not in "les médicaments de mamie"
        if (owned or called) and not any(cue.overlaps(other) for other in kept):
            kept.append(cue)
    return kept


def _announced(found: Mapping[CueKind, list[Cue]], markers: Sequence[_Marker]) -> str:
    """The relative of "c'est pour ma fille", "au sujet de mon père"; "je" of "je vous écris pour moi"."""
    for cue in found[CueKind.ABOUT_RELATIVE]:
        for marker in markers:
            if cue.end <= marker.start <= cue.end + 3:
                return marker.person
    return _NOT_SAID


def _owner(mention: Mention, sentence: Sentence, markers: Sequence[_Marker], found: Mapping[CueKind, list[Cue]]) -> str:
    first, last = (mention.tokens[0] - sentence.first, mention.tokens[-1] - sentence.first)
    if any(abs(cue.start - last) <= 8 and cue.start >= first for cue in found[CueKind.FAMILY]):
        return FAMILY
    if any(cue.end <= first and first - cue.end <= 6 for cue in found[CueKind.FAMILY]):
        return FAMILY
    objects = {token - sentence.first for token in mention.tokens[1:]}  # the baby of "j'allaite mon bébé"
    owners = [marker for marker in markers if marker.start <= last and marker.owns and marker.start not in objects]
    if owners:
        return owners[-1].person
    for marker in markers:
        if marker.owns and marker.start > last and marker.person != WRITER:
            between = sentence.words[last + 1 : marker.start]
            if 0 < len(between) <= 4 and between[0] in ("pour", "chez"):
                return marker.person
    return _NOT_SAID


def _aged_relatives(
    sentences: Sequence[Sentence],
    found_cues: Sequence[Mapping[CueKind, list[Cue]]],
    measures: Sequence[Measure],
    cues: Cues,
) -> list[str]:
    """Relatives named with their age: "ma fille de 3 ans", "mon père, 72 ans"."""
    aged = []
    for sentence, found in zip(sentences, found_cues, strict=True):
        for cue in _relatives(sentence, found, cues):
            end = sentence.first + cue.end
            if any(m.unit is Unit.AGE_YEARS and 0 <= m.start - end <= 3 for m in measures):
                aged.append(cue.text)
    return aged


def _patient(counts: Counter[str], seen: Sequence[str], aged: Sequence[str], patient: Patient, cues: Cues) -> str:
    """The person most mentions are about; a child's age in the fields, or an age in the text, settles a tie."""
    relatives = [person for person in dict.fromkeys(seen) if person != FAMILY]
    if patient.age is not None and patient.age < _CHILD_AGE:
        children = [person for person in relatives if cues.relatives.get(person, {}).get("child")]
        if children:
            return max(children, key=lambda person: (counts[person], person))
    named = [person for person in relatives if counts[person] or person in aged]
    if not named:
        return WRITER

    def weight(person: str) -> tuple[int, bool, bool, str]:
        """The order in which persons are named decides nothing."""
        return counts[person], person in aged, bool(cues.relatives.get(person, {}).get("child")), person

    best = max(named, key=weight)
    if counts[best] > counts[WRITER] or (counts[best] == counts[WRITER] and best in aged):
        return best
    return WRITER


def traits(
    sentences: Sequence[Sentence],
    found_cues: Sequence[Mapping[CueKind, list[Cue]]],
    measures: Sequence[Measure],
    who: str,
    cues: Cues,
) -> Patient:
    """Age (years), sex and pregnancy that the text itself gives of the patient `who` ("" the writer)."""
    words = [word for sentence in sentences for word in sentence.words]
    sex = cues.relatives.get(who, {}).get("sex") if who else _own_sex(words, cues)
    ages = [measure for measure in measures if measure.unit is Unit.AGE_YEARS and measure.value <= 120]
    age = None
    if who:
        ends = [
            sentence.first + cue.end
            for sentence, found in zip(sentences, found_cues, strict=True)
            for cue in found[CueKind.RELATIVE]
            if cue.text == who
        ]
        near = [measure for measure in ages for end in ends if 0 <= measure.start - end <= 3]
        usual = cues.relatives.get(who, {}).get("age")
        age = _most_fragile(near) if near else (ages[0].value if len(ages) == 1 else usual)
    elif ages:
        own = [m for m in ages if not _follows_relative(m, sentences, found_cues, cues)]
        age = _most_fragile(own) if own else None
    pregnant = _pregnant(sentences, measures, cues)
    return Patient(age=age, sex="F" if pregnant and not sex else sex, pregnant=pregnant)


def _most_fragile(ages: Sequence[Measure]) -> float:
    """Of several ages given, the one farthest from 30: which child is meant must not depend on the order."""
    return max((age.value for age in ages), key=lambda years: abs(years - 30.0))


def _follows_relative(
    measure: Measure, sentences: Sequence[Sentence], found_cues: Sequence[Mapping[CueKind, list[Cue]]], cues: Cues
) -> bool:
    return any(
        0 <= measure.start - (sentence.first + cue.end) <= 4 and measure.start < sentence.first + len(sentence.tokens)
        for sentence, found in zip(sentences, found_cues, strict=True)
        for cue in _relatives(sentence, found, cues)
    )


def _own_sex(words: Sequence[str], cues: Cues) -> str | None:
    text = f" {' '.join(words)} "
    said = (sex for sex, phrases in cues.own_sex.items() if any(f" {phrase} " in text for phrase in phrases))
    opening = {"homme": "M", "femme": "F"}.get(words[0]) if words else None  # "Homme de 45 ans", "femme, 62 ans"
    return next(said, opening)


def _pregnant(sentences: Sequence[Sentence], measures: Sequence[Measure], cues: Cues) -> bool | None:
    if any(measure.unit is Unit.PREGNANCY_WEEKS for measure in measures):
        return True
    for words in (sentence.words for sentence in sentences):
        for index, word in enumerate(words):
            if word == "enceinte":
                return None if cues.not_pregnant_before.intersection(words[max(0, index - 4) : index]) else True
    return None
