"""What nobody understood: the most frequent phrases of a folder of cases that no finding covers.

python -m benchmarks.unread --cases FOLDER [--most 200]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.core.knowledge import Knowledge, load
from backend.core.understand import Reading, read_message
from benchmarks.cases import patient_of, read_cases

_FEWEST_WORDS = 2


def unread_phrases(reading: Reading, knowledge: Knowledge) -> Iterator[str]:
    """Runs of words within one clause that belong to no mention and hold two telling words or more."""
    used = {token for mention in reading.mentions for token in mention.tokens}
    run: list[str] = []
    clause = -1
    for index, token in enumerate(reading.document.tokens):
        if run and (index in used or not token.is_word or token.clause != clause):
            yield from _phrase(run, knowledge)
            run = []
        if index not in used and token.is_word:
            run.append(token.word)
        clause = token.clause
    yield from _phrase(run, knowledge)


def _phrase(run: Sequence[str], knowledge: Knowledge) -> Iterator[str]:
    if sum(word not in knowledge.lexicon.light for word in run) >= _FEWEST_WORDS:
        yield " ".join(run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--most", type=int, default=200)
    options = parser.parse_args(arguments)
    knowledge = load()
    counts: Counter[str] = Counter()
    messages = mentions = 0
    for path in sorted(options.cases.glob("*.jsonl")):
        for case in read_cases(path):
            reading = read_message(case["text"], patient_of(case), knowledge)
            messages += 1
            mentions += len(reading.mentions)
            counts.update(unread_phrases(reading, knowledge))
    print(f"{messages} messages, {mentions / max(1, messages):.2f} mentions a message")
    for phrase, count in counts.most_common(options.most):
        print(f"{count:5d}  {phrase}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
