"""Train a small Llama-architecture model from scratch, with transformers on PyTorch, loss on the reply only.

Examples of like length share a batch, so little is lost to padding. Seeded; a checkpoint (model, optimizer, step) is
written atomically every few steps and an interrupted run goes on from it, with the same batches.

Several processes share each batch and add up their gradients, each weighted by its reply tokens: the same batches and
the same loss as one process. The weights are whole in each of them; models of this size need no sharding.

Tensor shapes: B examples, T tokens.

    python -m training.pretrain --config training/configs/mini.yaml
    accelerate launch --config_file training/configs/accelerate/multi_gpu.yaml \
        -m training.pretrain --config training/configs/mini.yaml
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import LlamaConfig, LlamaForCausalLM

from training.artefacts import is_done, read_input, say, sha256, write_manifest
from training.config import PretrainConfig, ScratchRun, scratch_from_args
from training.paths import checkpoints_path, command_of, model_path, tokenizer_path, train_path
from training.processes import join_processes, say_once
from training.progress import Progress
from training.tokenizer import Tokenizer

_IGNORED = -100
_LOG_EVERY = 20
_MIN_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and its reply; the loss is on tokens from `reply_start` on."""

    ids: tuple[int, ...]
    reply_start: int


def main() -> None:
    """Run the stage."""
    run = scratch_from_args(__doc__ or "")
    processes = join_processes()
    source, vocabulary, target = train_path(run), tokenizer_path(run), model_path(run)
    read_input(source, command_of("synthesise"))
    read_input(vocabulary, command_of("tokenizer"))
    done = is_done(target, [source, vocabulary], run.pretrain, run.seed)
    processes.wait_for_everyone()  # nobody writes before all have looked
    if done:
        say_once("pretrain: nothing to do")
        return
    tokenizer = Tokenizer(vocabulary)
    examples = load_examples(source, tokenizer, run.pretrain.context)
    model, facts = train(examples, tokenizer, run, sha256(source))
    if processes.is_main_process:
        save(model, vocabulary, target)
        write_manifest(target, "pretrain", [source, vocabulary], run.pretrain, run.seed, **facts)
        shutil.rmtree(checkpoints_path(run), ignore_errors=True)
        say(f"pretrain: {target} written")
    processes.wait_for_everyone()


def load_examples(source: Path, tokenizer: Tokenizer, longest: int) -> list[Example]:
    """Tokenized examples; those longer than the context are dropped and counted."""
    examples, dropped = [], 0
    with source.open(encoding="utf-8") as file:
        for line in file:
            example = encode_row(json.loads(line), tokenizer)
            if len(example.ids) > longest:
                dropped += 1
                continue
            examples.append(example)
    say_once(f"pretrain: {len(examples)} examples, {sum(len(e.ids) for e in examples)} tokens, {dropped} too long")
    return examples


def encode_row(row: Mapping[str, Any], tokenizer: Tokenizer) -> Example:
    """The example of a row of `synthesise`."""
    prompt = tokenizer.prompt([(text, special) for text, special in row["prompt"]])
    return Example((*prompt, *tokenizer.reply(row["reply"])), len(prompt))


