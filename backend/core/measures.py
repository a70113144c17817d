"""Numbers in the text: temperature, blood pressure, pulse, oxygen, blood sugar, tablets, durations, ages, pregnancy.

A finding of `data/findings.json` may list the measures that state it (`{"unit": "celsius", "min": 38}`); this
module only reads the numbers. Units: degrees Celsius, millimetres of mercury (systolic), beats a minute, percent of
oxygen, grams of glucose a litre, tablets taken at once, days, years, weeks.

Try it: `python -m backend.core.measures "39,5 depuis trois jours, 17/10"`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from backend.core.text import SENTENCE_ENDS

_DAYS_PER_UNIT = {
    "minute": 1 / 1440, "minutes": 1 / 1440, "min": 1 / 1440, "mn": 1 / 1440, "heure": 1 / 24, "heures": 1 / 24,
    "h": 1 / 24, "jour": 1.0, "jours": 1.0, "j": 1.0, "nuit": 1.0, "nuits": 1.0, "semaine": 7.0, "semaines": 7.0,
    "mois": 30.4, "an": 365.25, "ans": 365.25, "annee": 365.25, "annees": 365.25,
}  # fmt: skip
_SINCE = (("depuis",), ("ca", "fait"), ("voila",), ("cela", "fait"), ("dure",), ("pendant",))
_LASTING = (("dure",), ("pendant",))
"""Of a spell ("ça dure une minute") rather than of the illness when the unit is short."""
_SHORT_UNITS = frozenset({"minute", "minutes", "min", "mn"})
_AGO = (("il", "y", "a"), ("y", "a"))
_OUTDOORS = frozenset({"dans", "dehors", "ombre", "exterieur", "interieur"})
"""After "il fait 38": the air's temperature; "il fait 39" alone is a child's fever."""
_FEVER_WORDS = frozenset({"fievre", "temperature", "thermometre", "celsius", "degres", "degre"})
_BEGAN = frozenset(
    {"commence", "commencee", "debute", "demarre", "apparu", "apparue", "apparus", "apparues", "declenche", "change"}
)
_NO_TEMPERATURE = frozenset(
    {"pouls", "coeur", "battements", "pulsations", "pointure", "taille", "glycemie", "saturation"}
)
_BEFORE_BARE = frozenset({"a", "ai", "avec", "la", "avait", "est", "fait", "", ",", "."})
_AFTER_BARE = frozenset({"", ",", ".", "!", "?", "depuis", "ce", "hier", "et", "cette", "la", "malgre", "sous", "mais"})
_PULSE_NAMES = frozenset({"pouls", "coeur", "cardiaque", "palpitant", "fc"})
_BEATS = frozenset({"battements", "pulsations", "bpm"})
_OXYGEN_NAMES = frozenset(
    ["saturation", "sat", "satu", "sature", "saturait", "oxymetre", "oxygene", "oxygenation", "spo"]
)  # fmt: skip
_GLUCOSE_NAMES = frozenset({"glycemie", "glycemies", "dextro", "dextros"})
_FROM_NAME_TO_NUMBER = frozenset(
    ["a", "est", "etait", "de", "d", "en", "au", "bat", "battait", "monte", "montee", "tape", "tapait", "cogne", "file",
     "affiche", "indique", "marque", "dit", "tourne", "tombe", "tombee", "descend", "descendue", "oscille", "entre",
     "autour", "environ", "presque", "encore", "toujours", "plus", "que", "doigt", "ce", "matin", "soir", ":",
     "2"]  # of "SpO2"
)  # fmt: skip
_NAMES_OF_READINGS = _PULSE_NAMES | _OXYGEN_NAMES | _GLUCOSE_NAMES
_MOST_BETWEEN = 5
_MMOL_PER_G = 5.55
_TABLETS = frozenset(
    ["comprime", "comprimes", "cachet", "cachets", "gelule", "gelules", "pilule", "pilules", "cacheton", "cachetons",
     "pastille", "pastilles"]
)  # fmt: skip
_NOT_TAKEN = frozenset(
    ["boite", "boites", "plaquette", "plaquettes", "flacon", "tube", "reste", "restait", "restent", "prescrit",
     "prescrite", "donne", "achete", "ordonnance", "commande", "conditionnement", "delivre", "jour", "jours", "semaine"]
)  # fmt: skip
_SPREAD = frozenset({"par", "chaque", "tous", "toutes", "en", "sur", "pendant", "pour", "/"})
"""After "20 comprimés": by day, or over some days."""
_LOWEST_C, _HIGHEST_C = 33.0, 43.0
_AGE_BEFORE = frozenset({"de", "d", "ai", "a", "age", "agee", "j", "et", "mes", "ses", "avoir", ","})
_NOT_AN_AGE = frozenset({"depuis", "fait", "voila", "y", "ya", "pendant", "dans", "apres", "tous", "sous"})
_NO_AGE_BEFORE = frozenset({"de", "d", "que", "qu", "apres", "avant"})
"""After the unit: "il a 3 jours de fièvre", "ma fille, 2 jours que ça dure"."""
_BARELY = frozenset({"que", "qu", "juste", "tout", "peine", "presque", "bientot", "deja", "seulement", "exactement"})
"""Between the verb and the number: "il n'a que 2 mois", "elle a tout juste deux mois"."""


_ABOUT = frozenset({"plus", "moins", "pres", "environ", "bien", "peu", "de", "d", "un", "bon"})
_OF_THINGS = frozenset(
    ["retard", "retards", "arret", "conge", "conges", "sejour", "voyage", "vacances", "croisiere", "cure", "traitement",
     "antibiotiques", "antibiotique", "antibio", "ordonnance", "plaie", "blessure", "brulure", "cicatrice", "bouton",
     "boutons", "plaque", "plaques", "toux", "fievre", "douleur", "douleurs", "mal", "angine", "rhume", "grippe",
     "gastro", "bronchite", "cystite", "infection", "otite", "sinusite", "entorse", "fracture", "lumbago", "sciatique",
     "crise", "crises", "regles", "saignement", "saignements", "cycle", "cycles", "diarrhee", "constipation", "abces",
     "operation", "suture", "points", "platre", "attelle", "vaccin", "piercing", "tatouage", "delai", "absence",
     "periode", "duree", "bout", "intervalle", "pause", "ecart", "hospitalisation", "reeducation", "suite", "randonnee",
     "stage", "regime", "jeune", "barbe", "formation", "mission", "insomnie", "fatigue", "deuil", "rupture", "episode",
     "serie", "total", "vol", "trajet", "attente", "sevrage", "abstinence", "grossesse", "convalescence", "repos",
     "poussee", "tendinite", "zona", "varicelle", "covid", "mycose", "malade", "enceinte", "bleu", "bosse", "boule"]
)  # fmt: skip
"""Before "de trois semaines": how long something lasts, nobody's age."""
_CHILDREN = frozenset(
    ["bebe", "nourrisson", "fils", "fille", "fillette", "garcon", "enfant", "petit", "petite", "loulou", "puce",
     "gamin", "gamine", "jumeau", "jumelle", "jumeaux", "jumelles", "neveu", "niece", "frere", "soeur", "ne", "nee",
     "dernier", "derniere", "cadet", "cadette"]
)  # fmt: skip
"""Before "3 semaines" or ", 3 semaines": their age."""

