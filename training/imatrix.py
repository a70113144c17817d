"""An importance matrix from our own prompts: for every weight, the mean square of what each of its columns is fed.

llama.cpp then rounds the columns that matter most with the least error. Forward hooks on the Hugging Face model collect
it, so no llama.cpp tool has to be built. The training rows are used, never the held-out ones.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training.errors import TrainingError
from training.gguf_file import Header
from training.items import Item

Matrix = Mapping[str, npt.NDArray[np.float32]]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$")
_GGUF_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "qkv_proj": "attn_qkv", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "gate_up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(module: str) -> str | None:
    """`model.layers.3.self_attn.q_proj` -> `blk.3.attn_q.weight`; None for what is no weight of a block."""
    found = _LAYER.search(module)
    name = _GGUF_NAMES.get(found.group(2)) if found else None
    return f"blk.{found.group(1)}.{name}.weight" if found and name else None


def collect(folder: Path, items: Sequence[Item]) -> dict[str, npt.NDArray[np.float32]]:
    """The matrix of the model in `folder` over `items`, by GGUF tensor name."""
    import torch  # noqa: PLC0415 - only when a matrix is wanted
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.eval()
    sums: dict[str, Any] = {}

    def hook(name: str) -> Callable[[Any, Any], None]:
        def add(_module: object, inputs: tuple[Any, ...]) -> None:
            squares = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double().square().sum(dim=0)
            sums[name] = sums[name] + squares if name in sums else squares

        return add

    for module_name, module in model.named_modules():
        if name := gguf_name(module_name):
            module.register_forward_pre_hook(hook(name))
    with torch.inference_mode():
        for item in tqdm(items, desc="importance matrix", unit="prompt", leave=False):
            model(input_ids=torch.tensor([[*item.prompt, *item.reply]]), use_cache=False)
    tokens = sum(len(item.prompt) + len(item.reply) for item in items)
    return {name: (value / tokens).float().numpy() for name, value in sums.items()}


def check_matrix(matrix: Matrix, header: Header) -> None:
    """Every weight of every block must have its row: llama.cpp quantizes the others without one and says nothing.

    Raises:
        TrainingError: a weight has none, or one of another length.
    """
    wanted = {t.name: t.columns for t in header.tensors if t.dimensions > 1 and t.name.startswith("blk.")}
    found = {name: len(values) for name, values in matrix.items()}
    if wanted != found:
        different = sorted(name for name in wanted.keys() | found if wanted.get(name) != found.get(name))
        raise TrainingError(f"the importance matrix does not fit the model: {', '.join(different[:6])}")


def as_parameter(matrix: Matrix) -> ctypes.Array[Any]:
    """The matrix as llama_model_quantize wants it, ended by an empty entry; it must outlive the call."""
    entries: ctypes.Array[Any] = (llama.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, values) in zip(entries, sorted(matrix.items()), strict=False):
        row = np.ascontiguousarray(values, dtype=np.float32)
        entry.name = name.encode()
        entry.data = (ctypes.c_float * len(row))(*row.tolist())
        entry.size = len(row)
    return entries