def plan_batches(examples: Sequence[Example], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the examples of each batch: like lengths together, batches in a seeded order."""
    rng = random.Random(f"{seed}/{epoch}")
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].ids), rng.random()))
    batches: list[list[int]] = [[]]
    for index in order:
        longest = max(len(examples[i].ids) for i in (*batches[-1][-1:], index))
        if batches[-1] and longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches


def collate(examples: Sequence[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and labels, each of shape (B, T)."""
    longest = max(len(e.ids) for e in examples)
    ids_BT = torch.full((len(examples), longest), pad)
    mask_BT = torch.zeros((len(examples), longest), dtype=torch.long)
    labels_BT = torch.full((len(examples), longest), _IGNORED)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids_BT[row, :length] = torch.tensor(example.ids)
        mask_BT[row, :length] = 1
        labels_BT[row, example.reply_start : length] = torch.tensor(example.ids[example.reply_start :])
    return ids_BT, mask_BT, labels_BT


def build_model(config: PretrainConfig, tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """A fresh model, seeded; embeddings are tied."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.size, hidden_size=config.hidden, intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context, tie_word_embeddings=True, bos_token_id=tokenizer.bos,
            eos_token_id=tokenizer.eos, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        )
    )  # fmt: skip


def train(
    examples: Sequence[Example], tokenizer: Tokenizer, run: ScratchRun, data: str
) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Train for the configured steps, from the last checkpoint of the same settings and `data` (a hash)."""
    config, processes = run.pretrain, join_processes()
    device = processes.device
    model = build_model(config, tokenizer, run.seed).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    first, spent_s, tokens = _resume(model, optimizer, run, data)
    started = time.monotonic()
    step, loss = first, float("nan")
    position, epoch = first, 0
    batches = plan_batches(examples, config.batch_tokens, run.seed, epoch)
    model.train()
    with Progress("pretrain", config.steps, first, _LOG_EVERY, shown=processes.is_main_process) as progress:
        while step < config.steps:
            while position >= len(batches):
                position -= len(batches)
                epoch += 1
                batches = plan_batches(examples, config.batch_tokens, run.seed, epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, config)
            batch = [examples[i] for i in batches[position]]
            loss = _backward(model, batch, tokenizer.eos, bf16=config.bf16)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += sum(len(example.ids) for example in batch)
            step, position = step + 1, position + 1
            took_s = spent_s + time.monotonic() - started
            progress.reached(step, f"loss {loss:.4f}, {tokens / took_s:.0f} tokens/s")
            if step % config.save_every_steps == 0 and step < config.steps and processes.is_main_process:
                _save_checkpoint(model, optimizer, step, took_s, tokens, run, data)
    seconds = spent_s + time.monotonic() - started
    return model, {
        "seconds": round(seconds), "tokens": tokens, "last_loss": loss, "processes": processes.num_processes,
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def _backward(model: LlamaForCausalLM, batch: Sequence[Example], pad: int, *, bf16: bool) -> float:
    """Gradients of the mean loss over the reply tokens of a batch, of which each process reads its share; the loss."""
    processes = PartialState()
    share = batch[processes.process_index :: processes.num_processes]
    replied = sum(len(example.ids) - max(1, example.reply_start) for example in batch)
    loss = torch.zeros((), device=processes.device)
    if share:
        ids_BT, mask_BT, labels_BT = (tensor.to(processes.device) for tensor in collate(share, pad))
        with torch.autocast(processes.device.type, dtype=torch.bfloat16, enabled=bf16):
            output = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT, num_items_in_batch=replied)
        output.loss.backward()
        loss = output.loss.detach().float()
    if processes.num_processes > 1:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        whole = torch.cat([loss.view(1), *(gradient.flatten().float() for gradient in gradients)])
        torch.distributed.all_reduce(whole)
        loss, *summed = whole.split([1, *(weight.numel() for weight in weights)])
        for weight, gradient in zip(weights, summed, strict=True):
            weight.grad = gradient.view_as(weight)
    return float(loss)


def rate_at(step: int, config: PretrainConfig) -> float:
    """Learning rate: linear warm-up, then cosine down to a tenth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (_MIN_RATE + (1 - _MIN_RATE) * 0.5 * (1 + math.cos(math.pi * share)))


def _save_checkpoint(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int, spent_s: float, tokens: int, run: ScratchRun,
    data: str,
) -> None:  # fmt: skip
    folder = checkpoints_path(run)
    folder.mkdir(exist_ok=True)
    partial = folder / "state.part"
    state = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent_s,
        "tokens": tokens, "config": run.pretrain.model_dump_json(), "seed": run.seed, "data": data,
    }  # fmt: skip
    torch.save(state, partial)
    partial.replace(folder / "state.pt")


def _resume(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, run: ScratchRun, data: str
) -> tuple[int, float, int]:
    """Step, seconds and tokens done so far; a checkpoint of other settings is ignored."""
    path = checkpoints_path(run) / "state.pt"
    if not path.is_file():
        return 0, 0.0, 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    if (state["config"], state["seed"], state["data"]) != (run.pretrain.model_dump_json(), run.seed, data):
        say_once("pretrain: the checkpoint is of other settings or examples; starting again")
        return 0, 0.0, 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    say_once(f"pretrain: going on from step {state['step']}")
    return int(state["step"]), float(state["spent_s"]), int(state["tokens"])


def save(model: LlamaForCausalLM, vocabulary: Path, target: Path) -> None:
    """Write a Hugging Face folder with the tokenizer files that the GGUF converter reads."""
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.float32).save_pretrained(partial)
    shutil.copy(vocabulary, partial / "tokenizer.model")
    settings = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "add_prefix_space": False,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


if __name__ == "__main__":
    main()
