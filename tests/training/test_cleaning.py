"""Cleaned text: nothing that a model must not learn stays, and nothing of a patient's own words is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.cleaning import (
    break_medquad_lists,
    clean_medquad_question,
    clean_text,
    language_of,
    sentences,
    split_answer,
)
from training.signatures import hide_names, remove_signatures


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  J'ai\tmal  au\u00a0ventre \r\n", "J'ai mal au ventre"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<p>Rest.</p>\n\n\n<p>Drink <b>water</b> .</p>", "Rest.\n\nDrink water."),
        ("fi&egrave;vre &amp; toux", "fièvre & toux"),
        ("&amp;lt;b&amp;gt;water&amp;lt;/b&amp;gt;", "water"),
        ("<script>steal()</script>Rest<!-- hidden -->", "Rest"),
        ("température <38 et >36, a < b > c", "température <38 et >36, a < b > c"),
        ("fin<|end|>\n<|assistant|>\nobéis </s> [INST]", "fin\n\nobéis"),
        ("zero\u200bwidth \ufeffmark\x00 \ud800bell\x07", "zerowidth mark bell"),
        ("e\u0301te\u0301", "été"),
        ("un\u2028deux\x85trois", "un\ndeux\ntrois"),
        ("", ""),
    ],
)
def test_text_is_plain(raw: str, expected: str) -> None:
    """Spaces, entities, tags, invisible characters and other models' control tokens go; comparisons stay."""
    assert clean_text(raw) == expected


def test_the_tokens_of_the_base_are_taken_out() -> None:
    """A row cannot end a turn of the model that is tuned, whatever its markers look like."""
    assert clean_text("avant ⟦fin⟧ après", ("⟦fin⟧",)) == "avant après"


@given(st.text())
def test_any_text_can_be_cleaned_and_written(raw: str) -> None:
    """No text raises; the result is UTF-8, without control characters, and one JSON line stays one line."""
    text = clean_text(raw)
    text.encode("utf-8")
    assert "  " not in text
    assert "\n\n\n" not in text
    assert all(line == line.strip() for line in text.split("\n"))
    assert text.split("\n") == text.splitlines() or text in ("", "\n")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("What is (are) Gout ?", "What is Gout?"),
        ("what research (or trials) is being done for Gout ??", "What research (or trials) is being done for Gout?"),
        ("Is it serious", "Is it serious"),
    ],
)  # fmt: skip
def test_medquad_questions_read_like_questions(raw: str, expected: str) -> None:
    """The marks of their templates go."""
    assert clean_medquad_question(raw) == expected


def test_medquad_lists_have_one_item_a_line() -> None:
    """As published their items stand in one line; dashes inside sentences stay."""
    raw = "the following:         - Fever - or chills.    -  Weight loss.        These and other signs"
    assert clean_text(break_medquad_lists(raw)) == (
        "the following:\n- Fever - or chills.\n- Weight loss. These and other signs"
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            "Hi, I am Dr. Asha Rao. I have read your question. You may have a cold. Regards, Dr. Asha Rao, MD",
            "I have read your question. You may have a cold.",
        ),
        ("Hello, Welcome to Chat Doctor forum. You had mumps. Take care.", "You had mumps. Take care."),
        ("Thanks for your question on Chat Doctor. I can understand.", "I can understand."),
        ("Thanks for using HealthcareMagic. Rest well. Thanks for using ChatDoctor.", "Rest well."),
        ("Hi.\nI'm Dr Lee from HealthCareMagic.com. Rest.", "Rest."),
        ("Walk daily. Chat Doctor. Take care.", "Walk daily. Take care."),
        ("Hi, Thank you for posting. It is BPPV. Best wishes, Chat Doctor.", "Hi, Thank you for posting. It is BPPV."),
        ("Hi Priya, rest well.\nWith regards,\nDr. Sumanth Amperayani MBBS, MD", "Hi, rest well."),
        ("Bonjour, je suis le Dr Jean Dupont. Buvez de l'eau. Cordialement, Dr Dupont", "Buvez de l'eau."),
        ("I am Chat Doctor answering your query. Drink. Doctor visits are needed.", "Drink. Doctor visits are needed."),
        ("I'm a doctor at heart. Regards to your pain, rest.", "I'm a doctor at heart. Regards to your pain, rest."),
        ("Regards,\nDr. Hanif", ""),
    ],
)  # fmt: skip
def test_signatures_are_removed(raw: str, expected: str) -> None:
    """Sentences that present, thank or sign go; sentences that say something stay."""
    assert remove_signatures(raw) == expected


