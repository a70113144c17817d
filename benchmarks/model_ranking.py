"""Would a language model rank better? The leading causes scored by its likelihood, alone and mixed with the ranking.

For each case, the first candidates of the ranking are scored by the mean log-probability of their French name after the
message; mixed scores add a share of it (in standard deviations) to the log-odds. A paired test (McNemar, exact) sets
the first cause against the ranking's own. This is an experiment: the service does not rank with the model.

    python -m benchmarks.model_ranking --cases FOLDER [--model models/doctis-ai-mini-Q4_K_M.gguf]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np
from llama_cpp import Llama

from backend.core.diagnose import Diagnoser
from backend.core.entities import Cause
from backend.core.knowledge import load
from backend.settings import EMBEDDED_MODEL
from benchmarks.cases import is_accepted, patient_of, read_cases

_CANDIDATES = 5
_SHARES = (0.1, 0.3, 1.0)
_ASKED = "\nLa cause la plus probable est "


def likelihoods(model: Llama, text: str, names: Sequence[str]) -> list[float]:
    """Mean log-probability of the tokens of each name after the message."""
    prompt = model.tokenize((text + _ASKED).encode(), add_bos=True)
    found = []
    for name in names:
        tokens = model.tokenize(name.encode(), add_bos=False)
        model.reset()
        model.eval([*prompt, *tokens])
        logits = np.asarray(model.scores[len(prompt) - 1 : len(prompt) + len(tokens) - 1], dtype=np.float64)
        norm = np.logaddexp.reduce(logits, axis=1)
        found.append(float(np.mean(logits[np.arange(len(tokens)), tokens] - norm)))
    return found


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p of `better` against `worse` discordant pairs (McNemar 1947)."""
    n = better + worse
    return min(1.0, 2.0 * sum(comb(n, k) for k in range(min(better, worse) + 1)) / 2**n) if n else 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    options = parser.parse_args(arguments)
    diagnoser = Diagnoser(load())
    model = Llama(str(options.model), n_ctx=2048, logits_all=True, verbose=False)
    own: list[bool] = []
    others: dict[str, list[bool]] = {name: [] for name in ("model alone", *(f"mixed, {s}" for s in _SHARES))}
    for name in ("vignettes.jsonl", "ddxplus.jsonl"):
        for case in read_cases(options.cases / name) if (options.cases / name).exists() else []:
            causes = diagnoser.assess(case["text"], patient_of(case), (), _CANDIDATES).differential
            right = [is_accepted(cause.pathology, case) for cause in causes]
            own.append(right[0])
            scores = np.array(likelihoods(model, case["text"], [cause.pathology.phrase for cause in causes]))
            scores = (scores - scores.mean()) / (scores.std() + 1e-9)
            others["model alone"].append(right[int(scores.argmax())])
            odds = np.array([_log_odds(cause) for cause in causes])
            for share in _SHARES:
                others[f"mixed, {share}"].append(right[int((odds + share * scores).argmax())])
    print(f"{'ranking':<12} first {np.mean(own):.3f} (n={len(own)})")
    for name, hits in others.items():
        better = sum(h and not o for h, o in zip(hits, own, strict=True))
        worse = sum(o and not h for h, o in zip(hits, own, strict=True))
        print(f"{name:<12} first {np.mean(hits):.3f}, +{better} -{worse}, p {mcnemar(better, worse):.3f}")
    return 0


def _log_odds(cause: Cause) -> float:
    return cause.prior_weight + sum(e.weight for e in (*cause.evidence_for, *cause.evidence_against))


if __name__ == "__main__":
    sys.exit(main())
