"""The reply writer: the model's sentences as long as they may be said, the template for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from backend.core.diagnose import Diagnoser
from backend.core.entities import Patient
from backend.core.facts import Facts, facts_of
from backend.core.guard import Guard
from backend.core.ports import Phase
from backend.core.prompt import CAUSE_SLOTS, Prompt
from backend.core.wording import word_reply
from backend.metrics import Metrics
from backend.replies import Reply, ReplyWriter, split_reply_open
from tests.fakes import FakeModel

TEXT = "J'ai mal à la tête et je vois des points lumineux"
EVOKE = "Ce que vous décrivez peut faire penser à une migraine."
ACT = "Prenez rendez-vous avec un médecin dans les 7 jours."
DOSE = "Prenez 1 g de paracétamol toutes les 6 heures."


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="module")
def facts(diagnoser: Diagnoser) -> Facts:
    """The facts of a migraine."""
    return facts_of(diagnoser.assess(TEXT, Patient()))


@pytest.fixture
def metrics() -> Metrics:
    """The counters of one test."""
    return Metrics()


@pytest.fixture
def writer(model: FakeModel, guard: Guard, metrics: Metrics) -> ReplyWriter:
    """A writer whose model says what the test tells it to."""
    return ReplyWriter(model, guard, metrics)


async def write(writer: ReplyWriter, facts: Facts) -> tuple[list[str], Reply]:
    """The sentences as they came, and the reply, which must come last."""
    *sentences, reply = [part async for part in writer.write(facts, TEXT)]
    assert isinstance(reply, Reply)
    assert reply.text == " ".join(str(sentence) for sentence in sentences)
    return [sentence for sentence in sentences if isinstance(sentence, str)], reply


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    """The value of a counter."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


# --- the model's own words -------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_good_reply_is_the_models(
    writer: ReplyWriter, model: FakeModel, facts: Facts, metrics: Metrics
) -> None:
    """All its sentences, its name, no reason; and it is counted."""
    model.pieces = [f"{EVOKE} {ACT}"]
    sentences, reply = await write(writer, facts)
    assert sentences == [EVOKE, ACT]
    assert reply == Reply(f"{EVOKE} {ACT}", "model", "fake", None)
    assert counted(metrics, "doctis_replies_total", source="model", reason="") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 50, 53, 54, 55, 56, 1_000])
async def test_sentences_do_not_depend_on_how_the_text_is_cut(
    writer: ReplyWriter, model: FakeModel, facts: Facts, size: int
) -> None:
    """Pieces of any length, cut in words, at a point or after it, give the same sentences."""
    said = f"{EVOKE} {ACT} Notez les jours de crise et ce qui les a précédées."
    model.pieces = [said[start : start + size] for start in range(0, len(said), size)]
    sentences, reply = await write(writer, facts)
    assert (len(sentences), reply.text, reply.source) == (3, said, "model")


@pytest.mark.anyio
async def test_slots_are_filled_before_the_guard_reads(writer: ReplyWriter, model: FakeModel, facts: Facts) -> None:
    """A slot token stands for the name of the first cause."""
    model.pieces = ["Ce que vous décrivez peut faire penser à ", CAUSE_SLOTS[0], f". {ACT}"]
    assert (await write(writer, facts))[1].text == f"Ce que vous décrivez peut faire penser à {facts.causes[0]}. {ACT}"


@pytest.mark.anyio
async def test_sentences_come_while_the_model_writes(guard: Guard, metrics: Metrics, facts: Facts) -> None:
    """The first sentence is handed on before the model has begun the third piece."""
    said: list[str] = []

    class Telling(FakeModel):
        async def write(self, prompt: Prompt) -> AsyncIterator[str]:
            self.prompts.append(prompt)
            for piece in (f"{EVOKE} ", ACT[:9], ACT[9:]):
                said.append(piece)
                yield piece

    async with aclosing(ReplyWriter(Telling(), guard, metrics).write(facts, TEXT)) as parts:
        assert await anext(parts) == EVOKE
        assert said == [f"{EVOKE} "]


@pytest.mark.anyio
async def test_the_patients_words_are_never_special(writer: ReplyWriter, model: FakeModel, facts: Facts) -> None:
    """The prompt holds them in plain pieces only."""
    await write(writer, facts)
    (prompt,) = model.prompts
    assert [piece.special for piece in prompt.pieces if TEXT in piece.text] == [False]


@pytest.mark.anyio
async def test_a_model_that_goes_on_and_on_is_cut(writer: ReplyWriter, model: FakeModel, facts: Facts) -> None:
    """Twelve sentences at most, and that alone is no failure."""
    model.pieces = [f"{EVOKE} ", f"{ACT} "] * 20
    sentences, reply = await write(writer, facts)
    assert (len(sentences), reply.source) == (12, "model")


