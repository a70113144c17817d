"""What a quantized model lost against F16: the figures agree with their definitions, computed apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the training environment")

import torch
from transformers import AutoModelForCausalLM

from tests.training.conftest import TinyRun
from training.compare import compare, context_for, write_reference
from training.errors import TrainingError
from training.gguf_model import GgufModel, log_softmax
from training.items import Item, SlotReader, reader_of, within
from training.paths import gguf_path, held_out_path, model_path, quantized_path, tokenizer_path
from training.replies import spell_out
from training.synthesise import facts_from_json

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def items(trained: TinyRun) -> list[Item]:
    """Three held-out consultations, one of them longer than a batch of 256 tokens."""
    reader = reader_of(trained.run)
    rows = [json.loads(line) for line in held_out_path(trained.run).read_text(encoding="utf-8").splitlines()]
    found = sorted((reader.item(row) for row in rows), key=lambda item: len(item.prompt) + len(item.reply))
    assert len(found[-1].prompt) + len(found[-1].reply) > 256
    return [found[0], found[1], found[-1]]


def test_llama_cpp_and_transformers_expect_the_same(trained: TinyRun, items: list[Item]) -> None:
    """Logits of the F16 GGUF at every reply token, across batch borders, are those of the Hugging Face model."""
    model = AutoModelForCausalLM.from_pretrained(model_path(trained.run), dtype=torch.float32)
    gguf = GgufModel(gguf_path(trained.run), context_for(items), 1)
    for item in items:
        ids = [*item.prompt, *item.reply]
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([ids])).logits[0, len(item.prompt) - 1 : -1].numpy()
        found = gguf.logits(ids, len(item.prompt))
        assert found.shape == expected.shape
        np.testing.assert_allclose(log_softmax(found), log_softmax(expected), atol=0.02)
    gguf.close()


def test_a_greedy_continuation_is_the_likeliest_token_each_time(trained: TinyRun, items: list[Item]) -> None:
    """Token by token with the cache, the same as from the logits of the whole; cut off after the most tokens."""
    gguf = GgufModel(quantized_path(trained.run), context_for(items, 12), 1)
    for item in items:
        ids, ended = gguf.continue_greedily(item.prompt, 12)
        logits = gguf.logits([*item.prompt, *ids, 0], len(item.prompt))
        assert logits.argmax(axis=1)[: len(ids)].tolist() == ids
        assert ended or len(ids) == 12
    gguf.close()


def test_more_tokens_than_the_context_are_refused(trained: TinyRun) -> None:
    """Nothing is cut off in silence."""
    gguf = GgufModel(quantized_path(trained.run), 256, 1)
    with pytest.raises(TrainingError, match="300 tokens do not fit in a context of 256"):
        gguf.logits([1] * 300, 1)
    gguf.close()


def test_a_model_has_no_divergence_from_itself(trained: TinyRun, items: list[Item], tmp_path: Path) -> None:
    """Zero but for the float16 of the kept logits; the reference is computed once."""
    reference = tmp_path / "reference.npy"
    write_reference(gguf_path(trained.run), items, reference, 1)
    before = reference.stat().st_mtime_ns
    write_reference(gguf_path(trained.run), items, reference, 1)
    assert reference.stat().st_mtime_ns == before
    found = compare(gguf_path(trained.run), items, reference, 1)
    assert found.tokens == sum(len(item.reply) for item in items)
    assert found.mean_kl == pytest.approx(0, abs=1e-5)
    assert found.same_top == 1.0
    assert found.perplexity == pytest.approx(found.f16_perplexity, rel=1e-3)


def test_figures_are_what_their_names_say(trained: TinyRun, items: list[Item], tmp_path: Path) -> None:
    """Perplexity, mean KL divergence and same likeliest token, computed again from the two models' logits."""
    reference = tmp_path / "reference.npy"
    write_reference(gguf_path(trained.run), items, reference, 1)
    found = compare(quantized_path(trained.run), items, reference, 1)
    log_p: list[Any] = []
    log_q: list[Any] = []
    for path, kept in ((gguf_path(trained.run), log_p), (quantized_path(trained.run), log_q)):
        model = GgufModel(path, context_for(items), 1)
        kept += [log_softmax(model.logits([*item.prompt, *item.reply], len(item.prompt))) for item in items]
        model.close()
    targets = [token for item in items for token in item.reply]
    p, q = np.concatenate(log_p).astype(np.float64), np.concatenate(log_q).astype(np.float64)
    assert found.mean_kl == pytest.approx(float((np.exp(p) * (p - q)).sum(axis=1).mean()), rel=0.05)
    assert found.mean_kl > 0
    assert found.perplexity == pytest.approx(math.exp(-q[range(len(targets)), targets].mean()), rel=1e-4)
    assert found.same_top == pytest.approx(float((p.argmax(axis=1) == q.argmax(axis=1)).mean()), abs=0.02)


def test_the_token_budget_keeps_whole_replies() -> None:
    """Items up to the budget, in order, and one at least."""
    items = [Item((1,) * 60, (2,) * 40)] * 5
    assert len(within(items, 250)) == 2
    assert len(within(items, 10)) == 1


def test_slots_read_as_the_service_fills_them(trained: TinyRun) -> None:
    """Ids of a reply with slot tokens, back to the text that a person reads."""
    reader = SlotReader(tokenizer_path(trained.run))
    for line in held_out_path(trained.run).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        facts = facts_from_json(row["facts"])
        item = reader.item(row)
        assert item.reply[-1] in reader.end_ids
        assert reader.text(item.reply[:-1], facts) == spell_out(row["reply"], facts)
        assert reader.prompt(facts, row["text"]) == item.prompt
