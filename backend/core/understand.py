"""One message -> what it says: findings with state, place and person, the patient's traits, and what stayed unread.

This is the whole reading of the text, in order: normalise, find mentions, add measured numbers, decide the state
of each and attribute it to a person, decide its state. Nothing here ranks or triages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backend.core.alarm import Piece, piece_of
from backend.core.assertion import Context, assert_mention, says_well
from backend.core.cues import Cue, CueKind
from backend.core.entities import FAMILY_HISTORY, NAMED, WELL, Mention, Patient, Span, State
from backend.core.knowledge import Knowledge
from backend.core.measures import Measure, Unit, find_measures
from backend.core.mentions import Lists, find_mentions
from backend.core.people import WRITER, find_people, traits
from backend.core.sentences import Nouns, Sentence, split_sentences
from backend.core.text import Document, read

_SHORTEST_UNREAD_WORDS = 2
_LONGEST_BARE = 6
_NO = frozenset(
    {("non",), ("non", "plus"), ("non", "pas", "du", "tout"), ("pas", "du", "tout"), ("jamais",), ("aucun",),
     ("aucune",), ("non", ",", "aucun"), ("non", ",", "aucune"), ("non", ",", "jamais"), ("non", "jamais")}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What the text says. `mentions` are findings, `flag_mentions` the text patterns of red-flag rules.

    `pieces` are its sentences as the model of `alarm.py` sees them.
    `patient` holds what the text itself says of the patient; `person` is "" for the writer, else the relative;
    `others` holds what it says of each other person it speaks of.
    """

    document: Document
    mentions: tuple[Mention, ...]
    flag_mentions: tuple[Mention, ...]
    patient: Patient
    person: str
    others: Mapping[str, Patient]
    unmatched: tuple[Span, ...]
    pieces: tuple[Piece, ...]


def read_message(text: str, patient: Patient, knowledge: Knowledge) -> Reading:
    """Read `text` (as sent) about `patient` (the fields of the request). Cost: about 2 ms for 500 characters."""
    document = read(text, knowledge.sms)
    sentences = split_sentences(
        document, knowledge.lexicon, knowledge.cue_words, Nouns(knowledge.genders, knowledge.cues.relatives)
    )
    measures = find_measures(_mended_words(document, sentences), knowledge.numbers)
    found_cues = [knowledge.cues.find(sentence.words) for sentence in sentences]
    mentions = [
        *find_mentions(
            sentences,
            knowledge.lexicon,
            Lists(knowledge.distributive, knowledge.sites, knowledge.adverb_verbs, knowledge.fillers),
            knowledge,
        ),
        *_measured(measures, document, knowledge),
    ]
    mentions = _without_idle_durations(mentions, sentences, measures, knowledge)
    everything = sorted(mentions, key=lambda m: (m.start, m.end, m.finding))
    asserted = _assert_all(everything, document, sentences, found_cues, measures, knowledge)
    people = find_people(sentences, found_cues, asserted, knowledge.troubles, measures, patient, knowledge.cues)
    stated = []
    for index, mention in enumerate(asserted):
        shared = mention.finding in knowledge.findings and knowledge.findings[mention.finding].about_others
        person = "" if people.is_patient(index) else people.of_mention[index]
        if mention.finding.startswith(FAMILY_HISTORY) and people.of_mention[index] == people.patient != "":
            continue  # "mon fils est asthmatique": his own asthma, when he is the patient
        state = State.OTHER if person and mention.state in (State.PRESENT, State.PAST) else mention.state
        stated.append(replace(mention, person="" if shared else person, state=state))
    return Reading(
        document=document,
        mentions=tuple(m for m in stated if m.finding in knowledge.findings),
        flag_mentions=tuple(m for m in stated if m.finding not in knowledge.findings),
        patient=traits(sentences, found_cues, measures, people.patient, knowledge.cues),
        person=people.patient,
        others={
            person: traits(sentences, found_cues, measures, "" if person == WRITER else person, knowledge.cues)
            for person in dict.fromkeys(m.person for m in stated if m.person)
        },
        unmatched=_unread(document, sentences, stated, found_cues, measures, knowledge),
        pieces=tuple(
            piece_of(sentence, _only_raises(sentence, cues, stated, people.patient, knowledge))
            for sentence, cues in zip(sentences, found_cues, strict=True)
        ),
    )


def _only_raises(
    sentence: Sentence,
    cues: Mapping[CueKind, list[Cue]],
    mentions: Sequence[Mention],
    patient: str,
    knowledge: Knowledge,
) -> bool:
    """Whether a sentence says nothing of the patient's health, tells a danger, or what others have or think."""
    places = range(sentence.first, sentence.first + len(sentence.tokens))
    own = [m for m in mentions if m.tokens[0] in places and not m.person and m.finding in knowledge.findings]
    told = (State.PRESENT, State.PAST, State.OTHER)
    alarming = any(m.state in told and m.finding in knowledge.alarming for m in own)
    somebody_else = any(cue.text != patient for cue in cues[CueKind.RELATIVE])
    thinks = bool(cues[CueKind.UNCERTAIN_DISEASE]) or not knowledge.cues.saying.isdisjoint(sentence.words)
    return not own or alarming or somebody_else or thinks


def _mended_words(document: Document, sentences: Sequence[Sentence]) -> list[str]:
    """The words of the whole document, marks included, with the typing errors that the sentences mended."""
    words = [token.word for token in document.tokens]
    for sentence in sentences:
        words[sentence.first : sentence.first + len(sentence.words)] = sentence.words
    return words


