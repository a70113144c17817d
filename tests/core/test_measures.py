"""Numbers in the text."""

from __future__ import annotations

import pytest

from backend.core.knowledge import Knowledge
from backend.core.measures import Unit, find_measures
from backend.core.text import read


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("j'ai 39,5", Unit.CELSIUS, 39.5),
        ("38.2 ce matin", Unit.CELSIUS, 38.2),
        ("39 de fièvre", Unit.CELSIUS, 39.0),
        ("39° hier", Unit.CELSIUS, 39.0),
        ("ma tension est à 17/10", Unit.SYSTOLIC_MMHG, 170.0),
        ("tension 165/95", Unit.SYSTOLIC_MMHG, 165.0),
        ("mon cœur monte à 140", Unit.PULSE_PER_MINUTE, 140.0),
        ("160 battements par minute", Unit.PULSE_PER_MINUTE, 160.0),
        ("180 au pouls", Unit.PULSE_PER_MINUTE, 180.0),
        ("sa sat est à 88 %", Unit.OXYGEN_PERCENT, 88.0),
        ("91 de saturation", Unit.OXYGEN_PERCENT, 91.0),
        ("dextro à 0,40", Unit.GLUCOSE_G_PER_L, 0.4),
        ("glycémie à 450", Unit.GLUCOSE_G_PER_L, 4.5),
        ("glycémie à 15 mmol", Unit.GLUCOSE_G_PER_L, 2.7),
        ("40 comprimés de Doliprane hier soir", Unit.TABLETS, 40.0),
        ("j'ai avalé trente cachets", Unit.TABLETS, 30.0),
        ("la petite est là avec 39", Unit.CELSIUS, 39.0),
        ("depuis trois semaines", Unit.SINCE_DAYS, 21.0),
        ("ça fait 2 jours", Unit.SINCE_DAYS, 2.0),
        ("depuis environ 6 heures", Unit.SINCE_DAYS, 0.25),
        ("il y a deux mois", Unit.AGO_DAYS, 60.8),
        ("j'ai 34 ans", Unit.AGE_YEARS, 34.0),
        ("ma fille de 18 mois", Unit.AGE_YEARS, 1.5),
        ("il a 72 ans", Unit.AGE_YEARS, 72.0),
        ("cinquante-trois ans", Unit.AGE_YEARS, 53.0),
        ("soixante et onze ans", Unit.AGE_YEARS, 71.0),
        ("quatre-vingt-dix-sept ans", Unit.AGE_YEARS, 97.0),
        ("depuis dix-sept jours", Unit.SINCE_DAYS, 17.0),
        ("depuis deux ou trois jours", Unit.SINCE_DAYS, 3.0),
        ("T° 39", Unit.CELSIUS, 39.0),
        ("38 et demi", Unit.CELSIUS, 38.5),
        ("SpO2 89%", Unit.OXYGEN_PERCENT, 89.0),
        ("FC à 48", Unit.PULSE_PER_MINUTE, 48.0),
        ("glycémie 3,8 g/l", Unit.GLUCOSE_G_PER_L, 3.8),
        ("il a 6 mois", Unit.AGE_YEARS, 0.5),
        ("il n'a que 6 mois", Unit.AGE_YEARS, 0.5),
        ("elle a à peine 6 mois", Unit.AGE_YEARS, 0.5),
        ("ma fille, 12 mois, tousse", Unit.AGE_YEARS, 1.0),
        ("Louis, 12 mois, tousse", Unit.AGE_YEARS, 1.0),
        ("bébé (12 mois)", Unit.AGE_YEARS, 1.0),
        ("depuis un peu plus de 3 semaines", Unit.SINCE_DAYS, 21.0),
        ("cela fait plus de 3 semaines", Unit.SINCE_DAYS, 21.0),
        ("il y a à peine deux mois", Unit.AGO_DAYS, 60.8),
        ("enceinte de 32 semaines", Unit.PREGNANCY_WEEKS, 32.0),
        ("neuf semaines de grossesse", Unit.PREGNANCY_WEEKS, 9.0),
        ("je suis à 7 mois de grossesse", Unit.PREGNANCY_WEEKS, 30.4),
        ("à 32 semaines d'aménorrhée", Unit.PREGNANCY_WEEKS, 32.0),
        ("je suis à 39 semaines et 4 jours de mon deuxième", Unit.PREGNANCY_WEEKS, 39.0),
    ],
)
def test_a_number_is_read_with_its_unit(text: str, unit: Unit, value: float, knowledge: Knowledge) -> None:
    """Each way to say a measure gives its unit and value."""
    found = find_measures([token.word for token in read(text, {}).tokens], knowledge.numbers)
    assert [(m.unit, round(m.value, 1)) for m in found] == [(unit, round(value, 1))]


@pytest.mark.parametrize(
    "text",
    ["il est né à 36 semaines", "je suis à 3 semaines de l'opération", "deux mois après ma grossesse",
     "ça dure bien une minute", "un arrêt de 2 semaines", "règles en retard de 15 jours", "une toux de 3 semaines",
     "une boîte de 30 comprimés", "12 comprimés par jour", "20 gélules sur 5 jours", "au bout de 3 jours",
     "il a 3 jours de congé", "ma fille, 2 jours que ça dure", "j'ai fumé pendant plus de 40 ans",
     "opéré du cœur en 2019", "une glycémie à 12", "sous oxygène à 2 litres"],
)  # fmt: skip
def test_no_age_no_pregnancy_no_beginning(text: str, knowledge: Knowledge) -> None:
    """Numbers of weeks, months or minutes that say something else."""
    assert find_measures([token.word for token in read(text, {}).tokens], knowledge.numbers) == ()


@pytest.mark.parametrize(
    "text", ["j'habite au 39 rue Foch", "36 semaines", "taille 40", "39 ans", "37 copains", "38 kilos"]
)
def test_other_numbers_are_not_temperatures(text: str, knowledge: Knowledge) -> None:
    """A bare number is no fever."""
    found = find_measures([token.word for token in read(text, {}).tokens], knowledge.numbers)
    assert Unit.CELSIUS not in {m.unit for m in found}
