"""The vocabulary: a sentencepiece BPE with byte fallback, identity normalisation, and our markers as control tokens.

Control tokens are only parsed where the service asks for it, so a patient who types "<|faits|>" types text. Identity
normalisation and no dummy prefix make llama.cpp's tokenization equal to sentencepiece's, piece by piece (tested).

    python -m training.tokenizer --config training/configs/mini.yaml
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from backend.core.prompt import MARKERS, SLOTS
from training.artefacts import is_done, read_input, say, write_manifest
from training.config import scratch_from_args
from training.paths import command_of, tokenizer_path, train_path

_LONGEST_LINE = 4_000


def main() -> None:
    """Run the stage."""
    run = scratch_from_args(__doc__ or "")
    source, target = train_path(run), tokenizer_path(run)
    read_input(source, command_of("synthesise"))
    if is_done(target, [source], run.tokenizer, run.seed):
        say("tokenizer: nothing to do")
        return
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(source), model_prefix=str(target.with_suffix("")), vocab_size=run.tokenizer.vocabulary,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_digits=True, character_coverage=1.0, hard_vocab_limit=False,
        control_symbols=[*MARKERS, *SLOTS], unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1,
        max_sentence_length=_LONGEST_LINE, minloglevel=2,
    )  # fmt: skip
    write_manifest(target, "tokenizer", [source], run.tokenizer, run.seed)
    say(f"tokenizer: {target} written")


def _lines(source: Path) -> Iterator[str]:
    """Patient texts, facts and replies, without the markers."""
    with source.open(encoding="utf-8") as file:
        for line in file:
            example = json.loads(line)
            yield from (text for text, special in example["prompt"] if not special)
            reply = example["reply"]
            for slot in SLOTS:
                reply = reply.replace(slot, "\n")
            yield from (part for part in reply.split("\n") if part.strip())


class Tokenizer:
    """A sentencepiece model that treats markers as the service does: special pieces apart, all else as text."""

    def __init__(self, path: Path) -> None:
        self._sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.size = int(self._sp.get_piece_size())
        self.bos, self.eos = int(self._sp.bos_id()), int(self._sp.eos_id())

    def text(self, text: str) -> list[int]:
        """Ids of plain text; markers in it stay text."""
        return list(self._sp.encode(text))

    def marker(self, marker: str) -> int:
        """The id of one of our markers."""
        return int(self._sp.piece_to_id(marker))

    def prompt(self, pieces: list[tuple[str, bool]]) -> list[int]:
        """Ids of a prompt: beginning of text, then each piece; neighbouring plain pieces are joined first."""
        ids = [self.bos]
        pending = ""
        for text, special in [*pieces, ("", True)]:
            if not special:
                pending += text
                continue
            ids += self.text(pending) if pending else []
            pending = ""
            ids += [self.marker(text)] if text else []
        return ids

    def reply(self, reply: str) -> list[int]:
        """Ids of a reply with slot tokens, ended by end-of-text."""
        ids: list[int] = []
        rest = reply
        while rest:
            places = [(rest.find(slot), slot) for slot in SLOTS if slot in rest]
            if not places:
                ids += self.text(rest)
                break
            place, slot = min(places)
            ids += self.text(rest[:place]) if place else []
            ids.append(self.marker(slot))
            rest = rest[place + len(slot) :]
        return [*ids, self.eos]

    def decode(self, ids: list[int]) -> str:
        """Text of plain ids."""
        return str(self._sp.decode(ids))


if __name__ == "__main__":
    main()
