"""The models that are compared on the same token ids: the base, base and adapter in 4 bits, the merged, each GGUF."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from training.adapter import base_folder, load_quantized
from training.config import TuneRun
from training.gguf_model import GgufModel, log_softmax
from training.items import Item
from training.paths import adapter_path, model_path
from training.precision import choose_precision

_WIDE = 2_048


class Contestant(Protocol):
    """One model under comparison."""

    def loss(self, item: Item) -> float:
        """Nats over the whole reply."""

    def reply(self, prompt: Sequence[int], most_tokens: int) -> tuple[list[int], bool]:
        """A greedy reply, and whether the model ended it itself; the end token is not in it."""

    def close(self) -> None:
        """Free the memory."""


class GgufContestant:
    """A GGUF through llama.cpp."""

    def __init__(self, path: Path, context_tokens: int, threads: int) -> None:
        self._model = GgufModel(path, context_tokens, threads)

    def loss(self, item: Item) -> float:
        """Nats over the whole reply."""
        logits_TV = self._model.logits([*item.prompt, *item.reply], len(item.prompt))
        chosen = log_softmax(logits_TV)[range(len(item.reply)), list(item.reply)]
        return -float(chosen.sum())

    def reply(self, prompt: Sequence[int], most_tokens: int) -> tuple[list[int], bool]:
        """A greedy reply."""
        return self._model.continue_greedily(prompt, most_tokens)

    def close(self) -> None:
        """Free the model."""
        self._model.close()


class HfContestant:
    """A transformers model, on the GPU when there is one."""

    def __init__(self, model: Any, end_ids: frozenset[int]) -> None:  # noqa: ANN401 - transformers is untyped
        self._model = model.eval()
        self._end_ids = end_ids

    def loss(self, item: Item) -> float:
        """Nats over the whole reply, summed in float32."""
        ids_BT = torch.tensor([[*item.prompt, *item.reply]], device=self._model.device)
        with torch.inference_mode():
            logits_TV = self._model(input_ids=ids_BT).logits[0, len(item.prompt) - 1 : -1].float()
        chosen = torch.log_softmax(logits_TV, dim=-1).gather(1, ids_BT[0, len(item.prompt) :, None])
        return -float(chosen.sum())

    def reply(self, prompt: Sequence[int], most_tokens: int) -> tuple[list[int], bool]:
        """A greedy reply; the generation settings saved with a model (sampling, penalties) are not used."""
        ids_BT = torch.tensor([list(prompt)], device=self._model.device)
        found: list[int] = []
        past = None
        with torch.inference_mode():
            while len(found) < most_tokens:
                output = self._model(input_ids=ids_BT, past_key_values=past, use_cache=True)
                token = int(output.logits[0, -1].argmax())
                if token in self._end_ids:
                    return found, True
                found.append(token)
                past, ids_BT = output.past_key_values, torch.tensor([[token]], device=self._model.device)
        return found, False

    def close(self) -> None:
        """Free the model and its GPU memory."""
        del self._model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load_base(run: TuneRun, end_ids: frozenset[int]) -> HfContestant:
    """The untuned base, in 16 bits or more."""
    return HfContestant(_load(base_folder(run.base)), end_ids)


def load_tuned(run: TuneRun, end_ids: frozenset[int]) -> HfContestant:
    """The adapter on the base in nf4, as it was trained."""
    base = load_quantized(base_folder(run.base), choose_precision(_device()))
    return HfContestant(PeftModel.from_pretrained(base, str(adapter_path(run))), end_ids)


def load_merged(run: TuneRun, end_ids: frozenset[int]) -> HfContestant:
    """The merged 16-bit model."""
    return HfContestant(_load(model_path(run)), end_ids)


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _load(folder: Path) -> Any:  # noqa: ANN401 - transformers is untyped
    precision = choose_precision(_device())
    dtype = precision.compute
    if precision.device.type == "cpu" and AutoConfig.from_pretrained(folder).hidden_size >= _WIDE:
        dtype = torch.bfloat16  # a base of the size of TinyLlama or more would not fit in memory twice over
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": precision.device})
