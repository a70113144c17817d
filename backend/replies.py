"""The written reply: the model's sentences as long as the guard lets them through, the template for the rest.

A reply that ends without the first cause or without what to do is completed by the template and says so. Whatever
happens to the model, there is a reply.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from backend.core.facts import Facts
from backend.core.guard import Guard, split_reply
from backend.core.ports import ModelStatus, Phase, ReplyModel, ReplyUnavailable
from backend.core.prompt import render
from backend.core.text import plain
from backend.core.wording import word_reply
from backend.metrics import Metrics

_MOST_SENTENCES = 12
_STRONG_END = (".", "!", "?", "…")


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply. `source` is "model" or "template"; `reason` says why the template had to answer or finish."""

    text: str
    source: str
    model: str | None
    reason: str | None


class ReplyWriter:
    """Words replies from facts with a model, a guard and a template."""

    def __init__(self, model: ReplyModel | None, guard: Guard, metrics: Metrics) -> None:
        self._model = model
        self._guard = guard
        self._metrics = metrics

    async def write(self, facts: Facts, patient_text: str) -> AsyncGenerator[str | Reply, None]:
        """Verified sentences as they come, then the whole `Reply`, last."""
        said: list[str] = []
        reason: str | None = None
        try:
            async for sentence in self._sentences(facts, patient_text):
                refusal = self._guard.refuse(sentence, facts)
                if refusal is not None:
                    self._metrics.refusals.labels(refusal.value).inc()
                    reason = f"guard_{refusal.value}"
                    break
                said.append(sentence)
                yield sentence
        except ReplyUnavailable as error:
            reason = error.reason
        reason = reason or self._what_is_missing(said, facts)
        if reason is not None:
            for sentence in self._completion(said, facts):
                said.append(sentence)
                yield sentence
        source = "model" if reason is None else "template"
        self._metrics.replies.labels(source, reason or "").inc()
        status = self.status
        yield Reply(" ".join(said), source, status.name if status.phase is Phase.READY else None, reason)

    @property
    def status(self) -> ModelStatus:
        """The phase of the model; `off` when the service runs without one."""
        return self._model.status if self._model is not None else ModelStatus(Phase.OFF)

    async def _sentences(self, facts: Facts, patient_text: str) -> AsyncGenerator[str, None]:
        """The model's reply cut into sentences while it is written."""
        if self._model is None:
            raise ReplyUnavailable("model_off")
        prompt = render(facts, patient_text, self._model.style)
        pending = ""
        count = 0
        async for piece in self._model.write(prompt):
            pending += piece
            *whole, pending = split_reply_open(pending)
            for sentence in whole:
                count += 1
                if count > _MOST_SENTENCES:
                    return
                yield sentence
        for sentence in split_reply(pending):
            yield sentence

    def _what_is_missing(self, said: list[str], facts: Facts) -> str | None:
        text = plain(" ".join(said))
        if facts.causes and plain(facts.causes[0]).split("'")[-1].split(" ", 1)[-1] not in text:
            return "cause_missing"
        if not self._guard.states_action(said, facts.level):
            return "action_missing"
        return None

    def _completion(self, said: list[str], facts: Facts) -> list[str]:
        """The template's sentences that the model has not already said."""
        already = plain(" ".join(said))
        return [sentence for sentence in word_reply(facts) if plain(sentence) not in already]


def split_reply_open(text: str) -> list[str]:
    """Sentences of a text still being written; the last item is what may go on."""
    sentences = split_reply(text)
    if not sentences:
        return [text]
    if text[-1:].isspace() and sentences[-1].endswith(_STRONG_END):
        return [*sentences, ""]
    *whole, _ = sentences
    return [*whole, text[text.rindex(sentences[-1]) :]]
