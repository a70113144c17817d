"""F16 GGUF -> Q4_K_M, in process through llama_cpp, and the manifest that the server checks.

python -m training.quantize --config training/configs/mini.yaml
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import llama_cpp as llama

from backend.core.prompt import Style, prompt_id
from backend.engine.llama import quiet
from backend.engine.manifest import Manifest, manifest_path, sha256_of
from training.artefacts import is_done, manifest_of, read_input, say, write_manifest
from training.config import ScratchRun, scratch_from_args
from training.errors import TrainingError
from training.paths import command_of, gguf_path, model_path, quantized_path, tokenizer_path

LARGEST_BYTES = 25 * 1024 * 1024


def main() -> None:
    """Run the stage."""
    run = scratch_from_args(__doc__ or "")
    source, target = gguf_path(run), quantized_path(run)
    read_input(source, command_of("to_gguf"))
    config = {"type": "Q4_K_M"}
    if is_done(target, [source], config, run.seed):
        say("quantize: nothing to do")
        return
    quantize(source, target)
    if target.stat().st_size > LARGEST_BYTES:
        raise TrainingError(f"{target}: {target.stat().st_size} bytes, more than the {LARGEST_BYTES} allowed")
    card = Manifest(
        name=run.name, sha256=sha256_of(target), style=Style.SLOTS, prompt_id=prompt_id(Style.SLOTS),
        tokenizer_sha256=sha256_of(tokenizer_path(run)), run=_facts(run),
    )  # fmt: skip
    manifest_path(target).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_manifest(target, "quantize", [source], config, run.seed, bytes=target.stat().st_size)
    say(f"quantize: {target} written, {target.stat().st_size / 2**20:.1f} MiB")


def quantize(source: Path, target: Path) -> None:
    """Write `source` as Q4_K_M to `target`, atomically.

    Raises:
        TrainingError: llama.cpp refuses.
    """
    quiet()
    params = llama.llama_model_quantize_default_params()
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_K_M
    partial = target.with_suffix(".part")
    status = llama.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(params))
    if status != 0:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"llama_model_quantize returned {status} for {source}")
    partial.replace(target)


def _facts(run: ScratchRun) -> dict[str, object]:
    """What the training chain recorded, for the model's manifest."""
    recorded = json.loads(manifest_of(model_path(run)).read_text(encoding="utf-8"))
    keys = ("parameters", "tokens", "seconds", "last_loss", "seed", "commit", "tools", "config")
    return {key: recorded[key] for key in keys}


if __name__ == "__main__":
    main()
