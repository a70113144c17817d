"""Fine-tune a base model: a LoRA adapter on its 4-bit weights, loss on the answers only.

Uses the plain Trainer of transformers, which takes token ids and labels as they are; TRL's SFTTrainer would tokenize
by itself, and casts the adapter to bfloat16, which stops a T4 at its first step. A batch is `batch x accumulation` rows
whatever the number of processes, and rows of like length share one. A killed run goes on from its last complete
checkpoint, with the same rows.

    python -m training.qlora --config training/configs/phi3.yaml
    accelerate launch --config_file training/configs/accelerate/multi_gpu.yaml \
        -m training.qlora --config training/configs/phi3.yaml
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import random
import shutil
from collections.abc import Sequence
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from training.adapter import Trained, add_adapter, base_folder, check_targets, load_quantized
from training.artefacts import is_done, read_input, say, sha256, write_manifest
from training.checkpoints import MarkComplete, last_complete, seconds_spent
from training.config import TuneRun, tune_from_args
from training.curve import write_curve
from training.encoding import Encoder, load_dialogues, open_encoder
from training.errors import TrainingError
from training.loss import summed_loss
from training.paths import adapter_path, checkpoints_path, command_of, held_out_path, train_path
from training.precision import Precision, choose_precision
from training.pretrain import Example, collate
from training.processes import join_processes, say_once
from training.progress import Progress

_GROUPS_SORTED_TOGETHER = 50
_MOST_STEPS_PER_LOG = 25  # the guide's
_LEAST_LOGS = 40
_LIBRARIES = ("accelerate", "bitsandbytes", "peft")
# What Trainer and PEFT leave in the folder besides the adapter: pickled arguments, and a model card about nothing.
_NOT_KEPT = ("training_args.bin", "README.md")


def main() -> None:
    """Run the stage."""
    run = tune_from_args(__doc__ or "")
    processes = join_processes()
    if processes.num_processes == 1 and torch.cuda.device_count() > 1:
        raise TrainingError(
            "several GPUs but one process: use `accelerate launch --config_file training/configs/accelerate/"
            "multi_gpu.yaml -m training.qlora ...`, or choose one with CUDA_VISIBLE_DEVICES=0"
        )
    for path in (train_path(run), held_out_path(run)):
        read_input(path, command_of("prepare"))
    inputs, target = inputs_of(run), adapter_path(run)
    done = is_done(target, inputs, settings_of(run), run.seed)
    processes.wait_for_everyone()  # nobody writes before all have looked
    if done:
        say_once("qlora: nothing to do")
        return
    facts = tune(run, inputs)
    if processes.is_main_process:
        write_manifest(target, "qlora", inputs, settings_of(run), run.seed, **facts)
        shutil.rmtree(checkpoints_path(run), ignore_errors=True)
        say(f"qlora: {target} written, held-out loss {facts['held_out_loss']:.4f}")
    processes.wait_for_everyone()


def inputs_of(run: TuneRun) -> list[Path]:
    """The rows, and the base where it is a folder of this machine."""
    folder = [Path(run.base.model)] if Path(run.base.model).is_dir() else []
    return [train_path(run), held_out_path(run), *folder]


def settings_of(run: TuneRun) -> dict[str, Any]:
    """What the adapter depends on besides its inputs."""
    return {"qlora": run.qlora.model_dump(mode="json"), "base": run.base.model_dump(mode="json")}


def tune(run: TuneRun, inputs: Sequence[Path]) -> dict[str, Any]:
    """Train and write the adapter; the facts for its manifest."""
    processes = PartialState()
    precision = choose_precision(processes.device)
    with processes.local_main_process_first():
        folder = base_folder(run.base)
    encoder = open_encoder(run.base, folder)
    rows = load_dialogues(train_path(run), encoder, run.qlora.longest_tokens)
    held_out = load_dialogues(held_out_path(run), encoder, run.qlora.longest_tokens)
    say_once(f"qlora: {len(rows)} rows, {len(held_out)} held out; {precision.compute} ({precision.why})")
    set_seed(run.seed)
    model = add_adapter(load_quantized(folder, precision), run.qlora)
    trained = check_targets(model)
    say_once(f"qlora: {trained.told()}")
    if encoder.size > model.get_input_embeddings().weight.shape[0]:
        raise TrainingError(f"{folder}: the tokenizer has {encoder.size} tokens, more than the model has rows")
    identity = hashlib.sha256(
        json.dumps([settings_of(run), run.seed, [sha256(path) for path in inputs]]).encode()
    ).hexdigest()
    checkpoints = checkpoints_path(run)
    if processes.is_main_process:
        checkpoints.mkdir(parents=True, exist_ok=True)
        last_complete(checkpoints, identity)
    processes.wait_for_everyone()
    resumed = last_complete(checkpoints, identity)
    marker = MarkComplete(identity, seconds_spent(resumed) if resumed else 0.0)
    trainer = make_trainer(model, rows, held_out, encoder, run, precision, marker, fresh=resumed is None)
    if resumed:
        say_once(f"qlora: going on from {resumed.name}")
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    last = trainer.state.global_step
    if not any("eval_loss" in entry and entry["step"] == last for entry in trainer.state.log_history):
        trainer.evaluate()
    losses = _save(trainer, adapter_path(run))
    return _facts(trainer, losses, rows, encoder, trained, precision, marker.seconds)


class AnswerTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """A Trainer whose held-out loss is the mean over answer tokens, not over batches."""

    def __init__(self, held_out: Sequence[Example], pad: int, **settings: Any) -> None:  # noqa: ANN401 - untyped base
        super().__init__(**settings)
        self._held_out, self._pad = held_out, pad

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # noqa: ANN401 - the base's many arguments
        """Held-out loss of the model as it is, logged; each process takes its share of the rows."""
        # Sharded weights are gathered by all processes together: there each must do the same batches.
        sharded = self.is_fsdp_enabled
        share = self._held_out if sharded else self._held_out[self.args.process_index :: self.args.world_size]
        model = self.model_wrapped if sharded else self.model
        with self.accelerator.autocast():
            total, tokens = summed_loss(model, share, self._pad, self.args.per_device_train_batch_size)
        total, tokens = self.accelerator.reduce(total), self.accelerator.reduce(tokens)
        metrics = {"eval_loss": float(total / tokens)}
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Reporter(TrainerCallback):  # type: ignore[misc]  # the same
    """Shows the steps, the last loss and the time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._loss = ""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ANN401 - unused
        """Start counting."""
        self._progress = Progress(
            "qlora", state.max_steps, state.global_step, int(args.logging_steps), shown=state.is_world_process_zero
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ANN401 - unused
        """Move the bar; a step that is logged moves it with its loss."""
        if self._progress and state.global_step % int(args.logging_steps):
            self._progress.reached(state.global_step, self._loss)

    def on_log(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl,
        logs: dict[str, float] | None = None, **_: Any,  # noqa: ANN401 - unused
    ) -> None:  # fmt: skip
        """Show the loss."""
        if not logs or not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            say(f"qlora: step {state.global_step}/{state.max_steps} held-out loss {logs['eval_loss']:.4f}")
        elif "loss" in logs and self._progress:
            self._loss = f"loss {logs['loss']:.4f}"
            self._progress.reached(state.global_step, self._loss)


def make_trainer(
    model: PeftModel, rows: Sequence[Example], held_out: Sequence[Example], encoder: Encoder, run: TuneRun,
    precision: Precision, marker: MarkComplete, *, fresh: bool,
) -> AnswerTrainer:  # fmt: skip
    """The trainer of a run, its rows already in the order in which they are seen."""
    config, processes = run.qlora, PartialState().num_processes
    if config.accumulation % processes:
        raise TrainingError(
            f"qlora.accumulation is {config.accumulation}: {processes} processes cannot share it evenly, and a batch "
            "has the same rows whatever their number"
        )
    group = config.batch * config.accumulation
    steps = config.steps or max(1, math.ceil(config.epochs * math.ceil(len(rows) / group)))
    order = plan_rows([len(row.ids) for row in rows], group, steps, run.seed)
    on_cpu = precision.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(checkpoints_path(run)), max_steps=steps, per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation // processes, learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule, warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=config.weight_decay,
        # Paging moves optimizer states between GPU and host memory: there is nothing to page on a CPU.
        optim=config.optimizer.removeprefix("paged_") if on_cpu else config.optimizer,
        bf16=precision.bf16, fp16=precision.fp16, use_cpu=on_cpu,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        train_sampling_strategy="sequential", remove_unused_columns=False, label_names=["labels"],
        dataloader_pin_memory=not on_cpu, ddp_find_unused_parameters=False,
        eval_strategy="steps", eval_steps=config.evaluate_every_steps, eval_on_start=fresh,
        save_strategy="steps", save_steps=config.save_every_steps, save_total_limit=2,
        logging_steps=max(1, min(_MOST_STEPS_PER_LOG, steps // _LEAST_LOGS)), logging_first_step=True,
        seed=run.seed, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    say_once(f"qlora: {steps} steps of {group} rows, on {processes} process{'es' * (processes > 1)}")

    def collate_rows(batch: list[Example]) -> dict[str, torch.Tensor]:
        ids_BT, mask_BT, labels_BT = collate(batch, encoder.pad)
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}

    trainer = AnswerTrainer(
        held_out, encoder.pad, model=model, args=arguments, data_collator=collate_rows,
        train_dataset=[rows[index] for index in order], eval_dataset=list(held_out),
        callbacks=[_Reporter(), marker],
    )  # fmt: skip
    trainer.pop_callback(PrinterCallback)  # it prints every log as a dictionary; ours are sentences
    return trainer


def plan_rows(lengths: Sequence[int], group: int, steps: int, seed: int) -> list[int]:
    """The rows of every step, `group` each: like lengths together, in a seeded order that differs each epoch.

    Each row is seen at least once an epoch; the last group of an epoch is filled up with rows seen again. The longest
    row comes first, so that too little memory shows at once.
    """
    planned: list[int] = []
    epoch = 0
    while len(planned) < steps * group:
        rng = random.Random(f"{seed}/{epoch}")
        order = list(range(len(lengths)))
        rng.shuffle(order)
        order = list(islice(cycle(order), math.ceil(len(order) / group) * group))
        groups = []
        for start in range(0, len(order), group * _GROUPS_SORTED_TOGETHER):
            part = sorted(order[start : start + group * _GROUPS_SORTED_TOGETHER], key=lambda row: -lengths[row])
            groups += [part[first : first + group] for first in range(0, len(part), group)]
        rng.shuffle(groups)
        if epoch == 0:
            groups.sort(key=lambda rows: max(lengths[row] for row in rows) < max(lengths))
        planned += [row for rows in groups for row in rows]
        epoch += 1
    return planned[: steps * group]


def _save(trainer: AnswerTrainer, target: Path) -> dict[str, list[list[float]]]:
    """Write the adapter folder, at once; the losses."""
    partial = target.with_name(target.name + ".part")
    processes = PartialState()
    if processes.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    processes.wait_for_everyone()
    trainer.save_model(str(partial))  # by all processes: sharded weights are gathered
    losses: dict[str, list[list[float]]] = {}
    if processes.is_main_process:
        for name in _NOT_KEPT:
            (partial / name).unlink(missing_ok=True)
        losses = write_curve(trainer.state.log_history, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    return losses


def _facts(
    trainer: AnswerTrainer, losses: dict[str, list[list[float]]], rows: Sequence[Example], encoder: Encoder,
    trained: Trained, precision: Precision, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    on_gpu = precision.device.type == "cuda"
    held_out = losses.get("held_out", [])
    return {
        "held_out_loss": held_out[-1][1] if held_out else None,
        "held_out_loss_of_base": held_out[0][1] if held_out else None,
        "last_loss": losses["train"][-1][1] if losses else None,
        "steps": trainer.state.global_step,
        "rows": len(rows),
        "tokens_of_rows": sum(len(row.ids) for row in rows),
        "stop_token": encoder.stop,
        "padding_token": encoder.pad,
        "modules": trained.modules,
        "trainable_parameters": trained.parameters,
        "parameters": trained.total,
        "precision": str(precision.compute).removeprefix("torch."),
        "processes": PartialState().num_processes,
        "device": torch.cuda.get_device_name(precision.device) if on_gpu else platform.machine(),
        "most_gpu_mib": round(torch.cuda.max_memory_allocated(precision.device) / 2**20) if on_gpu else None,
        "seconds": round(seconds),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


if __name__ == "__main__":
    main()
