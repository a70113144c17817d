"""How far a quantized model is from F16 on held-out replies: perplexity, KL divergence, same likeliest token.

The F16 logits are computed once and kept as float16 in a file beside the models (as llama-perplexity does) until every
quantization is compared. Only reply tokens count: prompts are never generated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training.gguf_model import GgufModel, log_softmax
from training.items import Item


@dataclass(frozen=True, slots=True)
class Comparison:
    """Over `tokens` reply tokens. KL divergence in nats per token; perplexities are of the same vocabulary."""

    tokens: int
    perplexity: float
    f16_perplexity: float
    mean_kl: float
    p99_kl: float
    same_top: float

    def as_json(self) -> dict[str, Any]:
        """Rounded figures by name."""
        return {key: value if key == "tokens" else round(value, 6) for key, value in asdict(self).items()}


def context_for(items: Sequence[Item], extra: int = 0) -> int:
    """A context, in multiples of 256 tokens, that holds the longest item and `extra` more tokens."""
    longest = max(len(item.prompt) + max(len(item.reply), extra) for item in items)
    return math.ceil((longest + 1) / 256) * 256


def write_reference(f16: Path, items: Sequence[Item], target: Path, threads: int) -> None:
    """The F16 logits at every reply token, as a float16 array in `target`; left alone when it is there."""
    if target.is_file():
        return
    model = GgufModel(f16, context_for(items), threads)
    partial = target.with_name(target.name + ".part")
    total = sum(len(item.reply) for item in items)
    kept_TV = np.lib.format.open_memmap(partial, "w+", np.float16, (total, model.vocabulary))
    place = 0
    for item in tqdm(items, desc="F16", unit="reply", leave=False):
        found_TV = model.logits([*item.prompt, *item.reply], len(item.prompt))
        kept_TV[place : place + len(found_TV)] = found_TV
        place += len(found_TV)
    kept_TV.flush()
    del kept_TV
    model.close()
    partial.replace(target)


def compare(quantized: Path, items: Sequence[Item], reference: Path, threads: int) -> Comparison:
    """The figures of one quantized file against the F16 logits of `write_reference`."""
    kept_TV = np.load(reference, mmap_mode="r")
    model = GgufModel(quantized, context_for(items), threads)
    divergences: list[npt.NDArray[np.float32]] = []
    lost, lost_f16, same, place = 0.0, 0.0, 0, 0
    for item in tqdm(items, desc=quantized.name, unit="reply", leave=False):
        found_TV = log_softmax(model.logits([*item.prompt, *item.reply], len(item.prompt)))
        base_TV = log_softmax(kept_TV[place : place + len(found_TV)].astype(np.float32))
        place += len(found_TV)
        rows_T, reply_T = np.arange(len(item.reply)), np.array(item.reply)
        divergences.append((np.exp(base_TV) * (base_TV - found_TV)).sum(axis=1))
        lost -= float(found_TV[rows_T, reply_T].sum())
        lost_f16 -= float(base_TV[rows_T, reply_T].sum())
        same += int((base_TV.argmax(axis=1) == found_TV.argmax(axis=1)).sum())
    model.close()
    kl_T = np.concatenate(divergences)
    return Comparison(
        tokens=len(kl_T), perplexity=math.exp(lost / len(kl_T)), f16_perplexity=math.exp(lost_f16 / len(kl_T)),
        mean_kl=float(kl_T.mean()), p99_kl=float(np.quantile(kl_T, 0.99)), same_top=same / len(kl_T),
    )  # fmt: skip
