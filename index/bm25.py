"""BM25 over raw postings: term counts on disk, one folder per segment, scored exactly over all segments.

A segment's postings hold no weight and no statistic of the collection, so that adding and deleting documents changes
nothing in them: document frequencies and the mean length are those of the live documents at the time of the search.
The analysis of text into terms is index.analysis.
"""

from __future__ import annotations

import enum
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.errors import CollectionError, UsageError
from index import lexical
from index.analysis import terms
from index.parallel import share
from index.ranking import NOTHING, Ranked, Rows
from index.storage import ArrayFile, StringArray, read_array, write_array
from index.vectors import groups

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Queries that a core takes at a time, and hits that are held at most: 20 bytes each.
BLOCK, HELD = 8, 1 << 21
# Terms in more than one of so many documents have a table besides: a byte for each document takes less space than such
# postings and an eighth of the time, for eight of them are added at once.
TABLED = 4


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

    @classmethod
    def open(cls, folder: Path) -> Postings:
        """Map the files; no posting is read yet."""
        names = ("starts", "rows", "counts", "lengths", "frequent", "table")
        return cls(StringArray.open(folder, "bm25.terms"), *(read_array(folder / f"bm25.{name}.npy") for name in names))

    def spans(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """Return (m, 3) where the postings of each term begin and end, and its row of the table or -1.

        An unknown term has none: it begins and ends nowhere.
        """
        numbers = self.terms.find(wanted)
        known = numbers >= 0
        spans = np.zeros((len(wanted), 3), np.int64)
        spans[known, 0], spans[known, 1] = self.starts[numbers[known]], self.starts[numbers[known] + 1]
        spans[:, 2] = -1
        if len(self.frequent):
            places = np.searchsorted(self.frequent[:-1], numbers)
            spans[:, 2] = np.where(self.frequent[places] == numbers, places, -1)
        return spans

    def kept(self, keep: Mask, first: int, numbers: dict[str, int]) -> _Found:
        """Return the postings of the kept rows, renumbered from ``first``; ``numbers`` learns the terms."""
        own = [numbers.setdefault(self.terms[i], len(numbers)) for i in range(len(self.terms))]
        here = keep[self.rows]
        renumbered = (np.cumsum(keep) - 1 + first).astype(np.uint32)
        term_numbers = np.repeat(np.asarray(own, np.uint32), np.diff(self.starts))[here]
        return _Found(term_numbers, renumbered[self.rows[here]], self.counts[here].astype(np.uint32))


class Bm25Variant(enum.Enum):
    """Which formula; see :class:`Bm25Parameters`."""

    LUCENE = "lucene"
    OKAPI = "okapi"


@dataclass(frozen=True, slots=True)
class Bm25Parameters:
    """The formula and its two numbers; the defaults are Anserini's.

    With N documents of which df hold the term, tf times in a document of dl terms, and avgdl the mean of dl:

    * LUCENE: ln(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * dl / avgdl)), with exact lengths.
    * OKAPI: ln((N - df + 0.5) / (df + 0.5)) * tf * (k1 + 1) / (the same); a negative logarithm is replaced by 0.25
      times the mean logarithm of the vocabulary, as ``rank_bm25.BM25Okapi`` does.

    Sources: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009; Kamphuis, de Vries,
    Boytsov and Lin, Which BM25 Do You Mean?, ECIR 2020 ("Lucene (accurate)"; Lucene 8 dropped its constant k1 + 1).

    Raises:
        UsageError: k1 below 0 or not finite, or b outside 0 to 1.
    """

    k1: float = 0.9
    b: float = 0.4
    variant: Bm25Variant = Bm25Variant.LUCENE

    def __post_init__(self) -> None:
        """Refuse what would make scores negative or undefined."""
        if not 0 <= self.k1 < math.inf:
            raise UsageError(f"BM25: k1 must be a number from 0 up, got {self.k1}")
        if not 0 <= self.b <= 1:
            raise UsageError(f"BM25: b must lie between 0 and 1, got {self.b}")


DEFAULTS = Bm25Parameters()


class Bm25View:
    """The postings of a snapshot's segments, searched as one. Safe to share between threads."""

    def __init__(self, segments: Sequence[Postings], live: Mask, id_order: NDArray[np.int64]) -> None:
        """Take the postings; nothing is read yet.

        Args:
            segments: the postings of each; global rows are the segments' rows one after another.
            live: (n,) bool, False for deleted rows, which count nowhere.
            id_order: (n,) as :func:`index.ranking.best` wants it.

        Raises:
            CollectionError: segments that do not hold n documents together.
        """
        self._segments = segments
        self._firsts = np.cumsum([0, *(len(segment.lengths) for segment in self._segments)]).tolist()
        if not self._firsts[-1] == len(live) == len(id_order):
            raise CollectionError(
                f"the BM25 postings hold {self._firsts[-1]} documents but the collection has {len(live)} rows"
                f" and {len(id_order)} ids: index it anew"
            )
        self._live = live
        self._id_order = id_order
        self._last_norms: tuple[tuple[float, float], Floats] | None = None

    def search(
        self,
        queries: Sequence[Sequence[str]],
        k: int,
        *,
        parameters: Bm25Parameters = DEFAULTS,
        within: Sequence[Rows] | None = None,
    ) -> list[Ranked]:
        """Return for every query its ``k`` best live rows with a score above 0; a higher score is better.

        Args:
            queries: the analysed terms of each; a repeated term counts as often.
            k: how many rows at most.
            parameters: the formula.
            within: for every query the rows that may be returned, sorted; the scores stay those of the collection.

        Raises:
            ValueError: ``within`` of another length than ``queries``.
        """
        if not self._documents or k <= 0:
            return [NOTHING] * len(queries)
        number_of: dict[str, int] = {}
        numbers = np.array([number_of.setdefault(x, len(number_of)) for query in queries for x in query], np.int64)
        starts = np.cumsum([0, *map(len, queries)], dtype=np.int64)
        spans = [segment.spans(list(number_of)) for segment in self._segments]
        weights = self._idf(self._frequencies(spans), parameters).astype(np.float32)
        norms = self._norms(parameters)
        found = [NOTHING] * len(queries)
        most = min(k, self._documents)
        at_once = max(1, HELD // most)
        for members, allowed in self._allowed(within, len(queries)):
            parts = self._parts(spans, norms, allowed)
            for start in range(0, len(members), at_once):
                some = members[start : start + at_once]
                asked = _take(starts, numbers, weights, some)
                for i, ranked in zip(some, _rank(parts, asked, most), strict=True):
                    found[i] = ranked
        return found

    def _allowed(self, within: Sequence[Rows] | None, queries: int) -> Iterator[tuple[list[int], Mask]]:
        """Yield the positions of queries that share the same allowed rows, with a mask of those."""
        if within is None:
            yield list(range(queries)), self._live
            return
        for members, rows in groups(within, queries, self._live):
            allowed = np.zeros(len(self._live), np.bool_)
            allowed[rows] = True
            yield members, allowed

    def _parts(self, spans: Sequence[NDArray[np.int64]], norms: Floats, allowed: Mask) -> list[lexical.Part]:
        """Return what is asked of each segment."""
        parts = []
        for first, segment, own in zip(self._firsts, self._segments, spans, strict=False):
            here = slice(first, first + len(segment.lengths))
            order = self._id_order[here]
            postings = segment.rows, segment.counts, own, segment.table
            parts.append(lexical.Part(*postings, norms[here], allowed[here], order, first))
        return parts

    def _frequencies(self, spans: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return in how many live documents each term occurs."""
        counts = np.zeros(len(spans[0]), np.int64)
        for first, segment, own in zip(self._firsts, self._segments, spans, strict=False):
            live = self._live[first : first + len(segment.lengths)]
            if live.all():
                counts += own[:, 1] - own[:, 0]
            else:
                lexical.count_live(segment.rows, own[:, 0], own[:, 1], live, counts)
        return counts

    def _norms(self, parameters: Bm25Parameters) -> Floats:
        """Return (n,) k1 * (1 - b + b * dl / avgdl), kept for the next search with the same numbers."""
        k1, b = parameters.k1, parameters.b
        last = self._last_norms
        if last is None or last[0] != (k1, b):
            # One assignment, so a thread beside this one sees the old pair or the new.
            last = self._last_norms = (
                (k1, b),
                # Above 0, for a table has terms that a document has not, and 0 of them is not to be divided by 0.
                np.maximum(k1 * (1 - b + b * self._lengths / self._mean_length), 1e-30).astype(np.float32),
            )
        return last[1]

    @cached_property
    def _documents(self) -> int:
        return int(np.count_nonzero(self._live))

    @cached_property
    def _lengths(self) -> NDArray[np.uint32]:
        return np.concatenate([segment.lengths for segment in self._segments])

    @cached_property
    def _mean_length(self) -> float:
        # Where no document has a term, no score is ever computed, and 1 keeps the division quiet.
        return float(self._lengths[self._live].mean(dtype=np.float64)) or 1.0

    def _idf(self, frequencies: NDArray[np.int64], parameters: Bm25Parameters) -> NDArray[np.float64]:
        """Return the inverse document frequencies, times OKAPI's k1 + 1; a term that no document has is without."""
        odds = (self._documents - frequencies + 0.5) / (frequencies + 0.5)
        if parameters.variant is Bm25Variant.LUCENE:
            return np.log1p(odds)
        idf = np.log(odds)
        if (idf < 0).any():
            idf = np.where(idf < 0, 0.25 * self._mean_okapi_idf, idf)
        return (parameters.k1 + 1) * idf

    @cached_property
    def _mean_okapi_idf(self) -> float:
        """Return the mean of ln((N - df + 0.5) / (df + 0.5)) over the terms of the live documents."""
        frequencies: Counter[str] = Counter()
        for first, segment in zip(self._firsts, self._segments, strict=False):
            alive = self._live[segment.rows.astype(np.int64) + first].astype(np.int64)
            own = np.add.reduceat(alive, segment.starts[:-1]) if len(alive) else alive
            frequencies.update({segment.terms[i]: count for i, count in enumerate(own.tolist()) if count})
        # Sorted, so that the sum does not depend on how the segments were cut.
        df = np.sort(np.fromiter(frequencies.values(), np.float64, len(frequencies)))
        return float(np.mean(np.log((self._documents - df + 0.5) / (df + 0.5))))


def _take(
    starts: NDArray[np.int64], numbers: NDArray[np.int64], weights: Floats, chosen: Sequence[int]
) -> lexical.Asked:
    """Return the terms of the chosen queries, and their weights."""
    if len(chosen) < len(starts) - 1:
        numbers = np.concatenate([numbers[starts[i] : starts[i + 1]] for i in chosen])
        starts = np.cumsum([0, *(starts[i + 1] - starts[i] for i in chosen)], dtype=np.int64)
    return lexical.Asked(starts, numbers, weights[numbers])


def _rank(parts: Sequence[lexical.Part], asked: lexical.Asked, k: int) -> list[Ranked]:
    """Return the best ``k`` rows for every query. Equal texts tie, for their sums are made in one order."""
    queries = len(asked.starts) - 1
    best = lexical.Best.of(queries, k)

    def work(start: int) -> None:
        stop = min(start + BLOCK, queries)
        for part in parts:
            lexical.search(part, asked, start, stop, best)
        lexical.finish(start, stop, best)

    share(range(0, queries, BLOCK), work)
    return [
        Ranked(rows[:filled], scores[:filled])
        for rows, scores, filled in zip(best.rows, best.scores, best.filled.tolist(), strict=True)
    ]
