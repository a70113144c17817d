"""Duplicates: found whatever their order, never invented, and cheap to look for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.duplicates import (
    Fingerprints,
    Groups,
    banding,
    bands_of,
    group,
    jaccard,
    key_of,
    shingles_of,
    words_of,
)


def prints(texts: Sequence[str], folder: Path, threshold: float) -> Fingerprints:
    """The fingerprints of texts, in files."""
    words = [words_of(text) for text in texts]
    shingles = [shingles_of(one) for one in words]
    (folder / "bands").write_bytes(b"".join(bands_of(one, threshold).tobytes() for one in shingles))
    (folder / "shingles").write_bytes(b"".join(one.tobytes() for one in shingles))
    counts = np.array([one.size for one in shingles], dtype=np.int64)
    return Fingerprints(
        np.array([key_of(one) for one in words], dtype=np.uint64), np.cumsum(counts) - counts, counts,
        folder / "bands", folder / "shingles",
    )  # fmt: skip


def groups_of(texts: Sequence[str], folder: Path, threshold: float = 0.8) -> list[int]:
    """For every text the first one that it repeats."""
    return [int(first) for first in group(prints(texts, folder, threshold), threshold)[0].firsts()]


def text(rng: random.Random, words: int = 60) -> list[str]:
    """Words that mean nothing."""
    return [f"mot{rng.randrange(2_000)}" for _ in range(words)]


def test_copies_are_found_without_case_and_punctuation(tmp_path: Path) -> None:
    """What reads the same is the same row."""
    texts = ["J'ai mal au ventre.", "autre chose ici même", "j'ai MAL au ventre !!", "J'ai mal au dos."]
    assert groups_of(texts, tmp_path) == [0, 1, 0, 3]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_every_pair_is_judged_by_its_shingles(tmp_path: Path, threshold: float) -> None:
    """Among texts changed more and more, those above the threshold are found and none below it."""
    rng = random.Random(3)
    for changes in range(1, 16):
        original = text(rng)
        changed = list(original)
        for place in rng.sample(range(len(changed)), changes):
            changed[place] = "autre"
        texts = [" ".join(original), " ".join(text(rng)), " ".join(changed)]
        similarity = jaccard(shingles_of(words_of(texts[0])), shingles_of(words_of(texts[2])))
        assert groups_of(texts, tmp_path, threshold) == [0, 1, 0 if similarity >= threshold else 2]


def test_a_copy_of_a_copy_belongs_to_the_group(tmp_path: Path) -> None:
    """Each text differs a little from the one before it; all are one group, the first one stands for it."""
    rng = random.Random(4)
    texts = [text(rng)]
    for place in (5, 25, 45):
        texts.append([*texts[-1][:place], "autre", *texts[-1][place + 1 :]])
    lines = [" ".join(words) for words in texts]
    assert jaccard(shingles_of(texts[0]), shingles_of(texts[-1])) < 0.8
    assert groups_of(lines, tmp_path) == [0, 0, 0, 0]


def test_related_texts_stay_together_without_being_duplicates(tmp_path: Path) -> None:
    """Somewhat less similar: kept, and on one side of the split."""
    rng = random.Random(5)
    original = text(rng, 80)
    changed = [word if place % 20 else "autre" for place, word in enumerate(original)]
    similarity = jaccard(shingles_of(original), shingles_of(changed))
    assert 0.6 <= similarity < 0.8
    alike, related = group(prints([" ".join(original), " ".join(changed)], tmp_path, 0.8), 0.8)
    assert alike.firsts().tolist() == [0, 1]
    assert related.firsts().tolist() == [0, 0]


def test_many_copies_of_one_text_cost_little(tmp_path: Path) -> None:
    """Two thousand copies are one group at once, not two million comparisons."""
    texts = ["Merci de votre question, prenez soin de vous."] * 2_000
    assert set(groups_of(texts, tmp_path)) == {0}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_show_nearly_every_pair_at_the_threshold(threshold: float) -> None:
    """The theoretical miss is at most one in a thousand (at 0.3 what 128 hashes can do)."""
    bands, rows = banding(threshold)
    assert bands * rows <= 128
    assert (1 - threshold**rows) ** bands <= 0.001


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19))))
def test_groups_are_named_after_their_first_row(pairs: list[tuple[int, int]]) -> None:
    """Joined rows have one name, the smallest of the group."""
    groups = Groups(20)
    for one, other in pairs:
        groups.join(one, other)
    firsts = groups.firsts()
    assert all(firsts[one] == firsts[other] for one, other in pairs)
    assert all(first <= row and firsts[first] == first for row, first in enumerate(firsts))


def test_fingerprints_are_the_same_on_every_machine() -> None:
    """They depend on no random seed of the process."""
    shingles = shingles_of(words_of("J'ai mal au ventre depuis hier"))
    assert key_of(["mal", "au", "ventre"]) == 2042185575402866831
    assert shingles.tolist() == [1020777215, 1692472221, 2762158235, 2818871346, 3685701647]
    assert bands_of(shingles, 0.8)[:2].tolist() == [902351082386879666, 12127093041675902165]
