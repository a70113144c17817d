"""The deterministic reply: the same facts, in plain fixed French. It answers whenever the model cannot.

Every sentence passes the guard (a test checks it on thousands of drawn facts).
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.core.entities import Urgency
from backend.core.facts import Facts

_ACTIONS = {
    Urgency.LIFE_THREATENING: "Appelez le 15 tout de suite, ou le 112.",
    Urgency.EMERGENCY_DEPARTMENT: "Allez aux urgences aujourd'hui, sans attendre demain.",
    Urgency.DOCTOR_24_HOURS: "Voyez un médecin dans les 24 heures.",
    Urgency.DOCTOR_7_DAYS: "Prenez rendez-vous avec un médecin dans les 7 jours.",
    Urgency.SELF_CARE: "Vous pouvez d'abord vous soigner à la maison, avec l'aide d'un pharmacien.",
}


def action(level: Urgency) -> str:
    """What to do and how soon, in one sentence."""
    return _ACTIONS[level]


def word_reply(facts: Facts) -> tuple[str, ...]:
    """The reply as 2 to 7 sentences or short groups of sentences, in reading order."""
    urgent = facts.level.rank >= Urgency.EMERGENCY_DEPARTMENT.rank
    sentences = [action(facts.level)] if urgent else []
    if facts.alarm:
        sentences.append(f"Un signe d'alerte a été reconnu : {facts.alarm}.")
    if facts.phone and facts.phone not in ("15", "112"):
        sentences.append(_phone(facts.phone))
    if facts.abstained:
        sentences.append("Je n'ai pas compris assez d'éléments pour proposer des causes.")
        sentences.append("Dites où se trouve la gêne, depuis quand, et ce qui l'accompagne.")
    else:
        sentences.append(_evoke(facts))
        if len(facts.causes) > 1:
            sentences.append(f"D'autres causes restent possibles : {join_words(facts.causes[1:], 'ou')}.")
    if not urgent:
        sentences.append(action(facts.level))
    sentences.extend(text for text in (facts.advice, facts.worry) if text)
    return tuple(sentences)


def _evoke(facts: Facts) -> str:
    subject = "Ce que vous décrivez" if facts.who == "vous" else f"Ce que vous décrivez pour {facts.who}"
    verb = "fait surtout penser à" if facts.probable else "peut faire penser à"
    because = f", à cause de ces éléments : {join_words(facts.signs, 'et')}" if facts.signs else ""
    return f"{subject} {verb} {facts.causes[0]}{because}."


def _phone(phone: str) -> str:
    if phone.isdigit():
        return f"Vous pouvez aussi appeler le {phone} : c'est gratuit et confidentiel."
    return (
        f"Vous pouvez aussi appeler le {phone}."
        if not phone.startswith("centre")
        else f"Le {phone} peut aussi vous aider."
    )


def join_words(words: Sequence[str], conjunction: str) -> str:
    """("a", "b", "c"), "et" -> "a, b et c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
