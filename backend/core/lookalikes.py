"""Make `data/lookalikes.json`: real French words that a typo correction would otherwise turn into a lexicon word.

"Souffre" stands one letter from "souffle"; without this list it would be "corrected". A word is listed when the
dictionary of simplemma (2.0.0, a development dependency) knows it, the lexicon does not, and the lexicon holds a word
that close. Run again after changing wordings: `python -m backend.core.lookalikes`; a test says when it is stale.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict

from backend.core.knowledge import DATA, Knowledge, load
from backend.core.text import plain

PATH = DATA / "lookalikes.json"
_SHORTEST = 5


def find_lookalikes(knowledge: Knowledge) -> list[str]:
    """The words to list, folded and sorted; inflections of the words they resemble are left out. Cost: 70 s."""
    from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory  # noqa: PLC0415 - dev only

    lemmas: dict[str, set[str]] = defaultdict(set)
    for word, lemma in DefaultDictionaryFactory().get_dictionary("fr").items():
        if word.isalpha() and len(word) >= _SHORTEST:
            lemmas[plain(word)].add(lemma)
    return sorted(
        word
        for word, own in lemmas.items()
        if any(not own & lemmas.get(close, set()) for close in knowledge.lexicon.corrections_of_any(word))
    )


def main() -> None:
    """Rewrite the list."""
    words = find_lookalikes(load())
    PATH.write_text(json.dumps(words, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{len(words)} lookalikes", file=sys.stderr)


if __name__ == "__main__":
    main()
