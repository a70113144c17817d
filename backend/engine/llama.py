"""The only door to llama.cpp: load a GGUF, turn a prompt into tokens, generate greedily one token at a time.

Uses llama-cpp-python's low-level functions. A `LlamaModel` belongs to one thread. The GGUF's own chat template is
never executed; patient text is tokenized with special-token parsing off, and marker strings that a vocabulary would
match all the same (user-defined tokens) are split so that they stay text.
"""

from __future__ import annotations

import codecs
import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path

import llama_cpp as llama
import numpy as np

from backend.core.prompt import SLOTS, Piece
from backend.errors import ModelError

_BATCH_TOKENS = 256
_MARKUP = frozenset("<|[]>")


_DROP_LOG = llama.llama_log_callback(lambda _level, _text, _data: None)


def quiet() -> None:
    """Silence llama.cpp for the whole process."""
    llama.llama_log_set(_DROP_LOG, ctypes.c_void_p(0))


class LlamaModel:
    """A loaded GGUF with one context. Not thread-safe: one owner thread loads, uses and closes it."""

    def __init__(self, path: Path, context_tokens: int, threads: int) -> None:
        """Load the model.

        Raises:
            ModelError: llama.cpp cannot load the file or make a context of that size.
        """
        quiet()
        llama.llama_backend_init()
        model_params = llama.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise ModelError("load_failed", f"{path}: llama.cpp cannot load this file")
        params = llama.llama_context_default_params()
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            llama.llama_model_free(self._model)
            raise ModelError("load_failed", f"{path}: no context of {context_tokens} tokens")
        self.context_tokens = int(llama.llama_n_ctx(self._context))
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._vocab_size = int(llama.llama_vocab_n_tokens(self._vocab))
        self._slots = {token: slot for slot in SLOTS if (token := self._control_token(slot)) is not None}
        self._markers = self._user_defined_markup()

    def close(self) -> None:
        """Free the context and the model."""
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    @property
    def chat_template(self) -> str | None:
        """The text of the GGUF's chat template, for telling its family; never executed."""
        template = llama.llama_model_chat_template(self._model, None)
        return template.decode("utf-8", "replace") if template else None

    def has_control_tokens(self, markers: Sequence[str]) -> bool:
        """Whether the vocabulary holds every marker as one control token."""
        return all(self._control_token(marker) is not None for marker in markers)

    def _control_token(self, text: str) -> int | None:
        """The id of a marker when the vocabulary holds it as one control token."""
        tokens = self._tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 and llama.llama_vocab_is_control(self._vocab, tokens[0]) else None

    def _user_defined_markup(self) -> tuple[str, ...]:
        """User-defined tokens that look like markup: llama.cpp matches them even with special parsing off."""
        found = []
        for token in range(self._vocab_size):
            if llama.llama_vocab_get_attr(self._vocab, token) & llama.LLAMA_TOKEN_ATTR_USER_DEFINED:
                text = self.piece(token, special=True).decode("utf-8", "replace")
                if len(text) > 1 and _MARKUP.intersection(text):
                    found.append(text)
        return tuple(sorted(found, key=len, reverse=True))

    def _tokenize(self, text: str, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        buffer = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self._vocab, data, len(data), buffer, len(buffer), False, special)
        if count < 0:
            raise ModelError("tokenize_failed", "llama.cpp cannot tokenize the prompt")
        return list(buffer[:count])

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of a prompt, with the beginning-of-text token when the model wants one."""
        tokens: list[int] = []
        if llama.llama_vocab_get_add_bos(self._vocab):
            tokens.append(int(llama.llama_vocab_bos(self._vocab)))
        for special, group in groupby(pieces, key=lambda piece: piece.special):
            text = "".join(piece.text for piece in group)
            for part in [text] if special else self._split_markers(text):
                tokens.extend(self._tokenize(part, special))
        return tokens

    def _split_markers(self, text: str) -> list[str]:
        """`text` cut inside every user-defined marker, so that none is matched."""
        places = {
            found.start() + len(marker) // 2
            for marker in self._markers
            for found in re.finditer(f"(?={re.escape(marker)})", text)
        }
        return [text[start:end] for start, end in pairwise((0, *sorted(places), len(text))) if start < end]

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless `special`."""
        buffer = ctypes.create_string_buffer(256)
        size = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(0, size)]

    def generate(self, prompt: Sequence[int], most_tokens: int, stop: Callable[[], bool]) -> Iterator[str]:
        """Greedy continuation of `prompt`, as pieces of text; a slot token comes as its own name ("<|c1|>").

        Ends at an end-of-generation token, after `most_tokens`, or as soon as `stop()` is true (asked before every
        step, and every 256 prompt tokens).

        Raises:
            ModelError: llama.cpp failed to decode.
        """
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for start in range(0, len(prompt), _BATCH_TOKENS):
            if stop():
                return
            self._decode(prompt[start : start + _BATCH_TOKENS])
        for _ in range(most_tokens):
            token = self._likeliest()
            if llama.llama_vocab_is_eog(self._vocab, token) or stop():
                break
            if token in self._slots:
                if rest := decoder.decode(b"", final=True):
                    yield rest
                decoder.reset()
                yield self._slots[token]
            elif text := decoder.decode(self.piece(token)):
                yield text
            self._decode([token])
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _decode(self, tokens: Sequence[int]) -> None:
        array = (llama.llama_token * len(tokens))(*tokens)
        status = llama.llama_decode(self._context, llama.llama_batch_get_one(array, len(tokens)))
        if status != 0:
            raise ModelError("decode_failed", f"llama_decode returned {status}")

    def _likeliest(self) -> int:
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, -1), shape=(self._vocab_size,))
        return int(logits.argmax())