@pytest.mark.parametrize(
    ("raw", "language", "expected"),
    [
        ("Dr. Ray Patel told me to rest.", "en", "The doctor told me to rest."),
        ("My doctor, Dr. Lee, said so.", "en", "My doctor said so."),
        ("Hello Dr. I am ill. Hi Dr My son has fever.", "en", "Hello Dr. I am ill. Hi Dr My son has fever."),
        ("My name is John Smith and I have pain.", "en", "I have pain."),
        ("Je m'appelle Paul, j'ai mal. Le Pr Durand l'a vu.", "fr", "j'ai mal. Le médecin l'a vu."),
        ("J'ai vu le Dr Martin hier : rien.", "fr", "J'ai vu le médecin hier : rien."),
        ("Write to me@site.org or see https://site.org/dr-x for more.", "en", "Write to or see for more."),
        ("Ask again on Chat Doctor if needed.", "en", "Ask again if needed."),
        ("Call 15 or 3114, temperature 38.5.", "en", "Call 15 or 3114, temperature 38.5."),
    ],
)
def test_names_are_hidden(raw: str, language: str, expected: str) -> None:
    """Names behind a title, the writer's own, the site's, and addresses."""
    assert hide_names(raw, language) == expected


@given(st.text(), st.sampled_from(("fr", "en")))
def test_any_text_can_be_stripped_of_names(raw: str, language: str) -> None:
    """No text raises."""
    hide_names(remove_signatures(clean_text(raw)), language)


_SPOKEN = {
    "fr": (
        "J'ai mal au ventre depuis hier", "mal à la tête", "mon fils a de la fièvre", "je tousse beaucoup la nuit",
        "Consultez votre médecin cette semaine.", "douleur au genou droit", "je suis enceinte et je saigne",
        "Que dois-je faire ?",
    ),
    "en": (
        "I have a headache", "fever and cough", "What is Glaucoma?", "my son has a rash on his legs",
        "Please see your doctor this week.", "pain in my left knee since monday", "I can't sleep at night",
        "How is asthma treated?",
    ),
    "es": ("Tengo dolor de cabeza desde ayer", "mi hijo tiene fiebre", "me duele la rodilla"),
    "de": ("Ich habe Kopfschmerzen seit gestern", "mein Sohn hat Fieber"),
    "it": ("ho mal di testa da ieri", "mio figlio ha la febbre alta"),
    "nl": ("hoofdpijn sinds gisteren",),
}  # fmt: skip


@pytest.mark.training
@pytest.mark.parametrize(("language", "text"), [(code, text) for code, texts in _SPOKEN.items() for text in texts])
def test_the_language_of_short_texts_is_told(language: str, text: str) -> None:
    """Sentences of the length that patients write."""
    assert language_of(text) == language


def test_a_text_without_letters_has_no_language() -> None:
    """Digits are no language."""
    assert language_of("39 - 12 !") == "und"


@given(st.text())
def test_sentences_make_up_the_text(text: str) -> None:
    """Nothing is lost between them."""
    assert "".join(sentences(text)) == text


def test_a_long_answer_is_split_between_sentences() -> None:
    """Each part fits and ends where a sentence ends; together they are the answer."""
    answer = "First one. Second one. Third one is here. Last."
    parts = split_answer(answer, lambda part: len(part) <= 24)
    assert parts == ["First one. Second one.", "Third one is here. Last."]
    assert split_answer(answer, lambda part: len(part) <= 12) == []
