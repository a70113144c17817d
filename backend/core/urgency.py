"""Red flags and likely causes -> one of five levels of care.

The level is the highest of three: the rules that fired, the likely causes weighted by harm, and a floor when too
little was understood. Likely causes alone never say more than "urgences": only a rule calls the 15. A finding that
alone fires a rule can never lower the level by making another cause likelier: the likely causes are also weighed
without the findings whose own rule says less than "urgences" (see `test_invariants.py`).

The thresholds were set on the development cases; figures in `docs/log.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.core.entities import Pathology, Reason, Triage, Urgency
from backend.core.red_flags import Fired
from backend.core.weights import Array

# A level is reached when the causes that call for it or more, together, are at least this likely.
THRESHOLDS = (
    (Urgency.EMERGENCY_DEPARTMENT, 0.35),
    (Urgency.DOCTOR_24_HOURS, 0.40),
    (Urgency.DOCTOR_7_DAYS, 0.40),
)
_ABSTAINED = Urgency.DOCTOR_24_HOURS
_MESSAGES = {
    Urgency.LIFE_THREATENING: "Appelez le 15 (ou le 112) tout de suite.",
    Urgency.EMERGENCY_DEPARTMENT: "Allez aux urgences aujourd'hui. Si vous ne pouvez pas vous déplacer, appelez le 15.",
    Urgency.DOCTOR_24_HOURS: "Voyez un médecin dans les 24 heures.",
    Urgency.DOCTOR_7_DAYS: "Prenez rendez-vous avec un médecin dans les 7 jours.",
    Urgency.SELF_CARE: "Vous pouvez vous soigner à la maison ; demandez conseil à un pharmacien si besoin.",
}
_PHONES = {Urgency.LIFE_THREATENING: "15"}


def level_of_causes(pathologies: Sequence[Pathology], p_D: Array, p_other: float) -> Urgency:
    """The level that the likely causes call for; causes outside the base count as a visit within 7 days."""
    for level, threshold in THRESHOLDS:
        reached = sum(float(p) for pathology, p in zip(pathologies, p_D, strict=True) if _care(pathology) >= level.rank)
        if level is Urgency.DOCTOR_7_DAYS:
            reached += p_other
        if reached >= threshold:
            return level
    return Urgency.SELF_CARE


def _care(pathology: Pathology) -> int:
    return min(pathology.urgency.rank, Urgency.EMERGENCY_DEPARTMENT.rank)


def triage(fired: Sequence[Fired], of_causes: Urgency, likeliest: Pathology | None, abstained: bool) -> Triage:
    """The level with its number, message and reasons, from the rules that fired and the level of the causes."""
    floor = max(of_causes, _ABSTAINED, key=lambda level: level.rank) if abstained else of_causes
    level = max([floor, *(f.rule.level for f in fired)], key=lambda found: found.rank)
    at_level = [f for f in fired if f.rule.level is level]
    reasons = [Reason(f.rule.id, f.rule.label, f.quote, _cite(f)) for f in fired]
    if not at_level:
        reasons.append(_reason_of_causes(likeliest, abstained))
    phone = next((f.rule.phone for f in at_level if f.rule.phone), _PHONES.get(level))
    message = at_level[0].rule.message if at_level else _MESSAGES[level]
    if at_level and level is Urgency.LIFE_THREATENING and "15" not in message:
        message = f"{message} {_MESSAGES[level]}"
    return Triage(level, phone, message, tuple(reasons))


def _cite(fired: Fired) -> str | None:
    return next((f"{s.title}, {s.publisher}, {s.year}" for s in fired.rule.sources), None)


def _reason_of_causes(likeliest: Pathology | None, abstained: bool) -> Reason:
    if abstained or likeliest is None:
        return Reason("too_little_understood", "Trop peu d'éléments compris : par prudence", None, None)
    return Reason("likely_causes", f"Cause la plus probable parmi celles connues : {likeliest.name}", None, None)
