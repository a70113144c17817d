"""Mention -> state: does the message affirm, deny, doubt or date what it mentions?

A small rule engine over reviewed cues (`data/cues.json`), in the line of NegEx (Chapman 2001) and its French
version (Deléger and Grouin 2012), written for patients' spoken French: negation without "ne", lists under one
negation, pseudo-negations ("pas mal de"), the senses of "plus", doubt, fear, resolution, remote past. Where the
French is ambiguous the mention stays present: a missed denial costs less than a missed emergency.

Measured on the project's development sentences; the figures are in `docs/log.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backend.core.cues import Cue, CueKind
from backend.core.entities import Mention, State
from backend.core.measures import Measure, Unit
from backend.core.sentences import COPULAS, Sentence

_LIST_CONTINUES = frozenset({"de", "d", "ni", "ou", "non", "aucun", "aucune", "pas", "sans", "jamais"})
_NOUN_MARKERS = frozenset({"de", "d", "des", "du", "un", "une", "la", "le", "l", "les"})
_PRONOUNS = frozenset({"j", "je", "il", "elle", "on", "ils", "elles", "ca", "c", "tu"})
_PRONOUNS_BEFORE_VERB = frozenset({"y", "en", "n"})
_AUXILIARIES = frozenset(
    {"ai", "a", "suis", "est", "n", "ne", "m", "me", "s", "se", "y", "en", "l", "le", "la", "les", "fus"}
)
_IMPERFECT = ("ais", "ait", "aient")
_HAVE = frozenset({"ai", "a", "ont", "as"})
_AFTER_PRESENT_HAVE = _NOUN_MARKERS | {"mal", "tres", "froid", "chaud", "envie", "encore", "toujours", "maintenant"}
_ENDS_AFTER_NEGATION = frozenset(
    {"", ",", "-", "mais", "et", "ni", "du", "non", "en", "depuis", "juste", "par", "car", "sauf"}
)
_BARE = frozenset({"pas", "jamais", "toujours pas", "pas encore", "plus"})
_FEARED_TO_BE = frozenset({"soit", "soient", "serait"})
_SPOILS = frozenset({"n", "ne", "pas", "plus", "jamais", "ni", "mal", "peine", "moins", "peu", "trop", "guere", "si"})
_TAKES_BACK = frozenset(
    {"que", "qu", "quand", "si", "sauf", "seulement", "uniquement", "mieux", "vite", "fort", "souvent", "trop",
     "lorsque", "lorsqu", "apres", "avant", "avec", "malade", "lent", "difficile"}
)  # fmt: skip
_LONGEST_SCOPE = 14
_LONGEST_ANSWER = 7
_REMOTE_DAYS = 28.0
_BESIDE = 4
_NEGATIVES = frozenset({"pas", "jamais", "plus"})
_COME_BACK = frozenset({"revenu", "revenue", "revenus", "revenues", "reparti", "repartie", "reparties"})
_BEFORE_NON = frozenset({"", ",", "-", "et", "suis", "est", "homme", "femme", "ans", "patient", "patiente"})
_NO_NOUN = frozenset({"mais", "que", "qu", "ou", "oui", "dis", "dit"})
_ASKS = frozenset(
    {"est", "ce", "que", "qu", "ai", "je", "j", "fais", "fait", "a", "t", "il", "elle", "aurais", "aurait"}
)
_EST_CE_QUE = (["est", "ce", "que"], ["est", "ce", "qu"])
_TRIGGER_GOES_ON = frozenset({"que", "qu", "quand", "ou", "si", "lorsque"})


@dataclass(frozen=True, slots=True)
class Context:
    """One sentence with its cues, the measures in it, and the words that mentions use themselves."""

    sentence: Sentence
    cues: Mapping[CueKind, list[Cue]]
    measures: Sequence[Measure]
    owned: frozenset[int]
    light: frozenset[str]
    present_be: frozenset[str]
    past_with_be: frozenset[str]
    answered_no: bool = False
    """Whether the sentence asks after bare symptoms and the next one is "non": "Des ganglions ? Non plus."."""

    def word(self, index: int) -> str:
        """The word at a place of the sentence, or "" outside it."""
        return self.sentence.words[index] if 0 <= index < len(self.sentence.words) else ""


def assert_mention(mention: Mention, context: Context, is_disease: bool, is_event: bool) -> Mention:
    """The mention with its state and remoteness.

    `is_disease` lets "je crois que c'est une angine" be a doubt, `is_event` "comme si j'avais bu".
    """
    first = mention.tokens[0] - context.sentence.first
    last = mention.tokens[-1] - context.sentence.first
    if context.answered_no or _was_answered_no(last, context):
        return replace(mention, state=State.ABSENT)
    if _is_uncertain(first, last, context, is_disease) or (is_event and _is_compared(first, context)):
        return replace(mention, state=State.UNKNOWN)
    state = _negated(first, last, mention, context)
    if state is None and _is_resolved(first, last, context):
        state = State.PAST
    remote = _is_remote(first, last, context)
    if state is None and remote:
        state = State.PAST
    return replace(mention, state=state or State.PRESENT, remote=remote)


def says_well(mention: Mention, context: Context) -> bool:
    """Whether "respire bien" says what it seems to: stated, now, of a fact, with nothing that takes it back.

    Not so "respire pas bien", "respire bien vite", "respirait bien", "respire bien quand il est assis".
    """
    if mention.state is not State.PRESENT or mention.remote:
        return False
    own = [index - context.sentence.first for index in mention.tokens]
    around = (context.word(i) for i in range(own[0] - 3, own[-1] + 2) if i not in own)
    after = context.word(own[-1] + 1)
    turned = after in _TAKES_BACK or after.endswith("ment")
    return not (turned or _SPOILS.intersection(around) or context.word(own[0]).endswith(_IMPERFECT))


def _breaks(start: int, end: int, context: Context, except_for: str = "") -> bool:
    breakers = context.cues[CueKind.BREAKER]
    return any(start <= cue.start and cue.end <= end and cue.text != except_for for cue in breakers)


def _commas(start: int, end: int, context: Context) -> list[int]:
    return [index for index in range(start, end) if context.word(index) in (",", "-")]


# --- doubt -----------------------------------------------------------------------------------------------------------


def _is_uncertain(first: int, last: int, context: Context, is_disease: bool) -> bool:
    if context.word(last + 1) in _FEARED_TO_BE:  # "j'ai peur que ma boule au sein soit un cancer": the lump is there
        return False
    if _is_question(first, context):
        return True
    kinds = [CueKind.UNCERTAIN, *([CueKind.UNCERTAIN_DISEASE] if is_disease else [])]
    for cue in (cue for kind in kinds for cue in context.cues[kind]):
        if _within_reach(cue, first, context):
            return True
        if cue.text.startswith("peut etre") and 0 < cue.start - last <= 2:
            return True
    if any(_is_trigger_of(cue, first, last, context) for cue in context.cues[CueKind.WORSE_WHEN]):
        return True
    return not _commas(first, last, context) and any(
        _within_reach(cue, first, context) and context.word(cue.start - 1) in ("", ",", "et", "mais", "que", "qu", "ou")
        for cue in context.cues[CueKind.CONDITIONAL]
    )


def _is_compared(first: int, context: Context) -> bool:
    """As in "comme si j'avais pris un coup", "comme des coups de jus"; not "comme un idiot j'ai avalé ma bague"."""
    return any(
        _within_reach(cue, first, context) and (cue.text.startswith("comme s") or cue.end == first)
        for cue in context.cues[CueKind.SIMILE]
    )


def _is_question(first: int, context: Context) -> bool:
    """As in "est-ce que je fais de la fièvre", "ai-je les yeux jaunes": the symptom itself is asked after."""
    opening = list(context.sentence.words[:first])
    while opening and opening[-1] in _NOUN_MARKERS:
        opening.pop()
    inverted = opening[:2] in (["ai", "je"], ["fais", "je"], ["aurais", "je"]) or "t" in opening
    return bool(opening) and _ASKS.issuperset(opening) and (inverted or opening[:3] in _EST_CE_QUE)


def _within_reach(cue: Cue, first: int, context: Context) -> bool:
    """The cue stands before the mention in the same clause, at most 10 words away, with nothing that ends its scope."""
    return (
        cue.end <= first
        and first - cue.end <= 10
        and not _commas(cue.end, first, context)
        and not _breaks(cue.end, first, context, except_for="c est")
        and not _new_clause(cue.end, first, context)
    )


def _is_trigger_of(cue: Cue, first: int, last: int, context: Context) -> bool:
    """Whether "c'est pire quand" governs the mention: "pire quand je tousse, que je force ou que je me penche"."""
    if cue.start <= first < cue.end - 1 and last < cue.end - 1:
        return True  # "mes symptômes empirent quand je mange" is no worsening from day to day
    if not cue.end <= first or first - cue.end > _LONGEST_SCOPE or _breaks(cue.end, first, context):
        return False
    return all(context.word(i + 1) in _TRIGGER_GOES_ON for i in _commas(cue.end, first, context))


def _new_clause(start: int, end: int, context: Context) -> bool:
    """Whether "et il", "et j'ai" begins another statement between two places."""
    return any(context.word(i) == "et" and context.word(i + 1) in _PRONOUNS for i in range(start, end))


# --- negation --------------------------------------------------------------------------------------------------------


def _negated(first: int, last: int, mention: Mention, context: Context) -> State | None:
    own = {index - context.sentence.first for index in mention.tokens}
    non = context.word(first - 1) == "non" and context.word(first) != "seulement"
    adjective = len(mention.tokens) == 1 and context.word(first - 2) not in _NO_NOUN  # "éruption non prurigineuse"
    if (non and (adjective or context.word(first - 2) in _BEFORE_NON)) or _is_dislocated(first, context):
        return State.ABSENT
    for cue in _negations(context, own):
        joins = cue.text == "ni" and context.word(cue.start - 1) not in COPULAS  # "mal au ventre ni au dos"
        inside = first < cue.start and cue.end <= last and not joins
        if inside or (cue.end <= first and _negation_reaches(cue, first, context)):
            return State.ABSENT
    plus = _plus(first, last, own, context)
    if plus is not None:
        return plus
    return State.ABSENT if _negated_after(last, own, context) else None


def _is_dislocated(first: int, context: Context) -> bool:
    """As in "j'en ai pas, des rougeurs"."""
    comma = first - 1 if context.word(first) in _NOUN_MARKERS else first - 2
    named = context.word(comma) == "," and context.word(comma + 1) in _NOUN_MARKERS
    verb = context.sentence.words[max(0, comma - 1 - _BESIDE) : max(0, comma - 1)]
    return named and context.word(comma - 1) in _NEGATIVES and "en" in verb


def _pseudo(context: Context, own: set[int]) -> list[Cue]:
    """Negative-looking words that deny nothing; one that eats the mention's own first word is not pseudo."""
    return [
        cue
        for cue in context.cues[CueKind.PSEUDO_NEGATION]
        if not any(index in own for index in range(cue.start, cue.end))
    ]


