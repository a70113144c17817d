"""What a reply may not contain, sentence by sentence.

The guard knows the facts of the assessment. It refuses a sentence that names another disease or a drug that the facts
do not name, gives a dose, states a diagnosis ("vous avez ..."), promises a cure, tells to stop a treatment, or says
anything about delay or place of care that differs from the urgency. Sentences taken word for word from the facts
(advice, alarm signs) pass: they are linted with the knowledge base. When in doubt it refuses: the deterministic
wording takes over, and nothing is lost.

The word lists are data (`data/guard.json`). Measured on planted bad replies written apart: see `docs/log.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.inflection import stem
from backend.core.knowledge import DATA, Knowledge
from backend.core.phrases import WORD, Phrases
from backend.core.text import plain

_SENTENCE = re.compile(r"(?<=[.!?…])\s+")
_SINCE = re.compile(
    r" depuis (?:(?!si )\w+ ){1,4}?(?:jours?|semaines?|mois|ans?|annees?|heures?|matin|hier|nuit|soir|longtemps"
    r"|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche)(?= )"
)
_NUMBER_WORDS = frozenset(
    ["un", "une", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "dix", "douze", "quinze", "vingt", "trente",
     "cent", "mille", "demi", "quelques"]
)  # fmt: skip
_WEAK_UNITS = frozenset({"fois", "prise", "prises", "injection", "dose"})
_CAUSE, _SIGN = "causeconnue", "signeconnu"
_LONGEST_SENTENCE_WORDS = 60
_FRENCH = frozenset(
    ["le", "la", "les", "un", "une", "des", "du", "de", "d", "l", "et", "ou", "a", "au", "aux", "en", "dans", "pour",
     "par", "sur", "vous", "votre", "vos", "il", "elle", "ce", "cela", "c", "est", "si", "que", "qui", "ne", "pas"]
)  # fmt: skip
_LOSES_ITS_SENSE = re.compile(r"\w+(?:ités?|érez)\b")
_PROPER = re.compile(r"(?<=[\w,;] )[A-ZÀ-Ý][\w-]+|(?<=[ld]['’])[A-ZÀ-Ý][\w-]+")
_ONLY_IF = re.compile(r"(?<! meme)(?<! surtout) (?:si|s il|s ils|s elle|quand|lorsque|en cas d|en cas de|des que) ")
_AVOIDED = re.compile(r" evite[rz] ((?:\w+ ?){1,4})")
_YOU_ARE = re.compile(r" vous etes (\w+)")
_MOST_FOREIGN_WORDS = 3
_OTHER_SCRIPT = re.compile(r"[^\W\d_a-zA-ZªºÀ-ɏ]")
_LONGEST_RUN = 5
_EVERY_HOURS = re.compile(r" toutes les (?:\d+|deux|trois|quatre|cinq|six|huit|douze) ")
_FUTURE_ENDINGS = ("era", "ira", "dra", "tra", "vra", "ura", "ront", "erez", "irez", "drez", "trez", "vrez", "urez")
_CLAUSE = re.compile(
    r"[,;:()]|\b(?:et|mais|si|s['’]ils?|quand|lorsque|dès que|tant que|car|puis|avant|qui|doit|doivent|en attendant)\b"
    r"|\bd['’]ici\b",
    re.IGNORECASE,
)
_COMMA = re.compile(r"[,;:()]")
_OBJECT = re.compile(
    r" (?:chez (?:votre )?\w+ )?"
    r"(?:(?:avant tout|surtout|d abord|peut etre|plutot|donc|aussi|notamment|bien|en premier lieu) )?"
    r"(?:(?:un|une|des|du|de|d|la|le|les|l|a|au|aux) ){0,3}"
    r"(?:(?:possible|probable|eventuel|eventuelle|vrai|vraie|simple|debut de) )?(\w+)"
)
_NEAR_FUTURE = re.compile(r" (?:va|vont) (?:vous |se |s |bientot |vite )*\w+(?:er|ir|re) ")


class Refusal(StrEnum):
    """Why a sentence was refused."""

    MARKUP = "markup"
    DOSE = "dose"
    DRUG = "drug"
    PRESCRIPTION = "prescription"
    STOP_TREATMENT = "stop_treatment"
    DIAGNOSIS = "diagnosis"
    OTHER_CAUSE = "other_cause"
    PROMISE = "promise"
    URGENCY = "urgency"
    NUMBER = "number"
    NOT_FRENCH = "not_french"
    TOO_LONG = "too_long"
    OFF_FACTS = "off_facts"


class Guard:
    """The rules of `data/guard.json` with the disease names of one knowledge base. Frozen; safe between threads."""

    def __init__(self, data: Mapping[str, Any], disease_names: Iterable[str]) -> None:
        self._diseases = Phrases.of([*data["diseases"], *disease_names])
        self._disease_endings = tuple(data["disease_endings"])
        self._not_diseases = frozenset(data["not_diseases"])
        self._drugs = Phrases.of(data["drugs"])
        self._drug_endings = tuple(data["drug_endings"])
        self._dose_units = frozenset(data["dose_units"])
        self._posology = Phrases.of(data["posology"])
        self._assertive = Phrases.of(data["assertive"])
        self._hedges = Phrases.of(data["hedges"])
        self._certainties = Phrases.of(data["certainties"])
        self._stated_illness = Phrases.of(data["stated_illness"])
        self._not_promises = Phrases.of(data["not_promises"])
        self._absolutes = Phrases.of(data["absolutes"])
        self._allowed_futures = frozenset(data["allowed_futures"])
        self._useless_care = Phrases.of(data["useless_care"])
        self._promises = Phrases.of(data["promises"])
        self._care_denials = frozenset(plain(word) for word in data["care_denials"])
        waiting = "|".join(sorted(plain(word) for word in data["waiting"]))
        self._no_waiting = re.compile(
            rf" (?:ne|n) (?:\w+ ){{0,3}}?pas (?:a |de |d )?(?:{waiting})(?= )"
            rf"|(?: ne| n)? (?:{waiting}) (?:surtout )?pas(?= )"
        )
        self._evokes = Phrases.of(data["evokes"])
        self._neutral_nouns = frozenset(plain(word) for word in data["neutral_nouns"])
        self._stop = Phrases.of(data["stop_treatment"])
        self._prescribe = Phrases.of(data["prescribe"])
        self._calming = Phrases.of(data["calming"])
        self._home_care = Phrases.of(data["home_care"])
        self._care = {Urgency(level): Phrases.of(words) for level, words in data["care"].items()}
        self._doctor = Phrases.of(data["doctor"])
        self._delays = {Urgency(level): Phrases.of(words) for level, words in data["delays"].items()}
        self._not_delays = Phrases.of(data["not_delays"])
        self._conditions = Phrases.of(data["conditions"])
        self._markup = tuple(data["markup"])
        self._numbers_always = frozenset(data["numbers_always"])
        self._fine_states = frozenset(data["fine_states"])
        lists = (
            data["safe_words"],
            data["hedges"],
            data["doctor"],
            data["conditions"],
            data["not_delays"],
            *data["care"].values(),
        )
        self._safe_stems = frozenset(
            stem(word) for phrases in lists for p in phrases for word in WORD.findall(plain(p))
        )

    def refuse(self, sentence: str, facts: Facts) -> Refusal | None:
        """The first rule that `sentence` breaks, or None when it may be said. Cost: about 0.2 ms."""
        if any(mark in sentence.lower() for mark in self._markup):
            return Refusal.MARKUP
        words = WORD.findall(plain(sentence))
        text = f" {' '.join(words)} "
        if not words or _OTHER_SCRIPT.search(sentence):
            return Refusal.NOT_FRENCH
        if _is_quoted(text, facts):
            return None
        if len(words) > _LONGEST_SENTENCE_WORDS:
            return Refusal.TOO_LONG
        if len(words) >= 6 and not _FRENCH.intersection(words):
            return Refusal.NOT_FRENCH
        said = _replace_known(text, facts)
        allowed = _runs_of_words(facts.texts())
        accented = frozenset(plain(word) for word in _LOSES_ITS_SENSE.findall(sentence.lower()))
        if any(word not in allowed for name in _PROPER.findall(sentence) for word in WORD.findall(plain(name))):
            return Refusal.OTHER_CAUSE  # a proper noun that the facts do not hold: an eponym or a brand
        return (
            self._refuse_medicine(said, allowed)
            or self._refuse_claims(said, facts.who, allowed, accented)
            or self._refuse_promises(sentence, facts, accented)
            or self._refuse_numbers(said, facts)
            or (Refusal.OFF_FACTS if self._wanders(words, allowed) else None)
            or (
                Refusal.URGENCY
                if self._contradicts(said, facts.level)
                or self._denies_care(sentence, facts)
                or self._only_if(sentence, facts.level)
                else None
            )
        )

    def states_diagnosis(self, sentence: str, facts: Facts) -> bool:
        """Whether `sentence` tells the person what they have; naming a disease in an advice does not."""
        return self._states(_replace_known(f" {' '.join(WORD.findall(plain(sentence)))} ", facts), facts.who)

    def _refuse_medicine(self, said: str, allowed: frozenset[str]) -> Refusal | None:
        words = said.split()
        for word, follows in zip(words, [*words[1:], ""], strict=True):
            counted = word[0].isdigit() or word in _NUMBER_WORDS
            single = word in ("un", "une") and follows in _WEAK_UNITS  # "une prise de sang", "une fois"
            if counted and follows in self._dose_units and not single:
                return Refusal.DOSE
        if any(phrase not in allowed for phrase in self._posology.found(said)) or _EVERY_HOURS.search(said):
            return Refusal.DOSE
        if said in self._stop:
            return Refusal.STOP_TREATMENT
        if any(phrase not in allowed for phrase in self._drugs.found(said)):
            return Refusal.DRUG
        if any(len(w) > 6 and w.endswith(self._drug_endings) and w not in allowed for w in words):
            return Refusal.DRUG
        if said in self._prescribe:
            return Refusal.PRESCRIPTION
        return None

    def _refuse_claims(self, said: str, who: str, allowed: frozenset[str], accented: frozenset[str]) -> Refusal | None:
        """A disease must be one of the facts and be said with a hedge.

        `accented` are words that only look like diseases or futures once their accent is gone ("gravité", "gérez").
        """
        if self._names_disease(said, allowed | accented) or self._evokes_other(said, allowed):
            return Refusal.OTHER_CAUSE
        if self._states(said, who):
            return Refusal.DIAGNOSIS
        about_cause = _CAUSE in said or self._names_disease(said, accented)
        if about_cause and (said in self._certainties or said not in self._hedges):
            return Refusal.DIAGNOSIS
        return None

    def _refuse_promises(self, sentence: str, facts: Facts, accented: frozenset[str]) -> Refusal | None:
        """The outcome is never told, but under a condition in the same clause ("s'il devient mou")."""
        for clause in _new_clauses(_COMMA, sentence, facts):
            said = self._not_promises.without(_replace_known(clause, facts))
            if said in self._promises:
                return Refusal.PROMISE
            if said not in self._conditions and (said in self._absolutes or self._foretells(said, accented)):
                return Refusal.PROMISE
        return None

    def _states(self, said: str, who: str) -> bool:
        """Whether a disease follows "vous avez", "il s'agit de", "votre fils a" and the like."""
        if said.replace(" si vous etes ", " si ") in self._stated_illness:
            return True
        person = re.escape(" ".join(WORD.findall(plain(who))))
        of_person = re.compile(
            rf" (?:{person}|il|elle) (?:(?:a|fait|presente)(?= (?:un|une|la|le|l|des|du|{_CAUSE}) )|souffre(?= ))"
        )
        found = [*self._assertive.pattern.finditer(said), *(of_person.finditer(said) if who != "vous" else ())]
        if said not in self._conditions and any(w not in self._fine_states for w in _YOU_ARE.findall(said)):
            return True
        after = (f" {' '.join(said[match.end() :].split()[:5])} " for match in found)
        return any(_CAUSE in words or self._names_disease(words, frozenset()) for words in after)

    def _foretells(self, said: str, accented: frozenset[str]) -> bool:
        """Whether a clause says how things will turn out."""
        futures = (w for w in said.split() if len(w) > 4 and w.endswith(_FUTURE_ENDINGS))
        return any(word not in self._allowed_futures and word not in accented for word in futures) or bool(
            _NEAR_FUTURE.search(said)
        )

    def _names_disease(self, said: str, allowed: frozenset[str]) -> bool:
        if any(phrase not in allowed for phrase in self._diseases.found(said)):
            return True
        return any(
            len(word) >= 6 and word.endswith(self._disease_endings) and word not in self._not_diseases
            and word not in allowed and word not in (_CAUSE, _SIGN)
            for word in said.split()
        )  # fmt: skip

    def _evokes_other(self, said: str, allowed: frozenset[str]) -> bool:
        """Whether "peut évoquer un ..." and the like are followed by a noun that the facts do not hold."""
        for match in self._evokes.pattern.finditer(said):
            follows = _OBJECT.match(said, match.end())
            noun = follows.group(1) if follows else _CAUSE
            if noun not in allowed and noun not in self._neutral_nouns and noun not in (_CAUSE, _SIGN):
                return True
        return False

    def _denies_care(self, sentence: str, facts: Facts) -> bool:
        """Whether one clause holds both a place of care and a negation ("aucun médecin n'a besoin de le voir")."""
        if facts.level is Urgency.SELF_CARE:
            return False
        for clause in _new_clauses(_CLAUSE, sentence, facts):
            said = self._without_haste(clause)
            cared = said in self._doctor or any(said in phrases for phrases in self._care.values())
            if cared and (self._care_denials.intersection(said.split()) or self._avoids(said)):
                return True
        return False

    def _only_if(self, sentence: str, level: Urgency) -> bool:
        """Whether an emergency is made to depend on something ("appelez le 15 si la douleur augmente")."""
        if level.rank < Urgency.EMERGENCY_DEPARTMENT.rank:
            return False
        clauses = [f" {' '.join(WORD.findall(plain(clause)))} " for clause in _COMMA.split(sentence)]
        if _ONLY_IF.match(clauses[0]):
            clauses = [" ".join(clauses)]
        return any(clause in self._care[level] and _ONLY_IF.search(clause) for clause in clauses)

    def _avoids(self, said: str) -> bool:
        """Whether care is the object of "évitez"."""
        return any(
            said_after in self._doctor or any(said_after in phrases for phrases in self._care.values())
            for said_after in (f" {words} " for words in _AVOIDED.findall(said))
        )

    def _without_haste(self, said: str) -> str:
        """The text without what urges ("sans attendre", "ne restez pas à surveiller")."""
        return f" {' '.join(self._no_waiting.sub(' ', self._not_delays.without(said)).split())} "

    def _wanders(self, words: Sequence[str], allowed: frozenset[str]) -> bool:
        """Whether a sentence says more than the facts: too many telling words that neither they nor care talk hold."""
        known = self._safe_stems | {stem(word) for word in allowed}
        return sum(len(word) > 3 and stem(word) not in known for word in words) >= _MOST_FOREIGN_WORDS

    def _refuse_numbers(self, said: str, facts: Facts) -> Refusal | None:
        known = {number for text in facts.texts() for number in WORD.findall(plain(text)) if number[0].isdigit()}
        known |= self._numbers_always
        known |= {"24"} if facts.level is Urgency.DOCTOR_24_HOURS else set()
        known |= {"7"} if facts.level is Urgency.DOCTOR_7_DAYS else set()
        return Refusal.NUMBER if any(w[0].isdigit() and w not in known for w in said.split()) else None

    def _contradicts(self, said: str, level: Urgency) -> bool:
        """Whether a sentence speaks of a delay or a place of care that is not the one decided."""
        conditional = said in self._conditions or said.startswith(" avec ")
        said = f" {' '.join(_SINCE.sub(' ', self._without_haste(said)).split())} "
        urgent = level.rank >= Urgency.EMERGENCY_DEPARTMENT.rank
        cares = {care for care, phrases in self._care.items() if said in phrases}
        doctor = said in self._doctor
        if level is not Urgency.SELF_CARE and (
            said in self._calming or ((cares or doctor) and said in self._useless_care)
        ):
            return True
        if any(said in phrases and delay.rank < level.rank for delay, phrases in self._delays.items()):
            return True
        if said in self._home_care and (
            urgent or (level is Urgency.DOCTOR_24_HOURS and level not in cares and not doctor)
        ):
            return True
        if " aussi " in said and cares == {Urgency.SELF_CARE} and not urgent:
            return False
        if doctor or level is Urgency.DOCTOR_7_DAYS:
            cares.discard(Urgency.SELF_CARE)
        if level is Urgency.EMERGENCY_DEPARTMENT and cares:
            return any(care.rank < level.rank for care in cares)
        if doctor and not urgent:
            cares.add(Urgency.DOCTOR_7_DAYS)
        if conditional:
            return any(care.rank < min(level.rank, Urgency.DOCTOR_7_DAYS.rank) for care in cares) or (
                urgent and ((doctor and not cares) or any(care.rank < level.rank for care in cares))
            )
        if not cares:
            return urgent and doctor
        highest = max(cares, key=lambda care: care.rank)
        only_doctor = highest is Urgency.DOCTOR_7_DAYS and level is Urgency.DOCTOR_24_HOURS and doctor
        return highest is not level and not (only_doctor and len(cares) == 1)

    def states_action(self, sentences: Sequence[str], level: Urgency) -> bool:
        """Whether the reply says, unconditionally, where to go and how soon."""
        for sentence in sentences:
            said = f" {' '.join(WORD.findall(plain(sentence)))} "
            if said not in self._conditions and said in self._care[level]:
                return True
            if level is Urgency.SELF_CARE and said in self._home_care:
                return True
        return False


def load_guard(knowledge: Knowledge, folder: Path = DATA) -> Guard:
    """The guard of `data/guard.json`, knowing every disease name of `knowledge`."""
    names = [name for pathology in knowledge.pathologies.values() for name in (pathology.name, *pathology.aka)]
    return Guard(json.loads((folder / "guard.json").read_bytes()), names)


def split_reply(text: str) -> list[str]:
    """The sentences of a reply, in order."""
    return [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]


def _is_quoted(text: str, facts: Facts) -> bool:
    """Whether the words stand as they are in an advice, an alarm text or a question of the facts."""
    quotable = (facts.advice, facts.worry, *facts.questions)
    return any(text in f" {' '.join(WORD.findall(plain(known)))} " for known in quotable if known)


def _new_clauses(mark: re.Pattern[str], sentence: str, facts: Facts) -> Iterator[str]:
    """The clauses of a sentence, folded, but those that stand in the facts as they are (part of a sign, say)."""
    known = [f" {' '.join(WORD.findall(plain(text)))} " for text in facts.texts()]
    for clause in mark.split(sentence):
        said = f" {' '.join(WORD.findall(plain(clause)))} "
        if not any(said in text for text in known):
            yield said


def _replace_known(text: str, facts: Facts) -> str:
    """The sentence with the causes and signs of the facts replaced by neutral words, the longest forms first."""
    alarm = (facts.alarm,) if facts.alarm else ()
    forms = [
        (words, neutral)
        for known, neutral in ((alarm, _SIGN), (facts.causes, _CAUSE), (facts.signs, _SIGN))
        for phrase in known
        for words in _forms(WORD.findall(plain(phrase)), shortened=neutral is _CAUSE)
    ]
    for words, neutral in sorted(forms, key=lambda form: -len(" ".join(form[0]))):
        pattern = " ".join(word if len(word) < 4 else rf"{word.rstrip('sx')}[sx]?" for word in words)
        text = re.sub(rf" {pattern}(?= )", f" {neutral}", text)
    return text


def _forms(words: list[str], *, shortened: bool) -> Iterator[list[str]]:
    """The phrase, with and without its article; `shortened` also as people say it ("un vertige positionnel")."""
    for first in (0, 1):
        for end in range(len(words), first, -1):
            form = words[first:end]
            telling = sum(len(word) > 3 for word in form)
            if (end == len(words) and telling) or (shortened and telling >= 2 and len(form[-1]) > 3):
                yield form


def _runs_of_words(texts: Iterable[str]) -> frozenset[str]:
    """Every run of one to five words of the texts, folded."""
    runs: set[str] = set()
    for text in texts:
        words = WORD.findall(plain(text))
        runs.update(" ".join(words[i : i + n]) for n in range(1, _LONGEST_RUN + 1) for i in range(len(words) - n + 1))
    return frozenset(runs)
