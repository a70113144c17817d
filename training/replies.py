"""Good replies in varied French: `phrases.json` and the facts of an assessment -> the text a model should write.

A reply is 3 to 6 short sentences (2 or 7 for very bare or crowded facts): what it may be and why, what to do and how
soon, what should make the person seek help sooner; urgent action comes first. Names, signs, advice and alarm signs
are slot tokens (see `backend/core/prompt.py`). The tone of the prompt chooses the wording, so that greedy decoding
is varied too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.core.entities import Urgency
from backend.core.facts import Facts
from backend.core.prompt import (
    ADVICE_SLOT,
    ALARM_SLOT,
    CAUSE_SLOTS,
    PHONE_SLOT,
    QUESTION_SLOTS,
    SIGN_SLOTS,
    WHO_SLOT,
    WORRY_SLOT,
    slot_values,
)
from backend.core.wording import join_words

PHRASES = Path(__file__).with_name("phrases.json")
_OWN_CHOICE = 0.85


class Composer:
    """Composes replies; `spread` is how often a sentence departs from its tone."""

    def __init__(self, phrases: Mapping[str, Any] | None = None, spread: float = 1 - _OWN_CHOICE) -> None:
        self._phrases = phrases or json.loads(PHRASES.read_text(encoding="utf-8"))
        self._spread = spread

    def compose(self, facts: Facts, tone: int, rng: random.Random) -> str:
        """The reply, with slot tokens, for `tone` (0 to 7)."""
        values = slot_values(facts)
        person = "autre" if WHO_SLOT in values else "vous"
        urgent = facts.level.rank >= Urgency.EMERGENCY_DEPARTMENT.rank
        action = self._pick(self._phrases["action"][facts.level.value][person], tone, rng)
        body = self._abstained(facts, tone, rng) if facts.abstained else self._causes(facts, person, tone, rng)
        extras = []
        if ALARM_SLOT in values:
            extras.append(self._pick(self._phrases["alarm"], tone + 1, rng))
        if PHONE_SLOT in values:
            extras.append(self._pick(self._phrases["phone"], tone + 2, rng))
        tail = [slot for slot in (ADVICE_SLOT, WORRY_SLOT) if slot in values]
        if urgent:
            sentences = [action, *extras, *body, *tail]
        else:
            opening = [self._pick(self._phrases["empathy"], tone + 3, rng)] if len(body) == 1 and not extras else []
            sentences = [*opening, *body, *extras, action, *tail]
        return _fill(" ".join(sentences), facts)

    def _causes(self, facts: Facts, person: str, tone: int, rng: random.Random) -> list[str]:
        certainty = "probable" if facts.probable else "possible"
        variants = self._phrases["evoke"][certainty][person] if facts.signs else self._phrases["evoke_without_signs"]
        sentences = [self._pick(variants, tone + 4, rng)]
        if len(facts.causes) > 1 and not facts.alarm:
            sentences.append(self._pick(self._phrases["others"], tone + 5, rng))
        return sentences

    def _abstained(self, facts: Facts, tone: int, rng: random.Random) -> list[str]:
        sentences = [
            self._pick(self._phrases["abstain"], tone + 6, rng),
            self._pick(self._phrases["ask"], tone + 7, rng),
        ]
        return [*sentences, *QUESTION_SLOTS[: len(facts.questions)]]

    def _pick(self, variants: list[str], tone: int, rng: random.Random) -> str:
        own = variants[tone % len(variants)]
        return rng.choice(variants) if rng.random() < self._spread else own


def _fill(text: str, facts: Facts) -> str:
    """The phrases' own placeholders -> slot tokens."""
    return text.format(
        cause=CAUSE_SLOTS[0],
        signes=join_words(SIGN_SLOTS[: len(facts.signs)], "et"),
        autres=join_words(CAUSE_SLOTS[1 : len(facts.causes)], "ou"),
        alarme=ALARM_SLOT,
        tel=PHONE_SLOT,
        qui=WHO_SLOT,
    )


def spell_out(reply: str, facts: Facts) -> str:
    """The reply with every slot replaced by its text."""
    for slot, text in slot_values(facts).items():
        reply = reply.replace(slot, text)
    return reply