def _negations(context: Context, own: set[int]) -> list[Cue]:
    """Negation cues that are neither pseudo-negations nor part of a wording ("plus d'appétit"), nearest last."""
    pseudo = [*_pseudo(context, own), *context.cues[CueKind.UNCERTAIN]]
    return [
        cue
        for cue in context.cues[CueKind.NEGATION]
        if not any(cue.overlaps(other) for other in pseudo)
        and not any(index in context.owned or index in own for index in range(cue.start, cue.end))
    ]


def _negation_reaches(cue: Cue, first: int, context: Context) -> bool:
    """Whether a negation to the left still governs the word at `first`; lists go on over "de", "ni", "ou"."""
    if first - cue.end > _LONGEST_SCOPE or _breaks(cue.end, first, context):
        return False
    content = 0
    listed = False
    in_full_list = cue.text.startswith("absence")  # "absence de fièvre, toux, essoufflement"
    for index in range(cue.end, first):
        word, follows = context.word(index), context.word(index + 1)
        if word in (",", "-") or word == "et":
            if not (follows in _LIST_CONTINUES or in_full_list or _in_list_with_or(index, context)):
                return False
            listed, content = True, 0
        elif word in ("ou", "ni"):
            listed, content = True, 0
        elif word in _PRONOUNS and index > cue.end:
            return False
        elif index not in context.owned and word not in context.light:
            content += 1
    if cue.text in _BARE and not listed:
        noun = any(context.word(index) in _NOUN_MARKERS for index in range(cue.end, first))
        return content == 0 or (noun and content == 1)
    return content <= 2


