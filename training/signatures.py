"""Names, signatures and the forum's own phrases taken out of answers and questions.

Forum answers open with "Hi, I am Dr. X", thank the patient for using the site and end with "Regards, Dr. X". A model
trained on them signs its replies with names of real doctors. Opening and closing sentences of that kind are removed,
titles followed by a name become "the doctor" or « le médecin », addresses of pages and of people go. The patterns come
from published examples of the corpus; their recall on the whole of it is not measured here (no copy at hand).
"""

from __future__ import annotations

import re

from training.cleaning import sentences

_LONGEST_PHRASE_CHARS = 220
_EDGE = 4

_BRAND = (
    r"(?:chat\s*-?\s*doctor|health\s*-?\s*care\s*-?\s*magic|i-?cliniq|\bhcm\b)(?:\s*\.?\s*com\b)?(?:\s+(?:forum|team))?"
)
_GREETING = r"(?:hi|hello|hey|dear|greetings|good (?:morning|afternoon|evening|day)|bonjour|bonsoir|salut)"
_FILLER = r"(?:there|dear|friend|user|sir|madam|ma'?am|all|again|and|&|et|to you|my)"
# A capital after "Dr" begins a new sentence more often than a name when it is one of these.
_NOT_A_NAME = (
    "A|After|All|Also|Am|An|And|Any|Are|As|At|Because|Before|But|Can|Could|Did|Do|Does|Elle|En|For|From|Had|Has|Have|"
    "He|Hello|Her|Hi|His|How|However|I|If|Il|Ils|In|Is|It|Its|I'm|J|J'ai|Je|La|Last|Le|Les|Ma|May|Me|Mes|Mon|My|No|Nous|"
    "Now|On|Once|One|Or|Our|Please|She|Should|Since|So|Some|Sometimes|Thank|Thanks|That|The|Then|There|They|This|To|"
    "Today|Two|Was|We|What|When|Where|Which|Who|Why|Will|With|Would|Yes|Yesterday|You|Your|Google"
)
_NAME = rf"(?!(?:{_NOT_A_NAME})\b)[A-ZÀ-Ý][\w'’-]*[a-zà-ÿ][\w'’-]*"
_NAMES = rf"{_NAME}(?:\s+(?:{_NAME}|[A-Z]\.?(?=\s))){{0,2}}"
_TITLE = r"(?:Dr|DR|dr|Doctor|Docteur|Prof|Pr|Professor|Professeur)"

_TITLE_DOT = re.compile(rf"\b(Dr|DR|dr|Prof|Pr)\.\s*(?={_NAMES})")
_GREETED_NAME = re.compile(rf"^((?i:{_GREETING}))\s+{_NAME}(?=\s*[,.!\n])")
_DOCTORS_OWN = re.compile(
    rf"\b((?:[Mm]y|[Hh]is|[Hh]er|[Tt]he|[Oo]ur|a)\s+(?:doctor|physician|surgeon))(?:,\s+{_TITLE}\s+{_NAMES},?|\s+{_TITLE}\s+{_NAMES})"
)
_FRENCH_DOCTOR = re.compile(rf"\b([Ll]e|[Aa]u|[Dd]u|[Mm]on|[Cc]e|[Uu]n)\s+{_TITLE}\s+{_NAMES}")
_ANY_DOCTOR = re.compile(rf"\b(?:Dr|DR|dr|Doctor|Docteur|Prof|Professor|Professeur)\s+{_NAMES}")
_SENTENCE_START = re.compile(r"(^|[.!?]\s+)([lt])(?=he doctor\b|e médecin\b)")
_OWN_NAME = re.compile(
    rf"(?:\b[Mm]y name is|\b[Jj]e m['’]appelle|\b[Mm]on nom est)\s+{_NAMES}\s*(?:[,.]\s*|\band\s+|\bet\s+|$)"
)
_ON_BRAND = re.compile(rf"\s*\b(?:on|at|to|in|with|from|by|via|of|sur|à|chez)\s+{_BRAND}", re.IGNORECASE)
_BARE_BRAND = re.compile(rf"\s*{_BRAND}", re.IGNORECASE)
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+\b")
_ADDRESS = re.compile(r"(?:\(\s*)?(?:https?://|www\.)[^\s)\]]+[)\]]?", re.IGNORECASE)

