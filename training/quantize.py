"""F16 GGUF -> Q4_K_M and others, in process through llama_cpp, each with the manifest that the server checks.

Then what each of them lost: true tensor types, size, and perplexity, KL divergence and same likeliest token against
F16 on held-out replies, in `quantizations.json` and as a table. A file that is done is not made or measured again.

    python -m training.quantize --config training/configs/mini.yaml
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

from backend.core.prompt import Style, prompt_id
from backend.engine.host import usable_cpus
from backend.engine.llama import quiet
from backend.engine.manifest import Manifest, manifest_path, sha256_of
from training.artefacts import is_done, manifest_of, read_input, say, write_manifest
from training.compare import compare, write_reference
from training.config import Run, TuneRun, config_from_args
from training.errors import TrainingError
from training.gguf_file import read_header
from training.imatrix import Matrix, as_parameter, check_matrix, collect
from training.items import Item, read_rows, reader_of, style_of, within
from training.paths import (
    command_of,
    comparison_path,
    gguf_path,
    held_out_path,
    model_path,
    quantized_path,
    tokenizer_path,
    train_path,
)

LARGEST_BYTES = 25 * 1024 * 1024
_FILE_TYPES = {
    "Q4_K_M": llama.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def main() -> None:
    """Run the stage."""
    run = config_from_args(__doc__ or "")
    source, held_out, report = gguf_path(run), held_out_path(run), comparison_path(run)
    read_input(source, command_of("to_gguf"))
    read_input(held_out, command_of("prepare" if isinstance(run, TuneRun) else "synthesise"))
    made = [make(run, kind) for kind in run.quantize.types]
    inputs = [source, held_out, *(quantized_path(run, kind) for kind in run.quantize.types)]
    if is_done(report, inputs, run.quantize, run.seed):
        say("quantize: nothing to do" if not any(made) else f"quantize: {report} is up to date")
        return
    figures = measure(run)
    report.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_manifest(report, "quantize", inputs, run.quantize, run.seed)
    say(table(figures))


def make(run: Run, kind: str) -> bool:
    """Quantize to one type and write its manifests; False when that was done before.

    Raises:
        TrainingError: llama.cpp refuses, or the embedded model is larger than the repository allows.
    """
    source, target = gguf_path(run), quantized_path(run, kind)
    matrix_file = importance(run)
    inputs = [source, matrix_file] if matrix_file else [source]
    config = {"type": kind}
    if is_done(target, inputs, config, run.seed) and manifest_path(target).is_file():
        return False
    manifest_path(target).unlink(missing_ok=True)
    quantize(source, target, kind, dict(np.load(matrix_file)) if matrix_file else None)
    size = target.stat().st_size
    if kind == "Q4_K_M" and style_of(run) is Style.SLOTS and size > LARGEST_BYTES:
        raise TrainingError(f"{target}: {size} bytes, more than the {LARGEST_BYTES} allowed")
    vocabulary = tokenizer_path(run) if not isinstance(run, TuneRun) else _tokenizer_of(model_path(run))
    style = style_of(run)
    card = Manifest(
        name=run.name, sha256=sha256_of(target), style=style, prompt_id=prompt_id(style),
        tokenizer_sha256=sha256_of(vocabulary), run=_facts(run),
    )  # fmt: skip
    manifest_path(target).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    types = read_header(target).types()
    write_manifest(target, "quantize", inputs, config, run.seed, bytes=size, types=types)
    say(f"quantize: {target} written, {size / 2**20:.1f} MiB, {_types(types)}")
    return True


def quantize(source: Path, target: Path, kind: str = "Q4_K_M", matrix: Matrix | None = None) -> None:
    """Write `source` as `kind` to `target`, atomically.

    Raises:
        TrainingError: llama.cpp refuses.
    """
    quiet()
    params = llama.llama_model_quantize_default_params()
    params.ftype = _FILE_TYPES[kind]
    if matrix is not None:
        check_matrix(matrix, read_header(source))
        entries = as_parameter(matrix)
        params.imatrix = entries
    partial = target.with_suffix(".part")
    status = llama.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(params))
    if status != 0:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"llama_model_quantize returned {status} for {source}")
    partial.replace(target)


def importance(run: Run) -> Path | None:
    """The file of the importance matrix, made now when it is missing; None when the configuration wants none."""
    wanted = run.quantize.imatrix_prompts
    if not wanted:
        return None
    source, rows, target = model_path(run), train_path(run), run.folder / "imatrix.npz"
    if not is_done(target, [source, rows], {"prompts": wanted}, run.seed):
        reader = reader_of(run)
        items = [reader.item(row) for row in _spread(read_rows(rows), wanted)]
        partial = target.with_suffix(".part.npz")
        matrix: dict[str, Any] = collect(source, items)
        np.savez(partial, **matrix)
        partial.replace(target)
        write_manifest(target, "quantize", [source, rows], {"prompts": wanted}, run.seed)
        say(f"quantize: {target} written, from {len(items)} prompts")
    return target


def measure(run: Run) -> dict[str, Any]:
    """Size, true types and losses of every quantization; what was measured of the same files is not measured again."""
    items = held_out_items(run)
    threads = usable_cpus(os.environ)
    kept = run.folder / "quantizations.part.json"
    known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    figures = {}
    f16, rows = sha256_of(gguf_path(run)), sha256_of(held_out_path(run))
    reference = run.folder / f"f16-logits-{f16[:8]}-{rows[:8]}-{run.quantize.compare_tokens}.npy"
    for kind in run.quantize.types:
        file = quantized_path(run, kind)
        key = f"{sha256_of(file)}/{reference.name}"
        if key not in known:
            write_reference(gguf_path(run), items, reference, threads)
            known[key] = {
                "bytes": file.stat().st_size,
                "types": read_header(file).types(),
                **compare(file, items, reference, threads).as_json(),
            }
            kept.write_text(json.dumps(known) + "\n", encoding="utf-8")
        figures[kind] = known[key]
    reference.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)
    return {
        "f16": {"bytes": gguf_path(run).stat().st_size, "types": read_header(gguf_path(run)).types()},
        "odd_rows": read_header(gguf_path(run)).odd_rows(),
        "replies": len(items),
        "quantizations": figures,
    }


def held_out_items(run: Run) -> list[Item]:
    """Held-out rows within the token budget."""
    reader = reader_of(run)
    rows = read_rows(held_out_path(run))
    return within([reader.item(row) for row in rows], run.quantize.compare_tokens)


def table(figures: Mapping[str, Any]) -> str:
    """The figures, readable."""
    lines = ["type     MiB      perplexity  mean KL   p99 KL    same top  tensors"]
    for kind, row in figures["quantizations"].items():
        lines.append(
            f"{kind:<8} {row['bytes'] / 2**20:<8.1f} {row['perplexity']:<11.4f} {row['mean_kl']:<9.5f} "
            f"{row['p99_kl']:<9.5f} {row['same_top']:<9.2%} {_types(row['types'])}"
        )
    first = next(iter(figures["quantizations"].values()))
    lines.append(f"F16      {figures['f16']['bytes'] / 2**20:<8.1f} {first['f16_perplexity']:<11.4f}")
    if figures["odd_rows"]:
        lines.append(
            f"rows that are not multiples of 256, stored as a larger type: {', '.join(figures['odd_rows'][:8])}"
        )
    return "\n".join(lines)


def _types(types: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{count}" for name, count in types.items())


def _spread(rows: Sequence[dict[str, Any]], wanted: int) -> list[dict[str, Any]]:
    """`wanted` rows, evenly over the file: its sources stand one after another."""
    step = max(1, len(rows) // wanted)
    return list(rows[::step][:wanted])


def _tokenizer_of(folder: Path) -> Path:
    """The vocabulary file that the converter read."""
    pieces = folder / "tokenizer.model"
    return pieces if pieces.is_file() else folder / "tokenizer.json"


def _facts(run: Run) -> dict[str, object]:
    """What the training chain recorded, for the model's manifest."""
    recorded = json.loads(manifest_of(model_path(run)).read_text(encoding="utf-8"))
    if isinstance(run, TuneRun):
        local = Path(run.base.model)  # its place on this machine is nobody's business
        own = {
            "base": local.name if local.is_dir() else run.base.model,
            "revision": run.base.revision,
            "licence": run.base.licence,
        }
        return own | {key: recorded[key] for key in ("seed", "commit", "tools") if key in recorded}
    keys = ("parameters", "tokens", "seconds", "last_loss", "seed", "commit", "tools", "config")
    return {key: recorded[key] for key in keys}


if __name__ == "__main__":
    main()
