"""A GGUF as the measuring stages see it: logits of given tokens, and a greedy continuation as token ids.

The server's own `LlamaModel` gives text and only the last logits. T tokens, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import llama_cpp as llama
import numpy as np
import numpy.typing as npt

from training.errors import TrainingError

_BATCH_TOKENS = 256


class GgufModel:
    """A loaded GGUF with one context; close it."""

    def __init__(self, path: Path, context_tokens: int, threads: int) -> None:
        """Load the model.

        Raises:
            TrainingError: llama.cpp cannot.
        """
        llama.llama_backend_init()
        model_params = llama.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise TrainingError(f"{path}: llama.cpp cannot load this file")
        params = llama.llama_context_default_params()
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            llama.llama_model_free(self._model)
            raise TrainingError(f"{path}: no context of {context_tokens} tokens")
        self.context_tokens = int(llama.llama_n_ctx(self._context))
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocabulary = int(llama.llama_vocab_n_tokens(self._vocab))
        self._batch = llama.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def close(self) -> None:
        """Free the context and the model."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def logits(self, ids: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        """What the model expected at each of `ids[first:]`, as logits (T, V); `first` is at least 1.

        Raises:
            TrainingError: more tokens than the context holds, or llama.cpp failed.
        """
        if len(ids) > self.context_tokens:
            raise TrainingError(f"{len(ids)} tokens do not fit in a context of {self.context_tokens}")
        self._clear()
        found_TV = np.empty((len(ids) - first, self.vocabulary), dtype=np.float32)
        for start in range(0, len(ids) - 1, _BATCH_TOKENS):
            end = min(start + _BATCH_TOKENS, len(ids) - 1)
            self._decode(ids[start:end], start, first - 1)
            for place in range(max(start, first - 1), end):
                found_TV[place - first + 1] = self._logits_at(place - start)
        return found_TV

    def continue_greedily(self, ids: Sequence[int], most_tokens: int) -> tuple[list[int], bool]:
        """The likeliest next tokens, and whether the model ended them itself (the end token is not among them)."""
        self._clear()
        most = min(most_tokens, self.context_tokens - len(ids))
        for start in range(0, len(ids), _BATCH_TOKENS):
            part = ids[start : start + _BATCH_TOKENS]
            self._decode(part, start, len(ids) - 1)
        last = (len(ids) - 1) % _BATCH_TOKENS
        found: list[int] = []
        while len(found) < most:
            token = int(self._logits_at(last).argmax())
            if llama.llama_vocab_is_eog(self._vocab, token):
                return found, True
            found.append(token)
            self._decode([token], len(ids) + len(found) - 1, 0)
            last = 0
        return found, False

    def _clear(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)

    def _decode(self, ids: Sequence[int], start: int, wanted_from: int) -> None:
        """Evaluate tokens at positions from `start`; logits are kept for positions from `wanted_from`."""
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = ctypes.c_int8(start + index >= wanted_from)
        status = llama.llama_decode(self._context, batch)
        if status != 0:
            raise TrainingError(f"llama_decode returned {status}")

    def _logits_at(self, index: int) -> npt.NDArray[np.float32]:
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, index), shape=(self.vocabulary,))


def log_softmax(logits_TV: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-probabilities (T, V), in float32."""
    shifted = logits_TV - logits_TV.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
