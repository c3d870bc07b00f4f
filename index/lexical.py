"""The inner loops of BM25 search, compiled by Numba: on one thread, in one order, without the interpreter's lock."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.compiling import F32, I64, U8, U32, compiled

# Rows whose scores are added up at a time, and that are looked through at a time.
BLOCK, LANES = 8192, 32


class Postings(NamedTuple):
    """One segment of n rows.

    Attributes:
        rows: (P,) of the segment.
        counts: (P,) how often the term occurs there.
        spans: (V, 2) where the postings of each term begin and end.
        norms: (n,) see `Bm25Parameters`.
        allowed: (n,) which rows may be found.
        order: (n,) of equal scores the row with the greatest is the best.
        first: the number that its first row has among the rows of all segments.
    """

    rows: U32
    counts: NDArray[np.unsignedinteger]
    spans: I64
    norms: F32
    allowed: NDArray[np.bool_]
    order: I64
    first: int


class Asked(NamedTuple):
    """Queries: where each begins (q + 1,), the terms of all, rows of the spans, and their weights."""

    starts: I64
    terms: I64
    weights: F32


class Best(NamedTuple):
    """The best k rows of every query: (q, k) heaps, and how many each holds."""

    scores: F32
    order: I64
    rows: I64
    filled: I64

    @classmethod
    def of(cls, queries: int, k: int) -> Best:
        """Return empty ones."""
        return cls(
            np.empty((queries, k), np.float32),
            np.empty((queries, k), np.int64),
            np.empty((queries, k), np.int64),
            np.zeros(queries, np.int64),
        )


@compiled
def find(blob: U8, offsets: I64, keys: U8, key_offsets: I64, found: I64) -> None:
    """Find strings among sorted ones by bisection.

    Args:
        blob: the sorted strings in UTF-8, one after another.
        offsets: (V + 1,) where each begins.
        keys: the strings wanted, likewise.
        key_offsets: (m + 1,) where each begins.
        found: (m,) gets their positions among the V, -1 for none.
    """
    for i in range(len(found)):
        first, size = key_offsets[i], key_offsets[i + 1] - key_offsets[i]
        low, high = 0, len(offsets) - 1
        found[i] = -1
        while low < high:
            middle = (low + high) // 2
            start, length = offsets[middle], offsets[middle + 1] - offsets[middle]
            at = 0
            while at < size and at < length and keys[first + at] == blob[start + at]:
                at += 1
            if at == size and at == length:
                found[i] = middle
                break
            if at == length or (at < size and blob[start + at] < keys[first + at]):
                low = middle + 1
            else:
                high = middle


@compiled
def count_live(rows: U32, starts: I64, ends: I64, live: NDArray[np.bool_], counts: I64) -> None:
    """Add to ``counts`` (m,) how many of the rows from ``starts`` to ``ends``, (m,) each, are live."""
    for i in range(len(counts)):
        for at in range(starts[i], ends[i]):
            counts[i] += live[rows[at]]


@compiled
def search(postings: Postings, asked: Asked, best: Best) -> None:
    """Score the rows of one segment for some queries and keep the best of them and of what has been found before.

    Some thousand rows at a time, so that their scores and norms stay in the first-level cache: with 61,485 documents a
    query took 350 to 450 microseconds with all rows at once, and takes 70 to 110.
    """
    scores = np.zeros(BLOCK, np.float32)
    longest = 0
    for q in range(len(asked.starts) - 1):
        longest = max(longest, asked.starts[q + 1] - asked.starts[q])
    at, end = np.empty(longest, np.int64), np.empty(longest, np.int64)
    for q in range(len(asked.starts) - 1):
        begin = asked.starts[q]
        terms = asked.starts[q + 1] - begin
        for i in range(terms):
            at[i], end[i] = postings.spans[asked.terms[begin + i]]
        for first in range(0, len(postings.norms), BLOCK):
            last = min(first + BLOCK, len(postings.norms))
            found = False
            for i in range(terms):
                weight, here, stop = asked.weights[begin + i], at[i], end[i]
                while here < stop and postings.rows[here] < last:
                    row = postings.rows[here]
                    count = np.float32(postings.counts[here])
                    scores[row - first] += weight * count / (count + postings.norms[row])
                    here += 1
                found = found or here > at[i]
                at[i] = here
            if found:
                _collect(scores, first, postings, best, q)


@compiled
def _collect(scores: F32, first: int, postings: Postings, best: Best, q: int) -> None:
    """Offer the rows from ``first`` whose scores are above 0, and set those back to 0."""
    size = best.scores.shape[1]
    for start in range(0, BLOCK, LANES):
        most = np.float32(0)
        for i in range(LANES):
            most = max(most, scores[start + i])
        if most > 0 and (best.filled[q] < size or most >= best.scores[q, 0]):
            for i in range(start, start + LANES):
                if scores[i] > 0 and postings.allowed[first + i]:
                    _offer(best, q, scores[i], postings.order[first + i], np.int64(postings.first + first + i))
    scores[:] = 0


@compiled
def finish(best: Best) -> None:
    """Bring the rows of every query into their order, best first."""
    for q in range(len(best.filled)):
        for last in range(best.filled[q] - 1, 0, -1):
            score, order, row = best.scores[q, last], best.order[q, last], best.rows[q, last]
            least = best.scores[q, 0], best.order[q, 0], best.rows[q, 0]
            _sink(best, q, last, score, order, row)
            best.scores[q, last], best.order[q, last], best.rows[q, last] = least


@compiled
def _offer(best: Best, q: int, score: np.float32, order: np.int64, row: np.int64) -> None:
    """Keep a row if it is among the best, in a heap whose first is the worst of them."""
    at, size = best.filled[q], best.scores.shape[1]
    if at == size:
        if best.scores[q, 0] < score or (best.scores[q, 0] == score and best.order[q, 0] < order):
            _sink(best, q, size, score, order, row)
        return
    best.filled[q] += 1
    while at > 0:
        above = (at - 1) // 2
        if best.scores[q, above] < score or (best.scores[q, above] == score and best.order[q, above] < order):
            break
        _move(best, q, above, at)
        at = above
    best.scores[q, at], best.order[q, at], best.rows[q, at] = score, order, row


@compiled
def _sink(best: Best, q: int, size: int, score: np.float32, order: np.int64, row: np.int64) -> None:
    """Put a row in the place of the first in a heap of ``size``."""
    at = 0
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and (
            best.scores[q, below + 1] < best.scores[q, below]
            or (best.scores[q, below + 1] == best.scores[q, below] and best.order[q, below + 1] < best.order[q, below])
        ):
            below += 1
        if score < best.scores[q, below] or (score == best.scores[q, below] and order < best.order[q, below]):
            break
        _move(best, q, below, at)
        at = below
    best.scores[q, at], best.order[q, at], best.rows[q, at] = score, order, row


@compiled
def _move(best: Best, q: int, source: int, target: int) -> None:
    """Copy one place of a heap to another."""
    best.scores[q, target] = best.scores[q, source]
    best.order[q, target] = best.order[q, source]
    best.rows[q, target] = best.rows[q, source]