def _in_list_with_or(comma: int, context: Context) -> bool:
    """Whether a comma stands in a list of bare nouns that ends with "ou": "pas de nausées, diarrhée ou crampes"."""
    for index in range(comma + 1, min(comma + _LONGEST_SCOPE, len(context.sentence.words))):
        word = context.word(index)
        if word in ("ou", "ni"):
            return True
        if word != "," and (word in context.light - {"d", "de"} or word in context.present_be):
            return False
    return False


def _plus(first: int, last: int, own: set[int], context: Context) -> State | None:
    """The "plus" that ends a symptom ("je n'ai plus de fièvre") makes it past; "plus fort" does not."""
    pseudo = [*context.cues[CueKind.PLUS_PSEUDO], *_pseudo(context, own)]
    for index, word in enumerate(context.sentence.words):
        if word != "plus" or index in context.owned or any(c.start <= index < c.end for c in pseudo):
            continue
        cue = Cue(CueKind.NEGATION, index, index + 1, "plus")
        with_ne = any(context.word(i) in ("n", "ne") for i in range(max(0, index - 4), index))
        compares = any(
            context.word(i) in ("qu", "que") for i in range(last + 1, min(last + 5, len(context.sentence.words)))
        )
        if index < first:
            of_noun = context.word(index + 1) in ("de", "d")
            if not compares and (of_noun or with_ne) and _negation_reaches(cue, first, context):
                return State.PAST
        elif 0 < index - last <= 1 and not compares and (with_ne or context.word(index + 1) in _ENDS_AFTER_NEGATION):
            return State.PAST
    return None


