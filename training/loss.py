"""Held-out loss: nats per answer token, the same count whatever the batches and the number of processes.

Tensor shapes: B rows, T tokens, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.pretrain import Example, collate


def held_out_loss(model: torch.nn.Module, examples: Sequence[Example], pad: int, rows: int) -> float:
    """Mean negative log-likelihood of the answer tokens, `rows` examples at a time."""
    total, tokens = summed_loss(model, examples, pad, rows)
    return float(total / tokens)


def summed_loss(
    model: torch.nn.Module, examples: Sequence[Example], pad: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats and answer tokens, summed; the model is left in the mode it was in."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, tokens = torch.zeros((), device=device), torch.zeros((), device=device)
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].ids))
    for start in range(0, len(order), rows):
        batch = [examples[index] for index in order[start : start + rows]]
        ids_BT, mask_BT, labels_BT = (tensor.to(device) for tensor in collate(batch, pad))
        with torch.no_grad():
            logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits
        wanted = labels_BT[:, 1:]
        total += torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
        )
        tokens += (wanted != -100).sum()
    model.train(was_training)
    return total, tokens
