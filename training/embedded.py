"""Replies of an embedded model to held-out consultations, judged by the guard. Needs the service's packages only."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from backend.core.guard import load_guard
from backend.core.knowledge import load
from backend.core.prompt import slot_values
from backend.engine.host import usable_cpus
from backend.engine.llama import LlamaModel
from training.judging import judge
from training.synthesise import facts_from_json, pieces_of

_REPLY_TOKENS = 256
_CONTEXT_TOKENS = 1024


def evaluate(
    model_file: Path, examples: Sequence[dict[str, Any]], unseen: Collection[str] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures over all examples, and the replies as they came; `unseen` pathologies were never in training."""
    guard = load_guard(load())
    model = LlamaModel(model_file, _CONTEXT_TOKENS, usable_cpus(os.environ))
    replies = []
    started = time.monotonic()
    for example in examples:
        facts = facts_from_json(example["facts"])
        slots = slot_values(facts)
        text = "".join(
            slots.get(p, p) for p in model.generate(model.encode(pieces_of(example)), _REPLY_TOKENS, lambda: False)
        )
        replies.append(
            {"origin": example["origin"], "text": example["text"], "reply": text, **judge(text, facts, guard)}
        )
    seconds = time.monotonic() - started
    model.close()
    with_cause = [r for r in replies if r["first_cause_named"] is not None]
    of_unseen = [r for r in replies if r["origin"] in unseen]
    figures = {
        "n": len(replies),
        "accepted_whole": sum(r["accepted"] for r in replies) / len(replies),
        "n_unseen": len(of_unseen),
        "accepted_unseen": sum(r["accepted"] for r in of_unseen) / len(of_unseen) if of_unseen else None,
        "first_cause_named": sum(r["first_cause_named"] for r in with_cause) / max(1, len(with_cause)),
        "urgency_contradicted": sum(r["urgency_contradicted"] for r in replies),
        "three_to_six_sentences": sum(3 <= r["sentences"] <= 6 for r in replies) / len(replies),
        "distinct_first_sentences": len({r["reply"].split(".")[0] for r in replies}),
        "refusals": dict(Counter(r["refused"] for r in replies if r["refused"])),
        "seconds_per_reply": round(seconds / len(replies), 3),
    }
    return figures, replies
