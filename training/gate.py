"""The gate: what must hold before a model may be published. Every check returns its problems; none means it passes.

(a) Hugging Face and the GGUF give the same token ids on golden dialogues, and so does the server's own way of encoding;
(b) the server's prompt renderer writes what the model's own chat template writes, with one beginning-of-text token at
most; (c) no measure that the configuration names is worse than the base's beyond its margin. A failed gate publishes
nothing, and `evaluation.json` says why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llama_cpp import Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from backend.core.facts import Facts
from backend.core.prompt import Piece, Style, render
from training.config import GateConfig
from training.gguf_file import read_header
from training.items import ChatReader, SlotReader, dialogue
from training.synthesise import facts_from_json

GOLDEN = Path(__file__).with_name("golden.json")
_LOST_SCORE = -1000.0
Encode = Callable[[Sequence[Piece]], list[int]]  # the server's, of the model loaded as it loads it


@dataclass(frozen=True, slots=True)
class Golden:
    """A patient's text, the facts about it, and a reply."""

    text: str
    facts: Facts
    reply: str

    def messages(self) -> list[dict[str, str]]:
        """The whole dialogue."""
        return [*dialogue(self.facts, self.text), {"role": "assistant", "content": self.reply}]


@cache
def golden_dialogues() -> tuple[Golden, ...]:
    """Accents, apostrophes, emoji, double spaces, tabs, line breaks, numbers and slang, in every level of urgency."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["dialogues"]
    return tuple(Golden(row["text"], facts_from_json(row["facts"]), row["reply"]) for row in rows)


def token_problems(gguf: Path, reader: ChatReader, encode: Encode) -> list[str]:
    """(a) for a chat model: the ids of the text that the template writes, and of what the server encodes."""
    vocabulary = Llama(str(gguf), vocab_only=True, verbose=False)
    bos = reader.tokenizer.bos_token_id
    different, served_different = [], []
    style = reader.style
    doubled = False
    for golden in golden_dialogues():
        text = reader.template_text(golden.messages(), opened=False)
        trained = reader.whole_ids(text)
        found = vocabulary.tokenize(text.encode(), add_bos=False, special=True)
        different += [_first_difference(trained, found, vocabulary)] if trained != found else []
        asked = list(reader.prompt(golden.facts, golden.text))
        served = encode(render(golden.facts, golden.text, style).pieces)
        served_different += [_first_difference(asked, served, vocabulary)] if asked != served else []
        doubled = doubled or any(ids[:2] == [bos, bos] for ids in (trained, served))
    vocabulary.close()
    total = len(golden_dialogues())
    problems = [f"{gguf.name}: two beginning-of-text tokens at the start of a prompt"] if doubled else []
    if different:
        problems.append(
            f"{gguf.name}: {len(different)} of {total} golden dialogues have other token ids than in training; "
            f"{different[0]}{_explain(gguf, style)}"
        )
    if served_different:
        problems.append(
            f"{gguf.name}: the server encodes {len(served_different)} of {total} golden prompts differently from "
            f"training; {served_different[0]}"
        )
    return problems


def slot_token_problems(gguf: Path, reader: SlotReader, encode: Encode) -> list[str]:
    """(a) and (b) for an embedded model: sentencepiece and the server encode the same prompts to the same ids."""
    different = [
        golden.text
        for golden in golden_dialogues()
        if list(reader.prompt(golden.facts, golden.text))
        != encode(render(golden.facts, golden.text, Style.SLOTS).pieces)
    ]
    if not different:
        return []
    return [f"{gguf.name}: {len(different)} golden prompts have other token ids than in training{_explain(gguf, None)}"]


def template_problems(gguf: Path, reader: ChatReader) -> list[str]:
    """(b): the renderer, the Hugging Face template and the GGUF's template write the same text."""
    metadata = read_header(gguf).metadata
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        return [f"{gguf.name}: no chat template; runtimes would fall back on another family's"]
    bos = reader.tokenizer.bos_token or ""
    formatter = Jinja2ChatFormatter(template, eos_token=reader.tokenizer.eos_token or "", bos_token=bos)
    adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama"))
    problems: dict[str, None] = {}
    for golden in golden_dialogues():
        rendered = "".join(piece.text for piece in render(golden.facts, golden.text, reader.style).pieces)
        messages: Any = dialogue(golden.facts, golden.text)
        own = reader.template_text(messages, opened=True)
        in_gguf = formatter(messages=messages).prompt
        if own != in_gguf:
            problems[f"{gguf.name}: its chat template writes another text than the one of training"] = None
        if own.removeprefix(bos) != rendered:
            told = (
                f"{gguf.name}: the server's {reader.style.value} renderer does not write what the model's template does"
            )
            problems[told] = None
        if (bool(bos) and own.startswith(bos)) != adds_bos:
            told = f"{gguf.name}: add_bos_token is {adds_bos}, and the template of training begins otherwise"
            problems[told] = None
    return list(problems)


