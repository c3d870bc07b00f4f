"""Postings: which document has which term how often, one folder per segment.

They hold no weight and no statistic of the collection, so that adding and deleting documents changes nothing in them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.analysis import terms
from index.storage import ArrayFile, StringArray, read_array, write_array

Mask = NDArray[np.bool_]

# Terms in more than one of so many documents have a table besides: a byte for each document takes less space than such
# postings and an eighth of the time, for eight of them are added at once.
TABLED = 4
# Terms whose positions a segment remembers, for to find one takes .5 microseconds, a fifth of a search: 2 MB.
KNOWN = 1 << 14


def write_postings(folder: Path, texts: Iterable[tuple[str, str]]) -> None:
    """Analyse the texts of one segment and write their postings.

    The files: ``bm25.terms`` (V sorted terms), ``bm25.starts.npy`` (V + 1,) int64, ``bm25.rows.npy`` (P,) uint32 local
    rows, ascending within a term, ``bm25.counts.npy`` (P,) uint16 or uint32, ``bm25.lengths.npy`` (n,) uint32 terms per
    document; and of terms in more than a quarter of the documents ``bm25.frequent.npy`` (m,) int64, their positions
    among the terms, and ``bm25.table.npy`` (m, n) uint8, their counts again. Memory: the postings, not the texts.

    Args:
        folder: an existing folder.
        texts: content and language of every document row, in order; read once.
    """
    numbers: dict[str, int] = {}
    term_numbers, counts, sizes, lengths = array("I"), array("I"), array("I"), array("I")
    for text, lang in texts:
        found = Counter(terms(text, lang))
        term_numbers.extend(numbers.setdefault(term, len(numbers)) for term in found)
        counts.extend(found.values())
        sizes.append(len(found))
        lengths.append(found.total())
    rows = np.repeat(np.arange(len(sizes), dtype=np.uint32), np.asarray(sizes, np.int64))
    found_by = _Found(np.asarray(term_numbers, np.uint32), rows, np.asarray(counts, np.uint32))
    _write(folder, list(numbers), found_by, np.asarray(lengths, np.uint32))


def merge_postings(folder: Path, sources: Sequence[tuple[Postings, Mask]]) -> None:
    """Write the postings of the kept rows of several segments, renumbered in order, without analysing again.

    The files equal, byte for byte, those of :func:`write_postings` on the surviving texts.

    Args:
        folder: an existing folder, none of the sources.
        sources: every source's postings and the mask of its kept rows, (n,) bool.

    Raises:
        ValueError: a mask of another length than its segment, with both numbers.
    """
    numbers: dict[str, int] = {}
    parts, lengths = [_Found.nothing()], [np.empty(0, np.uint32)]
    first = 0
    for segment, keep in sources:
        if len(keep) != len(segment.lengths):
            raise ValueError(f"the postings hold {len(segment.lengths)} documents but the mask has {len(keep)}")
        parts.append(segment.kept(keep, first, numbers))
        lengths.append(segment.lengths[keep])
        first += len(lengths[-1])
    merged = _Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _write(folder, list(numbers), merged, np.concatenate(lengths))


class _Found(NamedTuple):
    """Postings as they are found: (P,) each, uint32, rows ascending within a term."""

    terms: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint32]

    @classmethod
    def nothing(cls) -> _Found:
        empty = np.empty(0, np.uint32)
        return cls(empty, empty, empty)


def _write(folder: Path, vocabulary: list[str], found: _Found, lengths: NDArray[np.uint32]) -> None:
    """Sort the postings by term and write the files; terms that nothing uses any more are left out."""
    frequencies = np.bincount(found.terms, minlength=len(vocabulary))
    # Python compares code points, which is the order of the UTF-8 bytes that StringArray.find relies on.
    used = sorted(np.flatnonzero(frequencies).tolist(), key=vocabulary.__getitem__)
    place = np.zeros(len(vocabulary), np.uint32)
    place[used] = np.arange(len(used), dtype=np.uint32)
    order = np.argsort(place[found.terms], kind="stable")
    starts = np.zeros(len(used) + 1, np.int64)
    np.cumsum(frequencies[used], out=starts[1:])
    widest = int(found.counts.max(initial=0))
    StringArray.write(folder, "bm25.terms", [vocabulary[number] for number in used])
    write_array(folder / "bm25.starts.npy", starts)
    rows = found.rows[order]
    counts: NDArray[np.unsignedinteger] = found.counts[order].astype(np.uint16 if widest < 2**16 else np.uint32)
    write_array(folder / "bm25.rows.npy", rows)
    write_array(folder / "bm25.counts.npy", counts)
    write_array(folder / "bm25.lengths.npy", lengths)
    _write_table(folder, starts, rows, counts, len(lengths))


def _write_table(
    folder: Path, starts: NDArray[np.int64], rows: NDArray[np.uint32], counts: NDArray[np.unsignedinteger], n: int
) -> None:
    """Write the counts of frequent terms once more, those that a byte holds."""
    often = np.flatnonzero(TABLED * np.diff(starts) > n)
    frequent = [term for term in often if counts[starts[term] : starts[term + 1]].max() < 256]
    write_array(folder / "bm25.frequent.npy", np.array(frequent, np.int64))
    with ArrayFile(folder / "bm25.table.npy", (len(frequent), n), np.uint8) as table:
        for term in frequent:
            line = np.zeros(n, np.uint8)
            own = slice(starts[term], starts[term + 1])
            line[rows[own]] = counts[own]
            table.append(line)


class Postings(NamedTuple):
    """The postings of one segment, mapped from its files."""

    terms: StringArray
    starts: NDArray[np.int64]
    rows: NDArray[np.uint32]
    counts: NDArray[np.unsignedinteger]
    lengths: NDArray[np.uint32]
    frequent: NDArray[np.int64]
    table: NDArray[np.uint8]
    known: dict[str, int]

    @classmethod
    def open(cls, folder: Path) -> Postings:
        """Map the files; no posting is read yet."""
        names = ("starts", "rows", "counts", "lengths", "frequent", "table")
        arrays = {name: read_array(folder / f"bm25.{name}.npy") for name in names}
        return cls(terms=StringArray.open(folder, "bm25.terms"), known={}, **arrays)

    def spans(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """Return (m, 3) where the postings of each term begin and end, and its row of the table or -1.

        An unknown term has none: it begins and ends nowhere.
        """
        numbers = self._numbers(wanted)
        known = numbers >= 0
        spans = np.zeros((len(wanted), 3), np.int64)
        spans[known, 0], spans[known, 1] = self.starts[numbers[known]], self.starts[numbers[known] + 1]
        spans[:, 2] = -1
        if len(self.frequent):
            places = np.searchsorted(self.frequent[:-1], numbers)
            spans[:, 2] = np.where(self.frequent[places] == numbers, places, -1)
        return spans

    def _numbers(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """Return the positions of terms, -1 for none, of which those that were asked for lately are known."""
        found = list(map(self.known.get, wanted))
        if None in found:
            unknown = [term for term, number in zip(wanted, found, strict=True) if number is None]
            new = dict(zip(unknown, self.terms.find(unknown).tolist(), strict=True))
            found = [new[term] if number is None else number for term, number in zip(wanted, found, strict=True)]
            if len(self.known) + len(new) > KNOWN:
                self.known.clear()
            self.known.update(new)
        return np.array(found, np.int64)

    def kept(self, keep: Mask, first: int, numbers: dict[str, int]) -> _Found:
        """Return the postings of the kept rows, renumbered from ``first``; ``numbers`` learns the terms."""
        own = [numbers.setdefault(self.terms[i], len(numbers)) for i in range(len(self.terms))]
        here = keep[self.rows]
        renumbered = (np.cumsum(keep) - 1 + first).astype(np.uint32)
        term_numbers = np.repeat(np.asarray(own, np.uint32), np.diff(self.starts))[here]
        return _Found(term_numbers, renumbered[self.rows[here]], self.counts[here].astype(np.uint32))