def _negated_after(last: int, own: set[int], context: Context) -> bool:
    """As in "je tousse pas", "fièvre non", "les fourmillements, jamais", "niveau fièvre rien à signaler"."""
    pseudo = _pseudo(context, own)
    between = range(min(own) - 2, last + 1)
    framed = any(context.word(i) in ("ne", "n") for i in between if i not in own)  # "il ne boite pas le matin"
    for cue in context.cues[CueKind.NEGATION_ADJACENT]:
        ends = framed or context.word(cue.end) in _ENDS_AFTER_NEGATION
        if cue.start == last + 1 and ends and not any(cue.overlaps(other) for other in pseudo):
            return True
    for cue in context.cues[CueKind.NEGATION_AFTER]:
        gap = cue.start - last - 1
        comma = gap == 1 and context.word(last + 1) in (",", "-", ":")
        ends = context.word(cue.end) in ("", ",", "-", "et", "mais", "voila")
        if cue.start > last and ends and (gap == 0 or comma):
            return True
    return False


def _was_answered_no(last: int, context: Context) -> bool:
    """As in "on m'a demandé si j'avais mal, j'ai répondu non"."""
    return any(
        cue.text.startswith(("repondu", "dit")) and 0 < cue.start - last <= _LONGEST_ANSWER
        for cue in context.cues[CueKind.NEGATION_AFTER]
    )


# --- past ------------------------------------------------------------------------------------------------------------


def _is_resolved(first: int, last: int, context: Context) -> bool:
    if any(
        _within_reach(cue, first, context) and first - cue.end <= 3 for cue in context.cues[CueKind.RESOLVED_BEFORE]
    ):
        return True
    for cue in context.cues[CueKind.RESOLVED_AFTER]:
        denied = context.word(cue.start - 1) in ("pas", "n", "ne") and not cue.text.startswith("n ")
        moved = cue.text.split()[-1].startswith("parti") and context.word(cue.end) in (
            "de",
            "du",
            "d",
            "des",
            "vers",
            "dans",
        )
        if cue.text.startswith("plus ") and context.word(cue.start - 1) != ",":
            continue  # "saigne plus maintenant" may mean more
        if "tombe" in cue.text and cue.start > last + 1:
            continue  # "fièvre, elle est tombée" may be a fall
        near = last < cue.start and cue.start - last <= 8 and not _breaks(last + 1, cue.start, context)
        if near and not denied and not moved:
            return True
    return False


