"""Postings: which document has which term how often, one folder per segment.

They hold no weight and no statistic of the collection, so that adding and deleting documents changes nothing in them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
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
# Postings that a merge holds at a time, but all of one term: 10 MB.
MERGED = 1 << 18


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

    The files equal, byte for byte, those of :func:`write_postings` on the surviving texts. Memory: the postings of some
    terms at a time, and the positions of all.

    Args:
        folder: an existing folder, none of the sources.
        sources: every source's postings and the mask of its kept rows, (n,) bool.

    Raises:
        ValueError: a mask of another length than its segment, with both numbers.
    """
    for postings, keep in sources:
        if len(keep) != len(postings.lengths):
            raise ValueError(f"the postings hold {len(postings.lengths)} documents but the mask has {len(keep)}")
    every = StringArray.join([postings.terms for postings, _ in sources])
    numbers, names = _numbered(every, [len(postings.terms) for postings, _ in sources])
    merged, first = [], 0
    for (postings, keep), own in zip(sources, numbers, strict=True):
        merged.append(_Source(postings, keep, (np.cumsum(keep) - 1 + first).astype(np.uint32), own))
        first += int(np.count_nonzero(keep))
    frequencies = _write_merged(folder, merged, len(names))
    starts = np.append(0, np.cumsum(frequencies[frequencies > 0]))
    StringArray.write(folder, "bm25.terms", (every[name] for name in names[frequencies > 0]))
    write_array(folder / "bm25.starts.npy", starts)
    lengths = np.concatenate([np.empty(0, np.uint32), *(postings.lengths[keep] for postings, keep in sources)])
    write_array(folder / "bm25.lengths.npy", lengths)
    rows, counts = (read_array(folder / f"bm25.{name}.npy") for name in ("rows", "counts"))
    _write_table(folder, starts, rows, counts, len(lengths))


def _numbered(every: StringArray, sizes: Sequence[int]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Number the terms of several sources together, in their order; return each source's numbers, and a place of each.

    Args:
        every: the terms of all sources, one source after another.
        sizes: how many terms each source has.
    """
    ends = np.cumsum([0, *sizes])
    order = every.merge([np.arange(start, end) for start, end in pairwise(ends)])
    new, before = np.ones(len(order), np.bool_), ""
    for place, name in enumerate(order):
        term = every[name]
        new[place] = not place or term != before
        before = term
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return [numbers[start:end] for start, end in pairwise(ends)], order[new]


def _write_merged(folder: Path, sources: Sequence[_Source], size: int) -> NDArray[np.int64]:
    """Write the kept postings of all sources, some terms at a time; return how many each of ``size`` terms has."""
    totals, frequencies = np.zeros(size + 1, np.int64), np.zeros(size, np.int64)
    for source in sources:
        totals[1 + source.numbers] += np.diff(source.postings.starts)
    ends = np.cumsum(totals)
    dtype = np.uint16 if max((source.widest() for source in sources), default=0) < 2**16 else np.uint32
    with (
        ArrayFile(folder / "bm25.rows.npy", None, np.uint32) as rows,
        ArrayFile(folder / "bm25.counts.npy", None, dtype) as counts,
    ):
        first = 0
        while first < size:
            last = max(int(np.searchsorted(ends, ends[first] + MERGED, side="right")) - 1, first + 1)
            parts = [source.part(first, last) for source in sources]
            found = _Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))
            order = np.argsort(found.terms, kind="stable")
            rows.append(found.rows[order])
            counts.append(found.counts[order])
            frequencies[first:last] = np.bincount(found.terms, minlength=last - first)
            first = last
    return frequencies


class _Found(NamedTuple):
    """Postings as they are found: (P,) each, uint32, rows ascending within a term."""

    terms: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint32]


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


class _Source(NamedTuple):
    """One segment that is merged.

    Attributes:
        postings: its own.
        keep: (n,) which rows stay.
        rows: (n,) their numbers in what is merged.
        numbers: (V,) those of its terms among the terms of all sources, ascending.
    """

    postings: Postings
    keep: Mask
    rows: NDArray[np.uint32]
    numbers: NDArray[np.int64]

    def widest(self) -> int:
        """Return the largest count that stays, 0 where all fit into 16 bits."""
        if self.postings.counts.dtype == np.uint16:
            return 0
        return int(self.postings.counts[self.keep[self.postings.rows]].max(initial=0))

    def part(self, first: int, last: int) -> _Found:
        """Return the kept postings of some terms, which are numbered from ``first``."""
        own = slice(*np.searchsorted(self.numbers, [first, last]).tolist())
        starts = self.postings.starts[own.start : own.stop + 1]
        here = slice(int(starts[0]), int(starts[-1]))
        rows = self.postings.rows[here]
        kept = self.keep[rows]
        terms = np.repeat((self.numbers[own] - first).astype(np.uint32), np.diff(starts))[kept]
        return _Found(terms, self.rows[rows[kept]], self.postings.counts[here][kept].astype(np.uint32))