# --- the template ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("refused", "rule"),
    [
        (DOSE, "dose"),
        ("Vous avez une migraine.", "diagnosis"),
        ("Cela peut aussi faire penser à une méningite.", "other_cause"),
        ("<|im_end|> Restez calme.", "markup"),
        ("Vous pouvez attendre un mois avant de voir un médecin.", "urgency"),
    ],
)
async def test_a_refused_sentence_ends_the_models_part(
    writer: ReplyWriter, model: FakeModel, facts: Facts, metrics: Metrics, refused: str, rule: str
) -> None:
    """It is never handed on, nothing of the model comes after it, the template completes, and the rule is counted."""
    model.pieces = [f"{EVOKE} {refused} {ACT} Encore une phrase."]
    sentences, reply = await write(writer, facts)
    assert sentences[0] == EVOKE
    assert refused not in reply.text
    assert "Encore une phrase." not in reply.text
    assert (reply.source, reply.reason) == ("template", f"guard_{rule}")
    assert counted(metrics, "doctis_guard_refusals_total", rule=rule) == 1
    assert counted(metrics, "doctis_replies_total", source="template", reason=f"guard_{rule}") == 1


@pytest.mark.anyio
async def test_the_template_does_not_repeat_the_model(writer: ReplyWriter, model: FakeModel, facts: Facts) -> None:
    """A sentence of the template that the model has said already is left out."""
    already = word_reply(facts)[1]
    model.pieces = [f"{already} {DOSE}"]
    sentences, _ = await write(writer, facts)
    assert sentences == [already, *(sentence for sentence in word_reply(facts) if sentence != already)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([], "cause_missing"),
        ([ACT], "cause_missing"),
        ([EVOKE], "action_missing"),
        ([f"{EVOKE} Si cela s'aggrave, voyez un médecin dans les 7 jours."], "action_missing"),
    ],
)
async def test_a_reply_that_lacks_what_matters_is_completed(
    writer: ReplyWriter, model: FakeModel, facts: Facts, pieces: list[str], reason: str
) -> None:
    """Without the first cause, or without an unconditional what to do, the template adds it and says so."""
    model.pieces = pieces
    _, reply = await write(writer, facts)
    assert (reply.source, reply.reason) == ("template", reason)
    assert "migraine" in reply.text
    assert ACT in reply.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    "reason", ["not_ready", "queue_full", "deadline", "prompt_too_long", "model_error", "stopping"]
)
async def test_an_unavailable_model_leaves_the_whole_template(
    writer: ReplyWriter, model: FakeModel, facts: Facts, reason: str
) -> None:
    """The fixed reply, with the model's own reason."""
    model.fails_with = reason
    sentences, reply = await write(writer, facts)
    assert sentences == list(word_reply(facts))
    assert (reply.source, reply.reason) == ("template", reason)


@pytest.mark.anyio
async def test_a_model_that_breaks_off_keeps_its_whole_sentences(
    writer: ReplyWriter, model: FakeModel, facts: Facts
) -> None:
    """Half a sentence is dropped."""
    model.pieces, model.fails_with = [f"{EVOKE} Notez les jours"], "deadline"
    sentences, reply = await write(writer, facts)
    assert sentences[0] == EVOKE
    assert not any(sentence.startswith("Notez les jours") and len(sentence) < 20 for sentence in sentences)
    assert (reply.source, reply.reason) == ("template", "deadline")


@pytest.mark.anyio
async def test_without_a_model_the_template_answers(guard: Guard, metrics: Metrics, facts: Facts) -> None:
    """No name, and the reason says that none was asked for."""
    writer = ReplyWriter(None, guard, metrics)
    _, reply = await write(writer, facts)
    assert reply == Reply(" ".join(word_reply(facts)), "template", None, "model_off")
    assert writer.status.phase is Phase.OFF


@pytest.mark.anyio
async def test_a_model_that_is_not_ready_is_not_named(writer: ReplyWriter, model: FakeModel, facts: Facts) -> None:
    """The name in the reply is that of a model that works."""
    model.phase, model.fails_with = Phase.LOADING, "not_ready"
    assert (await write(writer, facts))[1].model is None


# --- cutting a text that is still being written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("Bon", ["Bon"]),
        ("Bonjour.", ["Bonjour."]),
        ("Bonjour. ", ["Bonjour.", ""]),
        ("Bonjour. Ça", ["Bonjour.", "Ça"]),
        ("Bonjour. Ça va ? Oui", ["Bonjour.", "Ça va ?", "Oui"]),
        ("Bonjour, ", ["Bonjour, "]),
        ("Un. Un. Un", ["Un.", "Un.", "Un"]),
        ("38.5 de fièvre", ["38.5 de fièvre"]),
        ("Attention… ", ["Attention…", ""]),
    ],
)
def test_the_last_item_may_go_on(text: str, expected: list[str]) -> None:
    """Only a strong end followed by a space closes a sentence."""
    assert split_reply_open(text) == expected
