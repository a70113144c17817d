"""Rows that say the same thing: exact copies, and near ones by the Jaccard similarity of their word shingles.

MinHash finds candidates (128 hashes in bands, Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3), the shingles
themselves decide, so a pair below the threshold is never taken for a duplicate. Bands and shingles lie in files beside
the rows: in memory a row costs some 100 bytes, whatever its length. Done here with numpy rather than datasketch, whose
in-memory index costs kilobytes a row, its other storages a database server, and which brings scipy.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

HASHES = 128
_SHINGLE_WORDS = 3
# Among `threshold` similar pairs, the share that the bands must show; below it they are made narrower.
_RECALL = 0.999
# How much less similar two rows may be and still stay on the same side of the split.
_RELATED = 0.75
_MOST_COMPARED = 50
_CHUNK_ROWS = 1 << 14
_WORD = re.compile(r"\w+")

Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Shingles = npt.NDArray[np.uint32]


def words_of(text: str) -> list[str]:
    """The words of a text without case and punctuation."""
    return _WORD.findall(text.casefold())


def key_of(words: list[str]) -> int:
    """64 bits that equal words share."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "little")


def shingles_of(words: list[str]) -> Shingles:
    """The hashes of every three words in a row, sorted; of all the words when there are fewer."""
    count = max(1, len(words) - _SHINGLE_WORDS + 1)
    parts = (" ".join(words[i : i + _SHINGLE_WORDS]).encode() for i in range(count))
    return np.unique(np.fromiter((zlib.crc32(part) for part in parts), dtype=np.uint32, count=count))


def jaccard(one: Shingles, other: Shingles) -> float:
    """The share of the shingles of either that both have."""
    both = np.intersect1d(one, other, assume_unique=True).size
    return float(both / (one.size + other.size - both))


@cache
def banding(threshold: float) -> tuple[int, int]:
    """Bands and rows per band: as wide as possible while `_RECALL` of the pairs at the threshold share a band."""
    for rows in range(16, 0, -1):
        bands = HASHES // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return HASHES, 1


@cache
def _multipliers() -> tuple[Keys, Keys]:
    drawn = [hashlib.sha256(f"minhash/{place}".encode()).digest() for place in range(HASHES)]
    slopes = np.array([int.from_bytes(one[:8], "little") | 1 for one in drawn], dtype=np.uint64)
    return slopes, np.array([int.from_bytes(one[8:16], "little") for one in drawn], dtype=np.uint64)


def bands_of(shingles: Shingles, threshold: float) -> Keys:
    """One key per band: rows that share any of them are compared."""
    slopes, shifts = _multipliers()
    # Multiply-shift hashing; overflow is the modulus 2^64.
    hashed = (shingles.astype(np.uint64)[:, None] * slopes + shifts) >> np.uint64(32)
    lowest = hashed.min(axis=0).astype("<u4")
    bands, rows = banding(threshold)
    digests = (
        hashlib.blake2b(lowest[b * rows : (b + 1) * rows].tobytes(), digest_size=8).digest() for b in range(bands)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")


class Groups:
    """Disjoint groups of rows; a group is named after its first row."""

    def __init__(self, rows: int) -> None:
        self._first = np.arange(rows, dtype=np.int64)

    def find(self, row: int) -> int:
        """The first row of the group of `row`."""
        first = self._first
        while first[row] != row:
            first[row] = first[first[row]]
            row = int(first[row])
        return row

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        a, b = sorted((self.find(one), self.find(other)))
        self._first[b] = a

    def join_equal(self, keys: Keys, rows: Ids) -> None:
        """Join the rows (ascending) that have the same key."""
        for run in runs(keys):
            for place in run[1:]:
                self.join(int(rows[run[0]]), int(rows[place]))

    def firsts(self) -> Ids:
        """The first row of the group of every row."""
        return np.array([self.find(row) for row in range(len(self._first))], dtype=np.int64)


def runs(keys: Keys) -> Iterator[Ids]:
    """The places of every key that occurs more than once, ascending."""
    order = np.argsort(keys, kind="stable")
    same = np.concatenate(([False], keys[order[1:]] == keys[order[:-1]], [False]))
    starts = np.flatnonzero(~same[:-1] & same[1:])
    ends = np.flatnonzero(same[:-1] & ~same[1:]) + 1
    for start, end in zip(starts, ends, strict=True):
        yield order[start:end]


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of every row in order: the key of its words, where its shingles are, and the two files."""

    exact: Keys
    start: Ids
    count: Ids
    bands_file: Path
    shingles_file: Path

    def column(self, band: int, bands: int) -> Keys:
        """The keys of one band, read without the others."""
        found = np.empty(len(self.exact), dtype=np.uint64)
        with self.bands_file.open("rb") as file:
            for first in range(0, len(found), _CHUNK_ROWS):
                rows = min(_CHUNK_ROWS, len(found) - first)
                block = np.frombuffer(file.read(rows * bands * 8), dtype="<u8").reshape(rows, bands)
                found[first : first + rows] = block[:, band]
        return found


def group(prints: Fingerprints, threshold: float) -> tuple[Groups, Groups]:
    """The groups of duplicates, and the wider groups of related rows that must stay on one side of a split.

    Duplicates are transitive: a copy of a copy belongs to the group. Costs a few comparisons of shingles per row; a
    row is compared with at most `_MOST_COMPARED` others of one band.
    """
    rows = len(prints.exact)
    alike, related = Groups(rows), Groups(rows)
    everyone = np.arange(rows, dtype=np.int64)
    alike.join_equal(prints.exact, everyone)
    firsts = np.flatnonzero(alike.firsts() == everyone)
    if threshold < 1:
        _join_similar(prints, firsts, threshold, alike, related)
    for row in range(rows):
        related.join(row, alike.find(row))
    return alike, related


def _join_similar(prints: Fingerprints, firsts: Ids, threshold: float, alike: Groups, related: Groups) -> None:
    bands, _ = banding(threshold)
    with prints.shingles_file.open("rb") as file:

        def shingles(row: int) -> Shingles:
            place, count = int(prints.start[row]), int(prints.count[row])
            return np.frombuffer(os.pread(file.fileno(), count * 4, place * 4), dtype="<u4")

        for band in range(bands):
            for run in runs(prints.column(band, bands)[firsts]):
                members = [int(firsts[place]) for place in run]
                for place, row in enumerate(members[1:], 1):
                    own = shingles(row)
                    for other in members[max(0, place - _MOST_COMPARED) : place]:
                        if alike.find(other) == alike.find(row):
                            continue
                        similarity = jaccard(own, shingles(other))
                        if similarity >= threshold:
                            alike.join(row, other)
                        if similarity >= threshold * _RELATED:
                            related.join(row, other)
