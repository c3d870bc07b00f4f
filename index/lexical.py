"""The inner loops of BM25 search, compiled by Numba: on one thread, in one order, without the interpreter's lock."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.compiling import F32, I64, U8, U32, compiled

# The score of a row that no posting has reached.
UNTOUCHED = np.float32(-1e30)


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
def accumulate(
    rows: U32, counts: NDArray[np.unsignedinteger], spans: I64, weights: F32, norms: F32, scores: F32, touched: U32
) -> int:
    """Add what the terms of a query give to the rows of one segment.

    Args:
        rows: (P,) the segment's postings.
        counts: (P,) likewise.
        spans: (m, 2) where each term's postings begin and end.
        weights: (m,) of the terms.
        norms: (n,) of the rows, see `Bm25Parameters`.
        scores: (n,) of :data:`UNTOUCHED`, gets the scores.
        touched: (n,) gets the rows that have one.

    Returns:
        how many those are.
    """
    many = 0
    for i in range(len(weights)):
        weight = weights[i]
        for at in range(spans[i, 0], spans[i, 1]):
            row = rows[at]
            count = np.float32(counts[at])
            gain = weight * count / (count + norms[row])
            if scores[row] == UNTOUCHED:
                touched[many] = row
                many += 1
                scores[row] = gain
            else:
                scores[row] += gain
    return many


@compiled
def select(scores: F32, touched: U32, allowed: NDArray[np.bool_], heap: F32, kept_rows: I64, kept_scores: F32) -> int:
    """Keep the allowed rows whose scores are above 0 and not below the k-th best, and forget all scores.

    Args:
        scores: (n,) see :func:`accumulate`.
        touched: (m,) likewise.
        allowed: (n,) which rows may be kept.
        heap: (k,) for scratch.
        kept_rows: (m,) gets the rows.
        kept_scores: (m,) gets their scores.

    Returns:
        how many there are: k, more where some tie with the k-th, fewer where there are no more.
    """
    k, filled = len(heap), 0
    for i in range(len(touched)):
        score = scores[touched[i]]
        if score <= 0 or not allowed[touched[i]]:
            continue
        if filled < k:
            filled += 1
            _rise(heap, filled - 1, score)
        elif score > heap[0]:
            _sink(heap, score)
    bar = heap[0] if filled == k else np.float32(0)
    many = 0
    for i in range(len(touched)):
        row = touched[i]
        if scores[row] > 0 and scores[row] >= bar and allowed[row]:
            kept_rows[many], kept_scores[many] = row, scores[row]
            many += 1
        scores[row] = UNTOUCHED
    return many


@compiled
def _rise(heap: F32, at: int, score: np.float32) -> None:
    """Put a score into a heap, least first, whose last place ``at`` is free."""
    while at > 0 and heap[(at - 1) // 2] > score:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = score


@compiled
def _sink(heap: F32, score: np.float32) -> None:
    """Put a score in the place of the least."""
    at, size = 0, len(heap)
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= score:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = score
