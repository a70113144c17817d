"""Learn how urgent words sound: judged messages -> `data/alarm.json`, the weights of `backend/core/alarm.py`.

The messages are in `training/triage/*.jsonl`: a text, perhaps `age`, `sex` and `pregnant`, the `level` it deserves, the
levels that are `ok`, and the `floor` below which an answer is unsafe. They were written with a large language model for
this project and no clinician has reviewed them. The wordings of the knowledge base are learned from too, each with the
share of its diseases that call for a level. Files named `held_*.jsonl` are never learned from.

Logistic regression (scikit-learn) for each level, in a few rounds, because two promises bend it: a sentence that tells
a danger, or of somebody else, never lowers a score, and nor does a word of neutral talk (`neutral.txt` and the light
words of `data/french.json`). `python -m training.alarm --check` measures by cross-validation; without it, the file is
written (then run `python -m backend.core.lookalikes`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from backend.core.alarm import AT_LEAST_AS_LIKELY, LEVELS, NONE_LIKELY, Alarm, Piece, traits_of
from backend.core.diagnose import Diagnoser
from backend.core.entities import Frequency, Patient, Urgency
from backend.core.knowledge import DATA, Knowledge, load
from backend.core.lexicon import spoken
from backend.core.rows import AlarmRow
from backend.core.text import read
from backend.core.understand import read_message

MESSAGES = Path(__file__).parent / "triage"
# A level is called for from this probability on; set by cross-validation (docs/log.md).
THRESHOLDS = {
    Urgency.DOCTOR_24_HOURS: 0.75,
    Urgency.EMERGENCY_DEPARTMENT: 0.45,
    Urgency.LIFE_THREATENING: 0.35,
}
_ROUNDS = 3
_INVERSE_PENALTY = 1.0
_FEWEST_USES = 3
_OF_A_WORDING, _OF_A_RULE_SENTENCE = 0.05, 0.2
"""How much a wording and a test sentence of a rule count, beside 1 for a message."""
_SHARES = {
    Frequency.OBLIGATE: 1.0, Frequency.VERY_FREQUENT: 0.9, Frequency.FREQUENT: 0.55, Frequency.OCCASIONAL: 0.17,
    Frequency.VERY_RARE: 0.02, Frequency.EXCLUDED: 0.0,
}  # fmt: skip
_SCALE = 100
_SHORTEST_WORD = 6
_ALARMS = 10
_LEAST = 5
_WORDING = "a wording"
_SO_FAR = frozenset(
    [f"given>={rank}" for rank in range(1, len(Urgency))]
    + [f"causes{level.rank}>={share:g}" for level in LEVELS for share in AT_LEAST_AS_LIKELY]
)
"""One more alarm, or a likelier grave cause, never lowers the level."""


class MessageRow(BaseModel):
    """A line of `training/triage/*.jsonl`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    level: Urgency
    ok: list[Urgency]
    floor: Urgency
    age: float | None = None
    sex: Literal["F", "M"] | None = None
    pregnant: bool | None = None


@dataclass(frozen=True)
class Judged:
    """A message, or a wording, as the model sees it. `deserves`, one per level: how far it deserves that or more.

    `ok` and `floor` are ranks; a wording has none.
    """

    pieces: tuple[Piece, ...]
    traits: tuple[str, ...]
    deserves: tuple[float, ...]
    counts: float
    given: Urgency = Urgency.SELF_CARE
    shares: tuple[float, ...] = NONE_LIKELY
    patient: Patient = Patient()  # noqa: RUF009 - frozen
    ok: frozenset[int] = frozenset()
    floor: int = 0
    forms: frozenset[str] = frozenset()


class Silent(Alarm):
    """No weights; it keeps what the service asked of it last."""

    def __init__(self) -> None:
        super().__init__({}, {})
        self.asked: tuple[Urgency, Sequence[float], Patient, Sequence[Piece]]

    def raise_level(self, given: Urgency, shares: Sequence[float], patient: Patient, pieces: Sequence[Piece]) -> None:
        """Keep the question; raise nothing."""
        self.asked = given, shares, patient, pieces


