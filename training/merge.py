"""Adapter + 16-bit base -> a 16-bit model folder, with the tokenizer files of the base as they were published.

In a process of its own, so that the memory of training is free. The adapter is added to the base's 16-bit weights,
never to 4-bit ones: rounding those again would lose what was learnt. The sum is made in float32 where memory allows
and rounded once, to float16, which keeps three more bits than bfloat16 and is what the GGUF holds next.

transformers 5 saves a tokenizer without `tokenizer.model` and without its list of added tokens; a GGUF made from that
tokenizes otherwise. So no tokenizer is saved: the base's files are copied. The folder counts only when, read back, it
makes the same token ids as the base's tokenizer and its held-out loss is the adapter model's, within a margin.

    python -m training.merge --config training/configs/phi3.yaml
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from backend.core.prompt import Style
from training.adapter import base_folder, load_quantized
from training.artefacts import is_done, read_input, say, sha256, write_manifest
from training.config import TuneRun, tune_from_args
from training.encoding import Encoder, load_dialogues, open_encoder
from training.errors import StaleArtefactError, TrainingError
from training.loss import held_out_loss
from training.paths import adapter_path, command_of, held_out_path, model_path
from training.precision import Precision, choose_precision
from training.pretrain import Example

_TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_ROOM = 1.25
_SHARD = "2GB"


def main() -> None:
    """Run the stage."""
    run = tune_from_args(__doc__ or "")
    source, target = adapter_path(run), model_path(run)
    made = read_input(source, command_of("qlora"))
    read_input(held_out_path(run), command_of("prepare"))
    check_base(made, run)
    inputs = [source, held_out_path(run)]
    settings = {
        "base": run.base.model_dump(mode="json"),
        "items": run.evaluate.items,
        "margin": run.evaluate.merged_loss_margin,
    }
    if is_done(target, inputs, settings, run.seed):
        say("merge: nothing to do")
        return
    facts = merge(run, target)
    write_manifest(target, "merge", inputs, settings, run.seed, **facts)
    say(f"merge: {target} written, held-out loss {facts['merged_loss']:.4f}, {facts['adapter_loss']:.4f} in 4 bits")


def check_base(made: dict[str, Any], run: TuneRun) -> None:
    """Refuse another base than the one that the adapter was trained on.

    Raises:
        StaleArtefactError: the configuration names another one, or its folder has changed.
    """
    folder = Path(run.base.model)
    same = made["config"]["base"] == run.base.model_dump(mode="json")
    if not same or (folder.is_dir() and made["inputs"].get(folder.name) != sha256(folder)):
        raise StaleArtefactError(
            f"{adapter_path(run)} was trained on another base than {run.base.model}; train again: {command_of('qlora')}"
        )


def merge(run: TuneRun, target: Path) -> dict[str, Any]:
    """Write the merged folder; the facts for its manifest.

    Raises:
        TrainingError: the merged model is worse than the adapter model, or cannot be converted faithfully.
    """
    base, adapter = base_folder(run.base), adapter_path(run)
    encoder = open_encoder(run.base, base)
    rows = load_dialogues(held_out_path(run), encoder, run.qlora.longest_tokens)[: run.evaluate.items]
    precision = choose_precision(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    say(f"merge: held-out loss of the adapter on the 4-bit base, {len(rows)} rows")
    adapter_loss = loss_of_adapter(base, adapter, rows, encoder, precision, run.qlora.batch)

    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    wide = summing_type(weights_bytes(base))
    say(f"merge: adding the adapter to the 16-bit base, in {wide}")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=wide, device_map={"": "cpu"})
    merged = merge_adapter(model, adapter).to(torch.float16)
    check_finite(merged)
    parameters = merged.num_parameters()
    merged.save_pretrained(partial, max_shard_size=_SHARD)
    del model, merged
    gc.collect()
    restored = restore_tokenizer(base, partial)
    restore_generation(base, partial, encoder.stop)
    check_folder(partial, encoder.size)
    again = open_encoder(run.base, partial)
    if load_dialogues(held_out_path(run), again, run.qlora.longest_tokens)[: run.evaluate.items] != rows:
        raise TrainingError(f"{partial}: its tokenizer makes other ids than the base's")

    say("merge: held-out loss of the merged model")
    reading = precision.compute if precision.device.type == "cuda" else summing_type(weights_bytes(partial))
    model = AutoModelForCausalLM.from_pretrained(partial, dtype=reading, device_map={"": precision.device})
    merged_loss = held_out_loss(model, rows, encoder.pad, run.qlora.batch)
    check_losses(adapter_loss, merged_loss, run.evaluate.merged_loss_margin)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    return {
        "adapter_loss": adapter_loss,
        "merged_loss": merged_loss,
        "rows": len(rows),
        "summed_in": str(wide).removeprefix("torch."),
        "parameters": parameters,
        "restored": restored,
        "template_sha256": _template_hash(run, target),
    }


def loss_of_adapter(
    base: Path, adapter: Path, rows: Sequence[Example], encoder: Encoder, precision: Precision, batch: int
) -> float:
    """Held-out loss of the model as it was trained: the adapter on 4-bit weights. Its memory is freed."""
    quantized = prepare_model_for_kbit_training(load_quantized(base, precision), use_gradient_checkpointing=False)
    model = PeftModel.from_pretrained(quantized, str(adapter))
    with torch.autocast(precision.device.type, precision.compute, enabled=precision.bf16 or precision.fp16):
        loss = held_out_loss(model, rows, encoder.pad, batch)
    del model, quantized
    gc.collect()
    if precision.device.type == "cuda":
        torch.cuda.empty_cache()
    return loss


def merge_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with the adapter added to its weights.

    Raises:
        TrainingError: the weights are quantized, or the sum is not finite.
    """
    if getattr(model.config, "quantization_config", None) or any(isinstance(p, Linear4bit) for p in model.modules()):
        raise TrainingError("an adapter is merged into 16-bit weights; these are quantized, and would be rounded again")
    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise TrainingError(f"{adapter} cannot be merged: {error}") from None
    return merged


