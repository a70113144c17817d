"""Reading whole messages: lists of places, pronouns, who is ill, what is over and what goes on."""

from __future__ import annotations

import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Patient


def read(diagnoser: Diagnoser, text: str) -> dict[str, str]:
    """Finding -> state, the present winning."""
    states: dict[str, str] = {}
    for o in diagnoser.assess(text, Patient()).observations:
        if states.get(o.finding.id) != "present":
            states[o.finding.id] = o.state.value
    return states


@pytest.mark.parametrize(
    ("text", "finding", "state"),
    [
        ("J'ai mal à la gorge, au ventre et dans le dos.", "abdominal_pain", "present"),
        ("J'ai la tête, le cou et le dos qui me font mal.", "neck_pain", "present"),
        ("J'ai mal en bas de la poitrine et au ventre.", "lower_abdominal_pain", None),
        ("J'ai mal au genou, pas au dos.", "low_back_pain", None),
        ("J'ai mal à la tête.", "pain_unspecified", None),
        ("J'ai du sang dans les selles.", "bleeding_unspecified", None),
        ("J'ai une bosse, aucune douleur.", "pain_unspecified", "absent"),
        ("Mon nez coule ou se bouche.", "nasal_congestion", "present"),
        ("Pas de pertes ni de démangeaisons.", "vaginal_discharge", "absent"),
        ("J'ai des pertes de mémoire.", "vaginal_discharge", None),
        ("J'ai des vertiges sans maux de tête.", "headache", "absent"),
        ("Je ne supporte plus les maux de tête.", "unilateral_headache", None),
        ("J'ai de la toux. Elle est sèche.", "dry_cough", "present"),
        ("Pas de fièvre, elle joue quand même.", "fever", "absent"),
        ("J'ai mal au genou. Depuis hier il est rouge et gonflé.", "joint_swelling", "present"),
        ("Mon fils a de la fièvre. Il tousse.", "cough", "present"),
        ("Ma mère est inquiète. J'ai mal au bras.", "arm_pain", "present"),
        ("Mon fils a de la fièvre et il a fait une convulsion l'an dernier.", "fever", "present"),
        ("L'an dernier j'ai eu une pneumonie et j'ai toussé un mois.", "cough", "past"),
        ("Je suis allé en Guinée le mois dernier et j'ai de la fièvre.", "fever", "present"),
        ("Les plaies dans la bouche ont commencé il y a quatre mois.", "mouth_sores", "present"),
        ("Mon bébé est né il y a 8 semaines, il a de la fièvre.", "fever", "present"),
        ("J'ai lu des horreurs sur les convulsions.", "seizure", "unknown"),
        ("Ma mère est asthmatique. Je tousse.", "family_asthma", "other"),
        ("Mon fils est asthmatique, il siffle en respirant.", "asthma_history", "present"),
        ("Il ne boite pas le matin.", "limping", "absent"),
        ("Mon pouls est à 42.", "fever", None),
        ("J'ai plus de salive que d'habitude.", "dry_mouth", None),
        ("J'ai plus de salive que d'habitude.", "excess_saliva", "present"),
        ("J'ai perdu du poids sans le vouloir depuis trois mois.", "since_months", "present"),
        ("J'ai eu deux doses du vaccin covid et je tousse.", "named_covid_19", "unknown"),
        ("Un proche parent a eu un infarctus. J'ai mal au ventre.", "named_acute_myocardial_infarction", "other"),
        ("J'ai l'œil gauche qui est devenu rouge et douloureux.", "red_eye", "present"),
        ("J'ai l'œil gauche qui est devenu rouge et douloureux.", "eye_pain", "present"),
        ("J'ai mal aux amygdales, à la gorge et sous la mâchoire.", "jaw_pain", None),
        ("J'ai mal aux amygdales, à la gorge et sous la mâchoire.", "front_neck_pain", "present"),
        ("J'ai mal à la gorge et à la mâchoire.", "jaw_pain", "present"),
        ("Une contracture dans le cou m'empêche de tourner la tête.", "dizziness", None),
        ("Je respire souvent la fumée de cigarette des autres.", "gas_heating_exposure", None),
        ("J'ai mangé quelque chose auquel je suis allergique.", "allergen_exposure", "present"),
        ("J'ai failli avoir un accident de voiture.", "severe_trauma", "unknown"),
        ("J'ai failli m'évanouir.", "near_fainting", "present"),
        ("Mes urines ont leur couleur et leur odeur normales.", "cloudy_urine", None),
        ("Une croûte jaune sur la peau du visage.", "jaundice", None),
        ("Je prends un médicament pour la tension depuis 3 ans.", "new_medication", None),
        ("Mon bébé est tout endormi.", "drowsiness", "present"),
        ("J'ai de la fièvre. Il fait 38 dans l'appartement.", "high_fever", None),
        ("ancben toxicomane, frissons et fièvre depuis hier.", "fever", "present"),
        ("Mes jambes ne sont ni gonflées ni rouges.", "leg_swelling", "absent"),
        ("J'ai mal au ventre, ni au dos ni à la tête.", "abdominal_pain", "present"),
        ("Je perds du sang rouge par l'anus.", "vaginal_bleeding", None),
        ("Depuis ce matin impossible d'avaler.", "difficulty_swallowing", "present"),
        ("Elle n'est pas parvenue à téter cette nuit.", "poor_feeding", "present"),
        ("J'ai du mal à plier le genou.", "knee_pain", "present"),
        ("J'ai du mal à bouger le bras.", "arm_pain", None),
        ("J'ai mal à en pleurer à l'épaule.", "shoulder_pain", "present"),
        ("Je n'ai aucune difficulté à avaler.", "difficulty_swallowing", "absent"),
        ("Je vous écris à la Toussaint, chez Nicole.", "cough", None),
        ("Ma tension n'est pas bien équilibrée.", "hypertension_history", "present"),
        ("Elle respire normalement et joue.", "dyspnea", "absent"),
        ("Il respire bien vite.", "dyspnea", None),
        ("Il ne respire pas bien.", "dyspnea", "present"),
        ("Je respire bien quand je suis assis.", "dyspnea", None),
        ("Est-ce que je vois bien ?", "vision_loss", None),
        ("Avant je voyais bien.", "vision_loss", None),
        ("Je respire bien mais je m'étouffe la nuit, grosse gêne pour respirer.", "dyspnea", "present"),
        ("Le test covid est négatif.", "named_covid_19", "absent"),
        ("Mon pied est toujours froid depuis l'hiver dernier.", "poor_leg_circulation_skin", "present"),
    ],
)
def test_a_message_is_read_as_it_is_meant(diagnoser: Diagnoser, text: str, finding: str, state: str | None) -> None:
    """The state of one finding; None when the message does not say it."""
    assert read(diagnoser, text).get(finding) == state


