"""The processes of one training: a single one, or those that `accelerate launch` started."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState

from training.artefacts import say


def join_processes() -> PartialState:
    """Join the others, over NCCL on GPUs and gloo on CPUs; all start with this.

    A CPU has to be asked for: without a GPU accelerate would let each process train alone, all writing one model.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")
    return PartialState(cpu=asked or not torch.cuda.is_available())


def say_once(message: str) -> None:
    """One line of progress, from the first process only."""
    if PartialState().is_main_process:
        say(message)