def check_finite(model: PreTrainedModel) -> None:
    """Refuse weights that float16 cannot hold.

    Raises:
        TrainingError: naming the first of them.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise TrainingError(f"{name} is not finite in float16; the adapter diverged, or the base needs bfloat16")


def restore_tokenizer(base: Path, folder: Path) -> list[str]:
    """Copy the base's tokenizer files as they are; their names.

    Raises:
        TrainingError: the base itself has lost its `tokenizer.model`.
    """
    present = [name for name in _TOKENIZER_FILES if (base / name).is_file()]
    for name in _TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in present:
        shutil.copy(base / name, folder / name)
    content = _json(base / "tokenizer.json")
    # Only sentencepiece vocabularies fall back to bytes: there the scores are in tokenizer.model and nowhere else.
    if content.get("model", {}).get("byte_fallback") and "tokenizer.model" not in present:
        raise TrainingError(
            f"{base} has no tokenizer.model: transformers 5 saved it; take the base as it was published"
        )
    _list_added_tokens(folder, content.get("added_tokens", []))
    return present


def _list_added_tokens(folder: Path, added: Sequence[dict[str, Any]]) -> None:
    """The converter reads added tokens from `tokenizer_config.json`, not from where transformers 5 keeps them."""
    settings = _json(folder / "tokenizer_config.json")
    listed = settings.get("added_tokens_decoder", {})
    missing = {str(token["id"]): token for token in added if str(token["id"]) not in listed}
    if missing:
        tokens = {place: {k: v for k, v in token.items() if k != "id"} for place, token in missing.items()}
        settings["added_tokens_decoder"] = {**listed, **tokens}
        _write(folder / "tokenizer_config.json", settings)


def restore_generation(base: Path, folder: Path, stop: int) -> None:
    """The base's generation settings, with the token that answers were trained to end with among the end tokens."""
    path = folder / "generation_config.json"
    settings = _json(base / path.name) or _json(path)
    ends = settings.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if stop not in ends:
        settings["eos_token_id"] = [*ends, stop]
    _write(path, settings)


def check_folder(folder: Path, tokens: int) -> None:
    """Refuse a folder that would not be the model that was trained.

    Raises:
        TrainingError: it says that it is quantized, or has more tokens than rows.
    """
    config = _json(folder / "config.json")
    if "quantization_config" in config:
        raise TrainingError(f"{folder / 'config.json'} has a quantization_config: the weights were merged in 4 bits")
    if tokens > config["vocab_size"]:
        raise TrainingError(f"{folder}: the tokenizer has {tokens} tokens, the model {config['vocab_size']} rows")


def check_losses(adapter: float, merged: float, margin: float) -> None:
    """Refuse a merged model that is worse than the adapter model; it is often a little better.

    Raises:
        TrainingError: by more than the margin, or its loss is no number.
    """
    if not merged <= adapter + margin:
        raise TrainingError(
            f"the merged model has a held-out loss of {merged:.4f}, the adapter model {adapter:.4f}: more than the "
            f"{margin} that evaluate.merged_loss_margin allows; nothing was written"
        )


def weights_bytes(folder: Path) -> int:
    """Bytes of the weights on disk, of 2 bytes each."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def summing_type(stored: int, available: int | None = None) -> torch.dtype:
    """float32 where twice the stored 16-bit weights fit into memory, else bfloat16, which cannot overflow."""
    free = psutil.virtual_memory().available if available is None else available
    return torch.float32 if 2 * stored * _ROOM < free else torch.bfloat16


def _template_hash(run: TuneRun, folder: Path) -> str | None:
    if run.base.style is Style.SLOTS:
        return None
    return hashlib.sha256(AutoTokenizer.from_pretrained(folder).chat_template.encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
