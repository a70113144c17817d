"""Whom the message is about."""

from __future__ import annotations

import pytest

from backend.core.entities import Patient
from backend.core.knowledge import Knowledge
from backend.core.understand import read_message


@pytest.mark.parametrize(
    ("text", "person"),
    [
        ("J'ai mal au ventre.", ""),
        ("Mon mari a mal au ventre.", "mari"),
        ("Ma fille de 4 ans tousse, je suis épuisée mais elle a de la fièvre et elle vomit.", "fille"),
        ("Ma mère dit que ce n'est rien mais j'ai mal au ventre.", ""),
        ("Ma voisine a la grippe, moi j'ai mal à la gorge.", ""),
        ("C'est pour mon père : douleur dans la poitrine.", "pere"),
        ("Mon père a fait un infarctus à 50 ans et j'ai mal dans la poitrine.", ""),
    ],
)
def test_the_patient_is_who_has_the_complaints(text: str, person: str, knowledge: Knowledge) -> None:
    """The writer, unless the complaints are a relative's."""
    assert read_message(text, Patient(), knowledge).person == person


@pytest.mark.parametrize(
    ("text", "age", "sex", "pregnant"),
    [
        ("La ventoline ne marche pas. Je suis enceinte.", None, "F", True),
        ("Homme de 45 ans, mal au dos.", 45.0, "M", None),
        ("J'ai 28 ans et mal à la tête.", 28.0, None, None),
        ("Ma fille de 3 ans a de la fièvre.", 3.0, "F", None),
        ("Mon mari, 67 ans, a mal au dos.", 67.0, "M", None),
        ("Mon bébé tousse.", 0.5, None, None),
        ("Je suis enceinte de 7 mois et j'ai mal à la tête.", None, "F", True),
        ("Je suis une femme de 60 ans, j'ai mal au dos.", 60.0, "F", None),
        ("Je ne suis pas enceinte, j'ai mal au ventre.", None, None, None),
    ],
)
def test_age_sex_and_pregnancy_are_read_from_the_text(
    text: str,
    age: float | None,
    sex: str | None,
    pregnant: bool | None,
    knowledge: Knowledge,
) -> None:
    """What the text says of the patient."""
    found = read_message(text, Patient(), knowledge).patient
    assert (found.age, found.sex, found.pregnant) == (age, sex, pregnant)