# Only words are matched in any case: a name begins with a capital.
_POLITE = r"(?:(?i:take care|thanks?|thank you|merci)[\s,.!&-]*)?"
_REST = r"(?:[^.!?\n]|\.(?=com\b)){0,60}[.!\s]*"
_OPENING = re.compile(
    rf"(?:(?i:{_GREETING})[\s,.!-]*)?(?:(?i:{_FILLER})[\s,.!-]*)*"
    rf"(?:(?i:many |a lot of )?(?i:thanks?|thank you|merci|welcome|bienvenue)\b[^.!?\n]*(?i:{_BRAND}){_REST}"
    rf"|(?i:i am|i['’]m|i m|myself|this is|je suis|ici)\s+(?i:the\s+|le\s+)?(?:(?i:{_TITLE})\s+{_NAMES}|(?i:{_BRAND}))"
    rf"{_REST}|(?i:{_BRAND})[\s.,!]*)"
)
_ANSWERING = re.compile(
    rf"[^.!?\n]*\b(?i:i am|i['’]m|this is|my name is|je suis)\s+(?:(?i:{_TITLE})\s+{_NAMES}|(?i:{_BRAND}))"
    rf"[^.!?\n]*\b(?i:answer|here|help|query|question|répond|concern)[^.!?\n]*[.!\s]*"
)
_FAREWELL = (
    r"(?:with\s+)?(?:(?:best|kind|kindest|warm|warmest|many|good)\s+)*(?:regards?|wishes|sincerely|"
    r"yours(?: truly| sincerely)?|cheers|(?:bien )?cordialement|bien à vous|(?:sincères )?salutations|signé)"
)
_CLOSING = re.compile(
    rf"{_POLITE}(?i:{_FAREWELL})[\s,.:!-]*(?:(?:(?i:{_TITLE})\b|(?i:{_BRAND})|[A-ZÀ-Ý])[^!?\n]{{0,80}})?[.!\s]*"
    rf"|{_POLITE}(?:(?i:{_TITLE})\b\.?\s+{_NAMES}[\s,.()A-Z-]*|(?i:{_BRAND})[\s.,!]*)"
    rf"|(?i:thanks?|thank you|merci)\b[^.!?\n]*(?i:{_BRAND}){_REST}"
)


def remove_signatures(answer: str) -> str:
    """An answer without the sentences that present, thank or sign, near its beginning and its end."""
    parts = list(sentences(_TITLE_DOT.sub(r"\1 ", answer)))
    opening = [_is(_OPENING, part) or _is(_ANSWERING, part) for part in parts[:_EDGE]]
    kept = [
        part
        for place, part in enumerate(parts)
        if not (place < len(opening) and opening[place])
        and not (any(opening[place:]) and _is_greeting(part))
        and not (place >= len(parts) - _EDGE and _is(_CLOSING, part))
    ]
    return _GREETED_NAME.sub(r"\1", "".join(kept).strip())


def _is(pattern: re.Pattern[str], sentence: str) -> bool:
    return len(sentence) <= _LONGEST_PHRASE_CHARS and pattern.fullmatch(sentence.strip()) is not None


def _is_greeting(sentence: str) -> bool:
    return re.fullmatch(rf"{_GREETING}(?:[\s,]+{_FILLER})*[\s,.!-]*", sentence.strip(), re.IGNORECASE) is not None


def hide_names(text: str, language: str) -> str:
    """A text without names of doctors, the writer's own name, the forum's name, and addresses."""
    text = _TITLE_DOT.sub(r"\1 ", text)
    text = _DOCTORS_OWN.sub(r"\1", text)
    text = _FRENCH_DOCTOR.sub(r"\1 médecin", text)
    text = _ANY_DOCTOR.sub("le médecin" if language == "fr" else "the doctor", text)
    text = _SENTENCE_START.sub(lambda found: found[1] + found[2].upper(), text)
    text = _OWN_NAME.sub("", text)
    text = _EMAIL.sub("", _ADDRESS.sub("", text))
    text = _BARE_BRAND.sub("", _ON_BRAND.sub("", text))
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" +([.,;])", r"\1", text) if language != "fr" else re.sub(r" +([.,])", r"\1", text)
    text = re.sub(r"([.,])(?:\s*,)+", r"\1", text)
    return re.sub(r"^[\s,.;:!-]+", "", text).strip()
