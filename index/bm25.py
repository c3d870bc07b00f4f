"""BM25 over the postings of all segments, scored exactly.

Document frequencies and the mean length are those of the live documents at the time of the search. The postings are
`index.postings`, the analysis of text into terms `index.analysis`.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from data.errors import CollectionError, UsageError
from index import lexical
from index.parallel import share
from index.postings import Mask, Postings
from index.ranking import NOTHING, Ranked, Rows
from index.vectors import groups

Floats = NDArray[np.float32]

# Queries that a core takes at a time, and hits that are held at most: 20 bytes each.
BLOCK, HELD = 8, 1 << 21


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
        number_of = {term: i for i, term in enumerate(dict.fromkeys(chain.from_iterable(queries)))}
        numbers = np.array(list(map(number_of.__getitem__, chain.from_iterable(queries))), np.int64)
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
            allowed.setflags(write=False)  # as those of all rows: to Numba what may be written is of another type
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
