"""A base model in 4 bits, and a LoRA adapter on every linear layer of every block: counted and proved, not hoped for.

PEFT only complains when no target at all is found: the names of the guide match two of the four linear layers of
Phi-3 and train 40 % of what they seem to. So the targets are "all-linear", and what got an adapter is compared with
what the architecture is known to have.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from training.config import BaseModelConfig, QloraConfig
from training.errors import TrainingError
from training.precision import Precision

ALL_LINEAR = "all-linear"
# What the Hub has to give: weights, settings and every form of tokenizer; no code and no other format of weights.
_WANTED = ["*.json", "*.safetensors", "*.model", "merges.txt", "*.jinja"]
_SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The linear layers of a block, by the `model_type` of config.json.
_LINEAR_OF_BLOCK = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "llama": _SPLIT,
    "qwen2": _SPLIT,
    "qwen3": _SPLIT,
}


@dataclass(frozen=True, slots=True)
class Trained:
    """What the adapter covers. `parameters` are trainable, `total` counts the base as well."""

    modules: int
    blocks: int
    names: tuple[str, ...]
    parameters: int
    total: int

    def told(self) -> str:
        """One line for the person who trains."""
        share = 100 * self.parameters / self.total
        return (
            f"adapters on {self.modules} linear layers ({', '.join(self.names)} in {self.blocks} blocks), "
            f"{self.parameters:,} of {self.total:,} parameters trained ({share:.2f} %)"
        )


def base_folder(base: BaseModelConfig) -> Path:
    """The base on this machine; one from the Hub is fetched once, at its revision."""
    if Path(base.model).is_dir():
        return Path(base.model)
    return Path(snapshot_download(base.model, revision=base.revision, allow_patterns=_WANTED))


def load_quantized(folder: Path, precision: Precision) -> PreTrainedModel:
    """The base with its linear layers in nf4, double quantization; embeddings and output stay as they are."""
    sharded = _is_sharded()
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.compute,
        # FSDP flattens weights of one type only, so the packed ones must look like the others.
        bnb_4bit_quant_storage=precision.compute if sharded else torch.uint8,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=precision.compute, attn_implementation="sdpa",
        device_map=None if sharded else {"": precision.device},
    )  # fmt: skip
    for part in model.modules():
        # On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks the weights at the first evaluation, for good, in a form
        # whose product has no gradient: after it, training would go on with wrong gradients and only a warning.
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False
    return model


def add_adapter(model: PreTrainedModel, config: QloraConfig, targets: str | Sequence[str] = ALL_LINEAR) -> PeftModel:
    """A fresh adapter on a quantized model; norms, embeddings and output are computed in float32."""
    # Activations are recomputed by the Trainer, which sets that up under its current name. Shards are of one type, so
    # there nothing is turned into float32.
    prepared = model if _is_sharded() else prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    prepared.config.use_cache = False
    names = targets if isinstance(targets, str) else list(targets)
    lora = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names, bias="none",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(prepared, lora)


def check_targets(model: PeftModel) -> Trained:
    """What is trained, after proof that it is every linear layer of every block and nothing else.

    Raises:
        TrainingError: the architecture is not one of those known, a layer has no adapter, or something else is trained.
    """
    config = model.get_base_model().config
    expected = _LINEAR_OF_BLOCK.get(config.model_type)
    if expected is None:
        raise TrainingError(
            f"the linear layers of {config.model_type!r} models are not known here, only {', '.join(_LINEAR_OF_BLOCK)}"
        )
    blocks = model.get_base_model().get_decoder().layers
    missing, found = [], set()
    for number, block in enumerate(blocks):
        with_adapter = {name.rpartition(".")[2]: part for name, part in block.named_modules() if _has_adapter(part)}
        missing += [f"{number}.{name}" for name in expected if name not in with_adapter]
        found |= {f"{number}.{name}" for name in with_adapter}
    adapters = sum(_has_adapter(part) for part in model.modules())
    if missing or adapters != len(expected) * config.num_hidden_layers or len(found) != adapters:
        raise TrainingError(
            f"{adapters} of the {len(expected) * config.num_hidden_layers} linear layers expected of a "
            f"{config.model_type} model got an adapter; without one: {', '.join(missing[:8]) or 'none'}"
        )
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    strangers = [name for name, weight in trainable.items() if "lora_" not in name or weight.dtype is not torch.float32]
    if strangers:
        raise TrainingError(f"trained besides the float32 adapters: {', '.join(strangers[:4])}")
    parameters, total = model.get_nb_trainable_parameters()
    return Trained(adapters, len(blocks), expected, int(parameters), int(total))


def _is_sharded() -> bool:
    """Whether `accelerate launch` asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _has_adapter(part: torch.nn.Module) -> bool:
    return isinstance(part, LoraLayer)
