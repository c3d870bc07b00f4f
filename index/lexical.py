"""The inner loops of BM25 search, compiled by Numba: on one thread, in one order, without the interpreter's lock."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.compiling import F32, I64, U8, U32, compiled, compiled_exactly

# Rows whose scores are added up at a time, and that are looked through at a time.
BLOCK, LANES = 8192, 32


Counts = NDArray[np.unsignedinteger]


class Part(NamedTuple):
    """One segment of n rows.

    Attributes:
        rows: (P,) of the segment.
        counts: (P,) how often the term occurs there.
        spans: (V, 3) where the postings of each term begin and end, and its row of the table, -1 for none.
        table: (m, n) how often each of the most frequent terms occurs in every row.
        norms: (n,) see `Bm25Parameters`.
        allowed: (n,) which rows may be found.
        order: (n,) of equal scores the row with the greatest is the best.
        first: the number that its first row has among the rows of all segments.
    """

    rows: U32
    counts: Counts
    spans: I64
    table: U8
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
def find(blob: U8, offsets: I64, order: U32, keys: U8, key_offsets: I64, found: I64) -> None:
    """Find strings by bisection.

    Args:
        blob: the strings in UTF-8, one after another.
        offsets: (V + 1,) where each begins.
        order: (V,) their positions in the order of their bytes, or (0,) where they stand in it.
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
            place = np.int64(order[middle]) if len(order) else middle
            start, length = offsets[place], offsets[place + 1] - offsets[place]
            at = _common(blob, start, length, keys, first, size)
            if at == size and at == length:
                found[i] = place
                break
            if at == length or (at < size and blob[start + at] < keys[first + at]):
                low = middle + 1
            else:
                high = middle


@compiled
def merge(blob: U8, offsets: I64, a: I64, b: I64, out: I64) -> None:
    """Merge two runs of strings, each in the order of their bytes; of equal ones those of ``a`` go first.

    Args:
        blob: the strings in UTF-8, one after another.
        offsets: (n + 1,) where each begins.
        a: positions of some of them.
        b: positions of others.
        out: (len(a) + len(b),) gets all.
    """
    i = j = 0
    while i < len(a) and j < len(b):
        left, right = offsets[a[i]], offsets[b[j]]
        size, other = offsets[a[i] + 1] - left, offsets[b[j] + 1] - right
        at = _common(blob, left, size, blob, right, other)
        if at == size or (at < other and blob[left + at] < blob[right + at]):
            out[i + j] = a[i]
            i += 1
        else:
            out[i + j] = b[j]
            j += 1
    out[i + j : i + len(b)] = b[j:]
    out[i + len(b) :] = a[i:]


@compiled
def _common(a: U8, left: int, size: int, b: U8, right: int, other: int) -> int:
    """Return how many bytes two strings have in common at their beginnings."""
    at = 0
    while at < size and at < other and a[left + at] == b[right + at]:
        at += 1
    return at


@compiled
def count_live(rows: U32, starts: I64, ends: I64, live: NDArray[np.bool_], counts: I64) -> None:
    """Add to ``counts`` (m,) how many of the rows from ``starts`` to ``ends``, (m,) each, are live."""
    for i in range(len(counts)):
        for at in range(starts[i], ends[i]):
            counts[i] += live[rows[at]]


@compiled
def search(part: Part, asked: Asked, start: int, stop: int, best: Best) -> None:
    """Score the rows of one segment for some queries and keep the best of them and of what has been found before.

    Some thousand rows at a time, so that their scores and norms stay in the first-level cache: with 61,485 documents a
    query took 350 to 450 microseconds with all rows at once.

    Args:
        part: the segment.
        asked: the queries.
        start: the first of them to work on.
        stop: where to stop.
        best: gets the rows of these.
    """
    scores = np.zeros(BLOCK, np.float32)
    longest = 0
    for q in range(start, stop):
        longest = max(longest, asked.starts[q + 1] - asked.starts[q])
    at, end, place = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.int64)
    for q in range(start, stop):
        begin = asked.starts[q]
        terms = asked.starts[q + 1] - begin
        for i in range(terms):
            at[i], end[i], place[i] = part.spans[asked.terms[begin + i]]
        for first in range(0, len(part.norms), BLOCK):
            last = min(first + BLOCK, len(part.norms))
            found = False
            for i in range(terms):
                if place[i] >= 0:
                    _add_all(asked.weights[begin + i], part.table[place[i], first:last], part.norms[first:last], scores)
                    found = True
                    continue
                beyond = _seek(part.rows, at[i], end[i], last)
                here = slice(at[i], beyond)
                _add(
                    asked.weights[begin + i], part.rows[here], part.counts[here], first, part.norms[first:last], scores
                )
                found = found or beyond > at[i]
                at[i] = beyond
            if found:
                _collect(scores[: -(-(last - first) // LANES) * LANES], first, part, best, q)


@compiled
def _seek(rows: U32, at: int, end: int, row: int) -> int:
    """Return the first position from ``at`` to ``end`` with at least this row, found by doubling steps."""
    step = 64
    while at + step < end and rows[at + step] < row:
        at += step
        step *= 2
    last = min(at + step, end)
    while at < last:
        middle = (at + last) // 2
        if rows[middle] < row:
            at = middle + 1
        else:
            last = middle
    return at


@compiled_exactly
def _add(weight: np.float32, rows: U32, counts: Counts, first: int, norms: F32, scores: F32) -> None:
    """Add to the scores of the rows from ``first`` what a term has there.

    Positions without a sign: Numba looks whether others count from the end, which takes as long as all the rest.
    """
    for i in range(len(rows)):
        place = np.uint32(rows[i] - np.uint32(first))
        count = np.float32(counts[i])
        scores[place] += weight * count / (count + norms[place])


@compiled_exactly
def _add_all(weight: np.float32, counts: U8, norms: F32, scores: F32) -> None:
    """Add to all scores what a term has there, number for number as :func:`_add` does, eight at a time."""
    for i in range(len(counts)):
        count = np.float32(counts[i])
        scores[i] += weight * count / (count + norms[i])


@compiled
def _collect(scores: F32, first: int, part: Part, best: Best, q: int) -> None:
    """Offer the rows from ``first`` whose scores are above 0, and set all back to 0; scores are whole lanes."""
    size, full = best.scores.shape[1], best.filled[q] == best.scores.shape[1]
    bar = best.scores[q, 0] if full else np.float32(0)
    if not full:
        for i in range(min(len(scores), len(part.allowed) - first)):
            scores[i] = scores[i] if part.allowed[first + i] else np.float32(0)
    tops = np.empty(len(scores) // LANES, np.float32)
    for at in range(len(tops)):
        some, most = scores[at * LANES : (at + 1) * LANES], np.float32(0)
        for i in range(LANES):
            most = max(most, some[np.uint32(i)])
        tops[at] = most
    if not full and size < len(tops):  # so many rows at least reach the k-th of these
        bar = np.partition(tops, len(tops) - size)[len(tops) - size]
    for at in range(len(tops)):
        if tops[at] > 0 and tops[at] >= bar:
            for i in range(LANES):
                place = at * LANES + i
                if scores[place] > 0 and scores[place] >= bar and part.allowed[first + place]:
                    row = first + place
                    _offer(best, q, scores[place], part.order[row], np.int64(part.first + row))
                    if best.filled[q] == size:
                        bar = max(bar, best.scores[q, 0])
    scores[:] = 0


@compiled
def finish(start: int, stop: int, best: Best) -> None:
    """Bring the rows of some queries into their order, best first."""
    for q in range(start, stop):
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