def measure_problems(contestants: Mapping[str, Mapping[str, Any]], config: GateConfig) -> list[str]:
    """(c): every model that is built on the adapter against the base, and the merged model against the adapter."""
    base, problems = contestants["base"], []
    for name, figures in contestants.items():
        if name in ("base", "tuned"):
            continue
        worse = figures["loss"]["loss"] - base["loss"]["loss"]
        if not worse <= config.loss_margin:  # also when it is not a number
            problems.append(f"{name}: held-out loss is {worse:+.4f} nats per token, {config.loss_margin} allowed")
        for key, margin in (
            ("accepted", config.accepted_margin), ("stop_rate", config.stop_rate_margin),
            ("french", config.french_margin), ("dosage_refusals", config.dosage_refusal_margin),
        ):  # fmt: skip
            problems += _share_problems(name, key, figures[key], base[key], margin)
        more = figures["urgency_contradictions"] - base["urgency_contradictions"]
        if more > config.contradictions_margin:
            problems.append(f"{name}: urgency contradicted {more} times more than by the base")
        if figures["urgency_contradictions"] > config.most_contradictions:
            told = f"{name}: urgency contradicted {figures['urgency_contradictions']} times"
            problems.append(f"{told}, {config.most_contradictions} allowed")
    apart = contestants["merged"]["loss"]["loss"] - contestants["tuned"]["loss"]["loss"]
    if not apart <= config.merged_loss_margin:
        problems.append(
            f"merged: held-out loss is {apart:+.4f} from the adapter's, {config.merged_loss_margin} allowed"
        )
    return problems


def divergence_problems(comparison: Mapping[str, Any], most_kl: float) -> list[str]:
    """Q4_K_M, the file that is served, against F16."""
    row = comparison["quantizations"].get("Q4_K_M")
    if row is None or row["mean_kl"] <= most_kl:
        return []
    return [f"Q4_K_M: mean KL divergence against F16 is {row['mean_kl']:.4f} nats per token, {most_kl} allowed"]


def _share_problems(
    name: str, key: str, own: Mapping[str, Any], base: Mapping[str, Any], margin: float
) -> Sequence[str]:
    if own["share"] is None or base["share"] is None:
        return [f"{name}: {key} could not be measured; is there a `synthesised` source with held-out rows?"]
    if own["share"] < base["share"] - margin:
        return [f"{name}: {key} is {own['share']:.3f}, the base's {base['share']:.3f}, {margin} below it allowed"]
    return []


def _first_difference(trained: Sequence[int], found: Sequence[int], vocabulary: Llama) -> str:
    place = next((i for i, (a, b) in enumerate(zip(trained, found, strict=False)) if a != b), len(found))
    texts = [vocabulary.detokenize(list(ids[max(0, place - 2) : place + 4]), special=True) for ids in (trained, found)]
    return f"{len(trained)} and {len(found)} ids, different from number {place} on ({texts[0]!r}, {texts[1]!r})"


def _explain(gguf: Path, style: Style | None) -> str:
    """What usually is the reason."""
    metadata = read_header(gguf).metadata
    reasons = []
    name = str(metadata.get("general.name", ""))
    if style is Style.PHI3 and not any(known in name.lower() for known in ("phi-3", "phi3")):
        reasons.append(f"general.name is {name!r}, and llama.cpp needs Phi-3 in it")
    scores = metadata.get("tokenizer.ggml.scores")
    if scores and sum(score == _LOST_SCORE for score in scores) > len(scores) / 2:
        reasons.append("every token has the score -1000: tokenizer.model was lost before the conversion")
    return "".join(f"; {reason}" for reason in reasons)
