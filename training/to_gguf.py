"""Hugging Face folder -> F16 GGUF, with the converter of the llama-cpp-python version that serves.

What the converter would get wrong in silence is refused before it runs: a lost `tokenizer.model` (every token would get
the same score), added tokens that only `tokenizer.json` knows, a tokenizer larger than the vocabulary, weights that are
still quantized. A fine-tune keeps its base's name: llama.cpp applies the Phi-3 spacing rule by that name.

    python -m training.to_gguf --config training/configs/mini.yaml
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from backend.core.prompt import Style
from training.artefacts import is_done, read_input, say, write_manifest
from training.config import Run, TuneRun, config_from_args
from training.converter import converter_python, fetch_converter
from training.errors import TrainingError
from training.gguf_file import read_header, set_bool
from training.paths import command_of, gguf_path, model_path

_ADD_BOS = "tokenizer.ggml.add_bos_token"
_ROOM = 1.1


def main() -> None:
    """Run the stage."""
    run = config_from_args(__doc__ or "")
    source, target = model_path(run), gguf_path(run)
    read_input(source, command_of("merge" if isinstance(run, TuneRun) else "pretrain"))
    config = {"outtype": "f16", "model_name": name_in_gguf(run)}
    if is_done(target, [source], config, run.seed):
        say("to_gguf: nothing to do")
        return
    check_folder(source)
    partial = target.with_suffix(".part")
    partial.unlink(missing_ok=True)
    try:
        facts = convert(source, partial, run)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    write_manifest(target, "to_gguf", [source], config, run.seed, **facts)
    say(f"to_gguf: {target} written, {target.stat().st_size / 2**20:.1f} MiB")


def name_in_gguf(run: Run) -> str:
    """`general.name`: the base's for a fine-tune, the run's own for a model from scratch."""
    return run.base.gguf_name if isinstance(run, TuneRun) else run.name


def convert(source: Path, target: Path, run: Run) -> dict[str, Any]:
    """Run the converter and check what it wrote; the facts for the manifest.

    Raises:
        TrainingError: the converter fails, or a model from scratch has rows that K-quants cannot store.
    """
    script = fetch_converter(run.folder.parent)
    command = [
        str(converter_python(script.parent)), str(script), str(source), "--outfile", str(target), "--outtype", "f16",
        "--model-name", name_in_gguf(run),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode != 0:
        raise TrainingError(f"the converter failed on {source}:\n{done.stderr[-3000:]}")
    header = read_header(target)
    facts: dict[str, Any] = {"types": header.types(), "odd_rows": header.odd_rows()}
    if header.odd_rows():
        told = (
            f"{len(header.odd_rows())} tensors have rows that are not multiples of 256, so K-quants store them as a "
            f"larger type: {', '.join(header.odd_rows()[:4])}"
        )
        if not isinstance(run, TuneRun):
            raise TrainingError(f"{told}; choose hidden and feed_forward sizes that are multiples of 256")
        say(f"to_gguf: warning: {told}")
    if isinstance(run, TuneRun) and run.base.style is not Style.SLOTS:
        facts["begins_with_bos"] = begins_with_bos(source)
        if header.metadata.get(_ADD_BOS) is not facts["begins_with_bos"]:
            set_bool(target, _ADD_BOS, facts["begins_with_bos"])
    return facts


def begins_with_bos(folder: Path) -> bool:
    """Whether the chat template that training used begins a dialogue with the beginning-of-text token.

    The server adds that token when the GGUF says so; two of them, or one that training never saw, are both wrong.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import, and only a fine-tune needs it

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Bonjour"}], tokenize=True, return_dict=False)
    return bool(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)


def check_folder(folder: Path) -> None:
    """Refuse a folder that the converter would turn into a model that tokenizes differently, or not at all.

    Raises:
        TrainingError: with every reason.
    """
    config = _json(folder / "config.json")
    problems = []
    if "quantization_config" in config:
        problems.append("config.json has a quantization_config: convert 16-bit weights, not a model merged in 4 bits")
    tokenizer = _json(folder / "tokenizer.json")
    has_pieces = (folder / "tokenizer.model").is_file()
    if not has_pieces and _is_sentencepiece(config, tokenizer):
        problems.append(
            "tokenizer.model is missing (transformers 5 does not save it), so the scores of the sentencepiece "
            "vocabulary are lost; copy it from the base, as merge does"
        )
    if not has_pieces and not tokenizer:
        problems.append("there is no tokenizer: neither tokenizer.json nor tokenizer.model")
    largest, known = _vocabulary(folder, tokenizer)
    size = config.get("vocab_size")
    if isinstance(size, int) and largest >= size:
        problems.append(f"the tokenizer has ids up to {largest}, the model only {size} rows; tokens were added")
    lost = [token for token in _added(tokenizer) if token["id"] not in known] if has_pieces else []
    if lost and not _reads_tokenizer_json(config):
        told = ", ".join(token["content"] for token in lost)
        problems.append(f"added tokens that only tokenizer.json knows would be lost: {told}; restore the base's files")
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free = shutil.disk_usage(folder).free
    if free < _ROOM * weights:
        problems.append(f"{free / 2**30:.1f} GiB free, about {_ROOM * weights / 2**30:.1f} needed")
    if problems:
        raise TrainingError("\n".join(f"{folder}: {problem}" for problem in problems))


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _reads_tokenizer_json(config: dict[str, Any]) -> bool:
    """Whether the converter's class for this architecture looks for added tokens in tokenizer.json too."""
    return any("Phi3" in name for name in config.get("architectures", []))


def _is_sentencepiece(config: dict[str, Any], tokenizer: dict[str, Any]) -> bool:
    model = tokenizer.get("model", {})
    if model.get("type") == "BPE" and not model.get("byte_fallback"):
        return False
    return _reads_tokenizer_json(config) or model.get("type") == "Unigram" or bool(model.get("byte_fallback"))


def _added(tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(tokenizer.get("added_tokens", []))


def _vocabulary(folder: Path, tokenizer: dict[str, Any]) -> tuple[int, set[int]]:
    """The largest token id, and the ids that the converter's sentencepiece path knows."""
    known: set[int] = set(_json(folder / "added_tokens.json").values())
    known |= {int(token) for token in _json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})}
    if (folder / "tokenizer.model").is_file():
        import sentencepiece  # noqa: PLC0415 - only where there is such a vocabulary

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        known |= set(range(pieces.get_piece_size()))
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    listed = set(vocabulary.values()) if isinstance(vocabulary, dict) else set(range(len(vocabulary)))
    return max(known | listed | {token["id"] for token in _added(tokenizer)}, default=-1), known


if __name__ == "__main__":
    main()
