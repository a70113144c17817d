"""Numbers to compute with, chosen from the device.

bfloat16 from compute capability 8.0 on. An older GPU (a T4 is 7.5) gets float16 with a loss scaler: PyTorch answers
"supported" to bfloat16 there too, but emulates it. The adapter is float32 everywhere: float16 gradients of float16
weights make the scaler fail, and bfloat16 ones lose small updates.

The CPU gets float32. bfloat16 is faster where the processor has it (AVX512-BF16, 2 cores, nf4, a 2-layer Phi-3 1,024
wide, 4 rows of 256 tokens: 0.55 s a step against 0.95 s, 2026-11-23) and much slower where it has not; training there
is a proof that the code works, so equal losses on any machine and any number of processes count for more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_BFLOAT16_FROM = (8, 0)


@dataclass(frozen=True, slots=True)
class Precision:
    """A device, and the type of number that products are computed in."""

    device: torch.device
    compute: torch.dtype
    why: str

    @property
    def bf16(self) -> bool:
        """Whether training runs under bfloat16 autocast."""
        return self.compute is torch.bfloat16

    @property
    def fp16(self) -> bool:
        """Whether training runs under float16 autocast, with a loss scaler."""
        return self.compute is torch.float16


def choose_precision(device: torch.device) -> Precision:
    """The precision of a device that training was given."""
    if device.type != "cuda":
        return precision_of(None, device)
    return precision_of(torch.cuda.get_device_capability(device), device)


def precision_of(capability: tuple[int, int] | None, device: torch.device) -> Precision:
    """The precision for a GPU of that compute capability; None is the CPU."""
    if capability is None:
        return Precision(device, torch.float32, "CPU")
    told = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= _BFLOAT16_FROM:
        return Precision(device, torch.bfloat16, told)
    return Precision(device, torch.float16, f"{told}, which only emulates bfloat16")