def _is_remote(first: int, last: int, context: Context) -> bool:
    """Something long over: "quand j'étais petit", "il y a deux ans", unless "depuis hier" comes in between."""
    if any(context.word(i) in _NEGATIVES and context.word(i + 1) in _COME_BACK for i in range(first, last)):
        return False  # "j'ai arrêté la pilule il y a un an et mes règles ne sont jamais revenues"
    starts = [
        cue
        for cue in context.cues[CueKind.PAST_START]
        if context.word(cue.start - 1) in ("", ",")
        and not _covered(cue, context.cues[CueKind.NOT_PAST])
        and context.word(cue.end) in (",", "j", "je", "il", "elle", "on")
    ]
    dated = (cue for cue in context.cues[CueKind.PAST] if context.word(cue.start - 1) != "depuis")
    for cue in (*dated, *starts, *_long_ago(context)):
        if cue.end <= first:
            renewed = any(cue.end <= now.start and now.start < last for now in context.cues[CueKind.NOW])
            renewed = renewed or _began_lately(cue.end, last, context)
            if not renewed and not _breaks(cue.end, first, context) and not _is_now(cue.end, first, context):
                return True
        elif last < cue.start <= last + 10 and not _commas(last + 1, cue.start, context):
            return not _breaks(last + 1, cue.start, context) and not _new_clause(last + 1, cue.start, context)
    return False


def _began_lately(start: int, last: int, context: Context) -> bool:
    """Whether a mention has its own, recent beginning: "il y a un an j'étais au Congo, fièvre depuis trois jours"."""
    first = context.sentence.first
    for measure in context.measures:
        place = measure.start - first
        if measure.unit is Unit.SINCE_DAYS and measure.value < _REMOTE_DAYS and start <= place <= last + _BESIDE:
            return not _commas(last + 1, place, context) if place > last else not _commas(place, last, context)
    return False


def _is_now(start: int, end: int, context: Context) -> bool:
    """Whether the sentence comes back to the present: "il s'est cogné il y a un mois, il est somnolent".

    Also "j'ai voyagé le mois dernier et j'ai de la fièvre", but not "et j'ai toussé".
    """
    for index in range(start, end - 1):
        if context.word(index) == "et" and context.word(index + 1) in _PRONOUNS:
            have = index + 3 if context.word(index + 2) in _PRONOUNS_BEFORE_VERB else index + 2
            if context.word(have) in _HAVE and context.word(have + 1) in _AFTER_PRESENT_HAVE:
                return True
    after_comma = False
    for index in range(start, end):
        if context.word(index) == "," and context.word(index + 1) in ("je", "il", "elle"):
            verb = context.word(index + 2)  # "après un accident il y a deux mois, je bois sans arrêt"
            if verb not in _AUXILIARIES and not verb.endswith(_IMPERFECT):
                return True
        after_comma = after_comma or context.word(index) == ","
        if after_comma and context.word(index) in context.present_be:
            return context.word(index + 1) not in context.past_with_be and context.word(index - 1) not in ("s", "c")
    return False


def _covered(cue: Cue, others: Sequence[Cue]) -> bool:
    return any(cue.overlaps(other) for other in others)


def _long_ago(context: Context) -> list[Cue]:
    first = context.sentence.first
    end = first + len(context.sentence.tokens)
    return [
        Cue(CueKind.PAST, measure.start - first, measure.end - first, "il y a")
        for measure in context.measures
        if measure.unit is Unit.AGO_DAYS
        and measure.value >= _REMOTE_DAYS
        and first <= measure.start < end
        and "depuis" not in context.sentence.words[max(0, measure.start - first - _BESIDE) : measure.start - first]
    ]