def test_family_history_weighs(diagnoser: Diagnoser) -> None:
    """What relatives have is told as theirs, and counts as the patient's risk."""
    alone = diagnoser.assess("Je tousse la nuit et ça siffle.", Patient(20), (), 10)
    with_family = diagnoser.assess("Je tousse la nuit et ça siffle. Ma mère est asthmatique.", Patient(20), (), 10)
    p = {c.pathology.id: c.probability for c in alone.differential}
    q = {c.pathology.id: c.probability for c in with_family.differential}
    assert q["chronic_asthma"] > p.get("chronic_asthma", 0)


def test_the_unborn_is_not_the_patient(diagnoser: Diagnoser) -> None:
    """What a pregnant woman tells of the baby she carries is about her."""
    found = diagnoser.assess("Enceinte de 34 semaines, mon bébé bouge moins depuis hier.", Patient())
    assert (found.patient.age, found.patient.pregnant) == (None, True)
    assert "reduced_fetal_movements" in {reason.rule for reason in found.triage.reasons}
    assert found.differential[0].pathology.id == "reduced_movements_to_check"


@pytest.mark.parametrize("who", ["Ma grand-mère", "Mamie"])
def test_a_grandmother_is_old(diagnoser: Diagnoser, who: str) -> None:
    """No age said: the rules for the old apply."""
    triage = diagnoser.assess(f"{who} a de la diarrhée depuis hier.", Patient()).triage
    assert "diarrhea_vomiting_over_75" in {reason.rule for reason in triage.reasons}