def _without_idle_durations(
    mentions: Sequence[Mention], sentences: Sequence[Sentence], measures: Sequence[Measure], knowledge: Knowledge
) -> list[Mention]:
    """Drop "depuis le printemps" of "nous habitons ici depuis le printemps": a sentence about something else."""
    durations = {finding for finding, _ in knowledge.measured.get(Unit.SINCE_DAYS, ())}
    named = (m for m in mentions if not m.finding.startswith(NAMED))
    used = {token for m in named for token in m.tokens} | {i for m in measures for i in range(m.start, m.end)}
    idle: set[int] = set()
    for sentence in sentences:
        places = range(sentence.first, sentence.first + len(sentence.tokens))
        complaint = any(m.finding in knowledge.complaints and m.tokens[0] in places for m in mentions)
        unread = [
            place
            for place, token, word in zip(places, sentence.tokens, sentence.words, strict=True)
            if token.is_word and place not in used and word not in knowledge.lexicon.light
        ]
        if not complaint and len(unread) >= _SHORTEST_UNREAD_WORDS:
            idle.update(places)
    return [m for m in mentions if m.finding not in durations or m.tokens[0] not in idle]


def _measured(measures: Sequence[Measure], document: Document, knowledge: Knowledge) -> list[Mention]:
    """The findings that numbers state: 39.5 is a fever, "depuis trois semaines" a duration."""
    mentions = []
    for measure in measures:
        for finding, bounds in knowledge.measured.get(measure.unit, ()):
            if bounds.min <= measure.value <= bounds.max:
                tokens = tuple(range(measure.start, measure.end))
                start, end = document.tokens[tokens[0]].start, document.tokens[tokens[-1]].end
                mentions.append(Mention(finding, start, end, tokens))
    return mentions


def _assert_all(
    mentions: Sequence[Mention],
    document: Document,
    sentences: Sequence[Sentence],
    found_cues: Sequence[Mapping[CueKind, list[Cue]]],
    measures: Sequence[Measure],
    knowledge: Knowledge,
) -> list[Mention]:
    contexts = []
    for number, (sentence, cues) in enumerate(zip(sentences, found_cues, strict=True)):
        end = sentence.first + len(sentence.tokens)
        findings = [m for m in mentions if m.finding in knowledge.findings]
        owned = {token - sentence.first for m in findings for token in m.tokens if sentence.first <= token < end}
        contexts.append(
            Context(
                sentence,
                cues,
                measures,
                frozenset(owned),
                knowledge.lexicon.light,
                knowledge.cues.present_be,
                knowledge.cues.past_with_be,
                _is_answered_no(sentence, sentences[number + 1 : number + 2], owned, knowledge),
            )
        )
    stated, praised = [], []
    for mention in mentions:
        context = next(c for c in reversed(contexts) if c.sentence.first <= mention.tokens[0])
        said = assert_mention(
            mention, context, mention.finding in knowledge.diseases, mention.finding in knowledge.events
        )
        if not mention.finding.startswith(WELL):
            stated.append(said)
        elif says_well(said, context) and not _is_asked(context.sentence, document):
            praised.append(replace(said, finding=mention.finding.removeprefix(WELL), state=State.ABSENT))
    complaints = [mention.finding for mention in stated if mention.state is not State.ABSENT]
    complaints += [kin for finding in complaints for kin in knowledge.relatives(finding)]
    kept = dict.fromkeys(mention for mention in praised if mention.finding not in complaints)
    return sorted([*stated, *kept], key=lambda m: (m.start, m.end, m.finding))


def _is_answered_no(sentence: Sentence, following: Sequence[Sentence], owned: set[int], knowledge: Knowledge) -> bool:
    """Whether bare symptoms, or "vous demandez si j'ai ...", are followed by a sentence that only says no."""
    if not following or following[0].words not in _NO:
        return False
    asks = any(word.startswith("demand") for word in sentence.words) and "si" in sentence.words
    bare = all(
        index in owned or word in knowledge.lexicon.light or not word[0].isalpha()
        for index, word in enumerate(sentence.words)
    )
    return asks or (bare and len(sentence.words) <= _LONGEST_BARE)


def _is_asked(sentence: Sentence, document: Document) -> bool:
    end = sentence.first + len(sentence.tokens)
    return end < len(document.tokens) and document.tokens[end].word == "?"


def _unread(
    document: Document,
    sentences: Sequence[Sentence],
    mentions: Sequence[Mention],
    found_cues: Sequence[Mapping[CueKind, list[Cue]]],
    measures: Sequence[Measure],
    knowledge: Knowledge,
) -> tuple[Span, ...]:
    """Clauses in which nothing was understood: no mention, no measure, no cue, and at least two telling words."""
    used = {token for mention in mentions if mention.finding in knowledge.findings for token in mention.tokens}
    used |= {token for measure in measures for token in range(measure.start, measure.end)}
    spans = []
    for sentence, cues in zip(sentences, found_cues, strict=True):
        kinds = (CueKind.POLITENESS, CueKind.RELATIVE, CueKind.UNCERTAIN, CueKind.RESOLVED_AFTER)
        cued = {index for kind in kinds for cue in cues[kind] for index in range(cue.start, cue.end)}
        clauses: dict[int, list[int]] = {}
        for index, token in enumerate(sentence.tokens):
            clauses.setdefault(token.clause, []).append(index)
        for indices in clauses.values():
            words = [i for i in indices if sentence.tokens[i].is_word]
            telling = [i for i in words if sentence.words[i] not in knowledge.lexicon.light and i not in cued]
            read_already = any(sentence.first + i in used for i in indices)
            if len(telling) >= _SHORTEST_UNREAD_WORDS and not read_already:
                start, end = sentence.tokens[words[0]].start, sentence.tokens[words[-1]].end
                spans.append(Span(start, end, document.quote(start, end)))
    return tuple(spans)