def read_messages(paths: Iterable[Path], diagnoser: Diagnoser) -> list[Judged]:
    """The messages of the files, with the level that rules and causes give them without the words."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [_judge(MessageRow.model_validate_json(line), diagnoser) for line in lines]


def _judge(row: MessageRow, diagnoser: Diagnoser) -> Judged:
    silent = Silent()
    quiet = Diagnoser(replace(diagnoser.knowledge, alarm=silent), diagnoser.ranking)
    quiet.assess(row.text, Patient(row.age, row.sex, row.pregnant))
    given, shares, patient, pieces = silent.asked
    return Judged(
        pieces=tuple(pieces),
        traits=("always", *traits_of(given, shares, patient)),
        deserves=tuple(float(row.level.rank >= level.rank) for level in LEVELS),
        counts=1.0,
        given=given,
        shares=tuple(shares),
        patient=patient,
        ok=frozenset(level.rank for level in row.ok),
        floor=row.floor.rank,
        forms=frozenset(token.word for token in read(row.text, diagnoser.knowledge.sms).tokens),
    )


def read_wordings(knowledge: Knowledge) -> Iterator[Judged]:
    """Two spoken forms of each wording, and the test sentences of the rules."""
    shares = _shares(knowledge)
    for finding in knowledge.findings.values():
        if finding.id in shares:
            for wording in finding.lay:
                for text in spoken(wording)[:2]:
                    yield _wording(text.removeprefix("="), shares[finding.id], _OF_A_WORDING, knowledge)
    for rule in knowledge.red_flags:
        share = tuple(float(rule.level.rank >= level.rank) for level in LEVELS)
        for case in rule.positive:
            yield _wording(case.text, share, _OF_A_RULE_SENTENCE, knowledge)


def _wording(text: str, share: tuple[float, ...], counts: float, knowledge: Knowledge) -> Judged:
    return Judged(read_message(text, Patient(), knowledge).pieces, (_WORDING, "always"), share, counts)


def _shares(knowledge: Knowledge) -> dict[str, tuple[float, ...]]:
    """For each finding the share of its diseases, by frequency, that call for each level or more."""
    totals: defaultdict[str, float] = defaultdict(float)
    reached: dict[str, list[float]] = {}
    for pathology in knowledge.pathologies.values():
        for link in pathology.links:
            weight = _SHARES[link.frequency]
            totals[link.finding] += weight
            levels = reached.setdefault(link.finding, [0.0] * len(LEVELS))
            for column, level in enumerate(LEVELS):
                levels[column] += weight * (pathology.urgency.rank >= level.rank)
    return {
        finding: tuple(value / totals[finding] for value in reached[finding]) for finding in reached if totals[finding]
    }


def read_neutral(knowledge: Knowledge) -> frozenset[str]:
    """The terms of neutral talk: they may not lower a score, wherever a sentence ends."""
    lines = (MESSAGES / "neutral.txt").read_text(encoding="utf-8").splitlines()
    pieces = [piece for line in lines for piece in read_message(line, Patient(), knowledge).pieces]
    return frozenset(t for piece in pieces for t in _terms(piece))


def read_light(knowledge: Knowledge) -> frozenset[str]:
    """The light words, denied or not: alone they weigh nothing."""
    keys = {knowledge.lexicon.key(word) for word in knowledge.lexicon.light}
    return frozenset(keys | {f"~{key}" for key in keys})


def _terms(piece: Piece) -> list[str]:
    """The likeliest reading of each word, alone and with the word before."""
    return [term for word in piece.words for term in (*word.own[:1], *word.pairs[:1])]


@dataclass(frozen=True)
class Weights:
    """The place of each term and trait, and their weights in nats (places x levels), the thresholds counted in."""

    places: dict[str, int]
    traits: frozenset[str]
    values: NDArray[np.float64]


def learn(rows: Sequence[Judged], neutral: frozenset[str], light: frozenset[str] = frozenset()) -> Weights:
    """Weights for terms used three times, and for traits; `neutral` never lowers, `light` weighs nothing."""
    used = Counter(term for row in rows for term in {t for piece in row.pieces for t in _terms(piece)})
    traits = frozenset(trait for row in rows for trait in row.traits)
    kept = sorted(term for term, times in used.items() if times >= _FEWEST_USES and term not in light)
    places = {name: place for place, name in enumerate((*kept, *sorted(traits)))}
    of_pieces = _matrix([_terms(piece) for row in rows for piece in row.pieces], places)
    of_traits = _matrix([row.traits for row in rows], places)
    owner = np.repeat(np.arange(len(rows)), [len(row.pieces) for row in rows])
    bounded = np.array([piece.bounded for row in rows for piece in row.pieces])
    never_lower = np.array([places[name] for name in neutral | _SO_FAR if name in places], dtype=int)
    columns = []
    for column, level in enumerate(LEVELS):
        share, counts = np.array([row.deserves[column] for row in rows]), np.array([row.counts for row in rows])
        weights = np.zeros(len(places))
        active, allowed = np.ones(len(owner)), np.ones(len(places))
        for _ in range(_ROUNDS):
            gathered = csr_matrix((active, (owner, np.arange(len(owner)))), shape=(len(rows), len(owner)))
            X = ((gathered @ of_pieces + of_traits) @ diags(allowed)).tocsr()
            weights = _regress(X, share, counts, places["always"]) * allowed
            allowed[never_lower[weights[never_lower] < 0]] = 0
            active = np.where(bounded & (of_pieces @ weights < 0), 0.0, 1.0)
        weights[never_lower] = np.maximum(weights[never_lower], 0)
        weights[places["always"]] -= math.log(THRESHOLDS[level] / (1 - THRESHOLDS[level]))
        columns.append(weights)
    return Weights(places, traits, np.stack(columns, axis=1))


def _matrix(lines: Sequence[Sequence[str]], places: dict[str, int]) -> csr_matrix:
    """How often each place stands in each line."""
    cells = [[places[name] for name in line if name in places] for line in lines]
    ends = np.cumsum([0, *map(len, cells)])
    found = csr_matrix((np.ones(ends[-1]), list(chain.from_iterable(cells)), ends), shape=(len(lines), len(places)))
    found.sum_duplicates()
    return found


def _regress(
    X: csr_matrix, share: NDArray[np.float64], counts: NDArray[np.float64], constant: int
) -> NDArray[np.float64]:
    """Weights of a logistic regression; a share of 0.3 is a row that counts 0.3 for the level and 0.7 against it."""
    wanted = np.repeat([1.0, 0.0], len(share))
    weighed = np.concatenate([counts * share, counts * (1 - share)])
    kept = np.flatnonzero(weighed)
    model = LogisticRegression(C=_INVERSE_PENALTY, solver="liblinear")
    model.fit(X[kept % len(share)], wanted[kept], sample_weight=weighed[kept])
    weights: NDArray[np.float64] = model.coef_[0].copy()
    weights[constant] += float(model.intercept_[0])
    return weights


def to_row(weights: Weights, messages: Sequence[Judged], knowledge: Knowledge, made_from: str) -> AlarmRow:
    """The weights in hundredths of a nat; what weighs nothing is left out.

    `words` are the longer forms that raise a level: a typing error in one of them is mended like those of the lexicon.
    """
    whole = np.rint(weights.values * _SCALE).astype(int)
    table = {
        name: tuple(map(int, whole[place]))
        for name, place in weights.places.items()
        if np.abs(whole[place]).max() >= _LEAST
    }
    terms = {name: row for name, row in table.items() if name not in weights.traits}
    words = {
        form
        for message in messages
        for form in message.forms
        if len(form) >= _SHORTEST_WORD
        and form.isalpha()
        and max(terms.get(knowledge.lexicon.key(form), (0,))) >= _ALARMS
    }
    traits = {name: table[name] for name in sorted(weights.traits - {_WORDING}) if name in table}
    return AlarmRow(made_from=made_from, terms=terms, traits=traits, words=sorted(words))


def measure(rows: Sequence[Judged], alarm: Alarm) -> dict[str, float]:
    """Accepted, safe, too high, and emergencies below their floor, of the levels raised by `alarm`."""
    levels = []
    for row in rows:
        raised = alarm.raise_level(row.given, row.shares, row.patient, row.pieces)
        levels.append((raised.level if raised else row.given).rank)
    pairs = list(zip(levels, rows, strict=True))
    return {
        "n": len(rows),
        "accepted": round(sum(rank in row.ok for rank, row in pairs) / len(rows), 3),
        "safe": round(sum(rank >= row.floor for rank, row in pairs) / len(rows), 3),
        "too high": round(sum(rank > max(row.ok) for rank, row in pairs) / len(rows), 3),
        "emergencies below floor": sum(
            rank < row.floor and row.floor >= Urgency.EMERGENCY_DEPARTMENT.rank for rank, row in pairs
        ),
    }


def cross_validate(
    messages: Sequence[Judged], wordings: Sequence[Judged], knowledge: Knowledge, folds: int = 5
) -> Iterator[Judged]:
    """Each message with the level that a model raises it to which has not learned from it, as `given`."""
    neutral, light = read_neutral(knowledge), read_light(knowledge)
    for learned, held in KFold(folds, shuffle=True, random_state=0).split(np.arange(len(messages))):
        row = to_row(learn([*(messages[i] for i in learned), *wordings], neutral, light), (), knowledge, "")
        alarm = Alarm(row.terms, row.traits)
        for index in held:
            message = messages[index]
            found = alarm.raise_level(message.given, message.shares, message.patient, message.pieces)
            yield replace(message, given=found.level if found else message.given)


def main() -> None:
    """Learn, measure, and write the file unless `--check`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="measure by cross-validation and write nothing")
    options = parser.parse_args()
    knowledge, nothing = load(), Silent()
    diagnoser = Diagnoser(knowledge)
    paths = sorted(MESSAGES.glob("*.jsonl"))
    held = {path.stem: read_messages([path], diagnoser) for path in paths if path.name.startswith("held_")}
    messages = read_messages([path for path in paths if not path.name.startswith("held_")], diagnoser)
    wordings = list(read_wordings(knowledge))
    print("learned from, without words", measure(messages, nothing))
    if options.check:
        found = list(cross_validate(messages, wordings, knowledge))
        print("cross-validated            ", measure(found, nothing))
        return
    made_from = f"{len(messages)} messages and {len(wordings)} wordings"
    weights = learn([*messages, *wordings], read_neutral(knowledge), read_light(knowledge))
    row = to_row(weights, messages, knowledge, made_from)
    for name, rows in held.items():
        print(f"{name}, without words", measure(rows, nothing))
        print(f"{name}               ", measure(rows, Alarm(row.terms, row.traits)))
    (DATA / "alarm.json").write_text(_one_term_a_line(row), encoding="utf-8")
    print(f"{len(row.terms)} terms, {len(row.words)} words")


def _one_term_a_line(row: AlarmRow) -> str:
    def table(values: dict[str, tuple[int, int, int]]) -> str:
        return ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: {list(value)}" for name, value in values.items())

    return (
        f'{{\n "made_from": {json.dumps(row.made_from)},\n "traits": {{\n{table(row.traits)}\n }},\n'
        f' "words": {json.dumps(row.words, ensure_ascii=False)},\n "terms": {{\n{table(row.terms)}\n }}\n}}\n'
    )


if __name__ == "__main__":
    main()