_LINKS = _ABOUT | _BARELY | {"a", "ou", "deux", "trois", "quatre", "cinq"}
"""Between "depuis" and the number: "à peine", "un peu plus de", "deux ou"."""


class Unit(StrEnum):
    """What a number measures."""

    CELSIUS = "celsius"
    SYSTOLIC_MMHG = "systolic_mmhg"
    PULSE_PER_MINUTE = "pulse_per_minute"
    OXYGEN_PERCENT = "oxygen_percent"
    GLUCOSE_G_PER_L = "glucose_g_per_l"
    TABLETS = "tablets"
    SINCE_DAYS = "since_days"
    AGO_DAYS = "ago_days"
    AGE_YEARS = "age_years"
    PREGNANCY_WEEKS = "pregnancy_weeks"


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with its unit at tokens `start` to `end` (excluded) of the document."""

    unit: Unit
    value: float
    start: int
    end: int


_PREGNANCY_WORDS = frozenset({"enceinte", "grossesse", "amenorrhee"})
_BIRTH_WORDS = frozenset({"ne", "nee", "nes", "nees", "accouche", "naissance"})
WORDS = (
    frozenset(_DAYS_PER_UNIT)
    | _FEVER_WORDS
    | _PREGNANCY_WORDS
    | _NAMES_OF_READINGS
    | _BEATS
    | {word for opening in (*_SINCE, *_AGO) for word in opening}
)
"""The words that this module reads, for those who correct typing errors first."""


def find_measures(words: Sequence[str], numbers: Mapping[str, int]) -> tuple[Measure, ...]:
    """Every measure in the folded words of a document, in reading order; `numbers` maps number words to values."""
    found: list[Measure] = []
    for index in range(len(words)):
        value = _value_at(words, index, numbers)
        if value is None:
            continue
        for measure in (
            _pressure(words, index, value),
            _named_reading(words, index, value),
            _tablets(words, index, value),
            _temperature(words, index, value),
            *_durations(words, index, value),
        ):
            if measure is not None:
                found.append(measure)
    return tuple(found)


def _value_at(words: Sequence[str], index: int, numbers: Mapping[str, int]) -> float | None:
    """The number that ends at a word: "3,5", "trois", "cinquante-trois", "quatre-vingt-dix-sept"."""
    if words[index][0].isdigit():
        return float(words[index].replace(",", "."))
    if words[index] not in numbers:
        return None
    first = index
    while _at(words, first - 1) in numbers or (
        _at(words, first - 1) in ("-", "et") and _at(words, first - 2) in numbers
    ):
        first -= 1 if _at(words, first - 1) in numbers else 2
    value = 0
    for word in words[first : index + 1]:
        if word not in numbers:
            continue
        part = numbers[word]
        if (value, part) == (4, 20):
            value = 80
        elif part < 20 <= value and value % 10 == 0:  # after "vingt", "soixante-dix"
            value += part
        else:
            value = value + part if value == 10 and part in (7, 8, 9) else part  # "trois ou quatre" is 4
    return float(value)


def _at(words: Sequence[str], index: int) -> str:
    return words[index] if 0 <= index < len(words) else ""


def _temperature(words: Sequence[str], index: int, value: float) -> Measure | None:
    """38.4, "39°", "39 de fièvre", "38 5": a plausible body temperature with a decimal, a degree or a fever word."""
    if not words[index][0].isdigit() or not _LOWEST_C <= value <= _HIGHEST_C:
        return None
    if _at(words, index + 1) in _DAYS_PER_UNIT or _at(words, index - 1) == "/" or _at(words, index + 1) == "/":
        return None
    near = _near(words, index)
    of_the_air = list(words[max(0, index - 2) : index]) == ["il", "fait"] and _OUTDOORS & set(words[index : index + 5])
    if near & _NO_TEMPERATURE or of_the_air:
        return None
    decimal = "," in words[index] or "." in words[index]
    degree = _at(words, index + 1) in ("°", "c", "º")
    named = _at(words, index - 1) in ("°", "º")  # "T° 39"
    split_decimal = _at(words, index + 1).isdigit() and len(words[index + 1]) == 1
    alone = _at(words, index - 1) in _BEFORE_BARE and _at(words, index + 1) in _AFTER_BARE
    if list(words[index + 1 : index + 3]) == ["et", "demi"]:
        return Measure(Unit.CELSIUS, value + 0.5, index, index + 3)
    if split_decimal:
        return Measure(Unit.CELSIUS, value + int(words[index + 1]) / 10, index, index + 2)
    if decimal or degree or named or near & _FEVER_WORDS or (alone and value >= 38):
        return Measure(Unit.CELSIUS, value, index, index + (2 if degree else 1))
    return None


def _near(words: Sequence[str], index: int) -> set[str]:
    """The words of the same sentence beside a number: the sentences may stand in any order."""
    return {*_until_end(reversed(words[max(0, index - 4) : index])), *_until_end(words[index : index + 4])}


def _until_end(words: Iterable[str]) -> list[str]:
    return list(takewhile(lambda word: word not in SENTENCE_ENDS, words))


def _pressure(words: Sequence[str], index: int, value: float) -> Measure | None:
    """Systolic pressure in mmHg: "17/10", "170/100"."""
    if _at(words, index + 1) != "/" or not _at(words, index + 2).isdigit():
        return None
    low = float(words[index + 2])
    if 8 <= value <= 26 and 4 <= low <= 16 and low < value:
        return Measure(Unit.SYSTOLIC_MMHG, value * 10, index, index + 3)
    if 80 <= value <= 260 and 40 <= low <= 160 and low < value:
        return Measure(Unit.SYSTOLIC_MMHG, value, index, index + 3)
    return None


def _named_reading(words: Sequence[str], index: int, value: float) -> Measure | None:
    """A number that its name goes with: "pouls à 140", "88 de saturation", "dextro à 0,40", "160 battements"."""
    after = _at(words, index + 1)
    timed = after in _DAYS_PER_UNIT and after != "j"  # SMS reads "g", gram, as "j'ai"
    if not words[index][0].isdigit() or timed or "/" in (after, _at(words, index - 1)):
        return None
    name = _name_before(words, index)
    if not name and after in ("de", "en", "au", "%"):
        name = next((word for word in words[index + 2 : index + 4] if word in _NAMES_OF_READINGS), "")
    if (name in _PULSE_NAMES or after in _BEATS) and 25 <= value <= 250:
        return Measure(Unit.PULSE_PER_MINUTE, value, index, index + 1)
    if name in _OXYGEN_NAMES and 50 <= value <= 100:
        return Measure(Unit.OXYGEN_PERCENT, value, index, index + 1)
    if name in _GLUCOSE_NAMES and (grams := _grams_of_glucose(value, after)) is not None:
        return Measure(Unit.GLUCOSE_G_PER_L, grams, index, index + 1)
    return None


def _tablets(words: Sequence[str], index: int, value: float) -> Measure | None:
    """Tablets that may have been taken at once: "40 comprimés hier soir"; not "une boîte de 30 comprimés"."""
    if _at(words, index + 1) not in _TABLETS or value != int(value):
        return None
    before, after = _until_end(reversed(words[max(0, index - 5) : index])), _until_end(words[index + 2 : index + 5])
    if _NOT_TAKEN.intersection(before) or _SPREAD.intersection(after):
        return None
    return Measure(Unit.TABLETS, value, index, index + 2)


def _name_before(words: Sequence[str], index: int) -> str:
    """What is measured, a few linking words before the number; "" when nothing is."""
    for word in reversed(words[max(0, index - _MOST_BETWEEN) : index]):
        if word in _NAMES_OF_READINGS:
            return word
        if word not in _FROM_NAME_TO_NUMBER:
            break
    return ""


def _grams_of_glucose(value: float, unit: str) -> float | None:
    """Grams a litre, from g/L, mg/dL or mmol/L; None for a number that could be either of the last two."""
    if unit.startswith("mmol"):
        return value / _MMOL_PER_G
    if 0.1 <= value <= 7:
        return value
    return value / 100 if 20 <= value <= 700 else None


def _durations(words: Sequence[str], index: int, value: float) -> Iterator[Measure]:
    unit = _at(words, index + 1)
    if unit not in _DAYS_PER_UNIT:
        return
    days = value * _DAYS_PER_UNIT[unit]
    before = tuple(words[max(0, index - 6) : index])
    if (ago := _opens(before, _AGO)) is not None:
        if _BEGAN.intersection((*words[max(0, index - ago - 3) : index - ago], *words[index + 2 : index + 6])):
            yield Measure(Unit.SINCE_DAYS, days, index - ago, index + 2)  # "ça a commencé il y a deux mois"
            return
        born = _at(words, index - ago - 1) in ("ne", "nee", "nes", "nees")
        yield Measure(
            Unit.AGE_YEARS if born else Unit.AGO_DAYS, days / 365.25 if born else days, index - ago, index + 2
        )
    elif (since := _opens(before, _SINCE)) is not None:
        habit = (
            unit.startswith(("an", "annee")) and _opens(before, (("pendant",),)) is not None
        )  # "fumé pendant 40 ans"
        if not habit and (unit not in _SHORT_UNITS or _opens(before, _LASTING) is None):
            yield Measure(Unit.SINCE_DAYS, days, index - since, index + 2)
    elif _states_pregnancy(words, index, unit):
        yield Measure(Unit.PREGNANCY_WEEKS, days / 7, index, index + 2)
    elif unit not in ("h", "heure", "heures", "min", "mn", "minutes", "minute", "nuit", "nuits") and _states_age(
        words, index, unit
    ):
        yield Measure(Unit.AGE_YEARS, days / 365.25, index, index + 2)


def _opens(before: tuple[str, ...], openings: Sequence[tuple[str, ...]]) -> int | None:
    """How many words back the opening ("depuis", "ça fait") starts; one word, "un peu plus de", "2 ou" in between."""
    about = len(tuple(takewhile(lambda word: word in _LINKS or word.isdigit(), reversed(before))))
    for opening in openings:
        for gap in range(max(about, 1) + 1):
            end = len(before) - gap
            if end >= len(opening) and before[end - len(opening) : end] == opening:
                return len(opening) + gap
    return None


def _states_pregnancy(words: Sequence[str], index: int, unit: str) -> bool:
    """Like "enceinte de 5 mois", "7 mois de grossesse", "je suis à 39 semaines et 4 jours de mon deuxième"."""
    before = _until_end(reversed(words[max(0, index - 4) : index]))
    if unit not in ("mois", "semaine", "semaines"):
        return "enceinte" in before and unit in ("jour", "jours")
    after = index + 5 if _at(words, index + 2) == "et" and _at(words, index + 4) in _DAYS_PER_UNIT else index + 2
    if _PREGNANCY_WORDS.intersection((*before, *_until_end(words[after : after + 3]))):
        return _at(words, after) != "apres" and not _BIRTH_WORDS.intersection(before)
    if _at(words, index - 1) != "a" or _at(words, index - 2) not in ("suis", "est"):
        return False
    of_a_child = _at(words, after + 2).endswith("ieme") or _at(words, after + 2) in ("premier", "premiere", "bebe")
    return of_a_child or _at(words, after) not in ("de", "d", "du", "des")


def _states_age(words: Sequence[str], index: int, unit: str) -> bool:
    """Like "elle a 72 ans", "fils de 8 mois", "il n'a que 2 mois", "bébé, 3 semaines, "; not "un arrêt de 2 mois"."""
    start = index - 1
    while _at(words, start) in _ABOUT:  # "depuis plus de 3 semaines", "un retard de près de 2 semaines"
        start -= 1
    if any(word in _NOT_AN_AGE for word in (_at(words, start), *words[max(0, index - 2) : index])):
        return False
    if unit in ("an", "ans"):
        return True
    if unit not in ("mois", "semaines", "jours", "semaine") or _at(words, index + 2) in _NO_AGE_BEFORE:
        return False
    if start < index - 1 and _at(words, start) in _OF_THINGS:
        return False
    previous = _at(words, index - 1)
    if previous in (",", "(", "-", ":"):
        named = _at(words, index + 2) == "," and _at(words, index - 3) in ("", *SENTENCE_ENDS)  # "Louis, 2 mois, 38,5"
        return _at(words, index - 2) in _CHILDREN or (named and _at(words, index - 2) not in _OF_THINGS)
    reached = previous == "a" and _at(words, index - 2) in ("suis", "est", *_BIRTH_WORDS)  # "née à 36 semaines"
    barely = previous in _BARELY and "a" in words[max(0, index - 3) : index - 1]  # "il y a" was read before
    return (previous in ("de", "d", "a") and not reached) or previous in _CHILDREN or barely


if __name__ == "__main__":
    import sys

    from backend.core.text import read

    for measure in find_measures([token.word for token in read(" ".join(sys.argv[1:]), {}).tokens], {"trois": 3}):
        print(measure)
