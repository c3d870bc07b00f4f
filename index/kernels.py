"""The inner loops of late-interaction search, compiled by Numba and kept in its cache.

All of them run on one thread and without the interpreter's lock. Threads share out queries when searching and vectors
when coding, so that no result depends on how many there are; every sum is made in one order. Nothing is allocated for a
passage.

The P tokens of a query are kept in blocks of eight, see `index.lanes`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index import lanes
from index.compiling import F32, I16, I32, I64, U8, U16, U32, compiled
from index.lanes import LANES, LEVELS, ONE, TOKENS, highest, nearest, prefetch, reaches
from index.packing import FIXED, Coded, unpack

# What 1 is as a product of two vectors of whole numbers.
SQUARE = ONE * ONE
# Less than any product.
LEAST = -(1 << 31)
# Rows whose reading is asked for ahead: to wait for memory took half the time of :func:`interact`.
AHEAD = 8
# Texts whose tokens are chosen, and asked for, before the first of them is compared: what they have in codes fits into
# the second-level cache.
GROUP = 32

NOWHERE = -1e30


class Tally(NamedTuple):
    """The memory of :func:`gather`.

    Attributes:
        gains: (n,) what each text found has gained.
        seen: (n,) of -1, and so it is left.
        found: (n,) the texts.
    """

    gains: F32
    seen: NDArray[np.int32]
    found: I64


@compiled
def assign(vectors: F32, top: F32, starts: I64, centers: F32, probes: int, cells: U32) -> None:
    """Find the cell of each vector: the nearest of the centers that belong to the nearest ``probes`` top centers.

    Args:
        vectors: (T, d).
        top: (G, d).
        starts: (G + 1,) which centers belong to each.
        centers: (C, d).
        probes: at least 1.
        cells: (T,) gets the position of a center for each vector.
    """
    dims = vectors.shape[1]
    near, score = np.empty(probes, np.int64), np.empty(probes, np.float32)
    for t in range(len(vectors)):
        x = vectors[t]
        found = 0
        for g in range(len(top)):
            s = np.float32(0)
            for k in range(dims):
                s += x[k] * top[g, k]
            found = _insert(score, near, found, probes, np.float32(s), g)
        best = np.float32(NOWHERE)
        for p in range(found):
            for c in range(starts[near[p]], starts[near[p] + 1]):
                s = np.float32(0)
                for k in range(dims):
                    s += x[k] * centers[c, k]
                if s > best:
                    best = s
                    cells[t] = c


@compiled
def _insert(scores: F32, names: I64, found: int, most: int, score: np.float32, name: int) -> int:
    """Keep the ``most`` greatest scores, greatest first, of equal ones the earlier; return how many there are."""
    if found == most and score <= scores[most - 1]:
        return found
    place = min(found, most - 1)
    while place > 0 and scores[place - 1] < score:
        scores[place], names[place] = scores[place - 1], names[place - 1]
        place -= 1
    scores[place], names[place] = score, name
    return min(found + 1, most)


@compiled
def rotate(vectors: F32, rotation: F32, query: I16) -> None:
    """Rotate a query's unit vectors (T, d) by (d, D) and put them, as whole numbers, into blocks (P / 8, D / 2, 16)."""
    rotated = np.empty(rotation.shape[1], np.float32)
    for t in range(len(vectors)):
        rotated[:] = 0
        for k in range(len(rotation)):
            for j in range(len(rotated)):
                rotated[j] += vectors[t, k] * rotation[k, j]
        for j in range(len(rotated)):
            whole = np.rint(min(max(rotated[j], np.float32(-1)), np.float32(1)) * np.float32(ONE))
            query[t // LANES, j // 2, t % LANES * 2 + j % 2] = np.int16(whole)


@compiled
def compare(query: I16, centers: I16, cells: int, levels: U8, scores: I32, names: I64) -> None:
    """Compare a query's tokens with all cells.

    Args:
        query: (P / 8, d / 2, 16).
        centers: (C', d), C' a multiple of four; 1 is :data:`index.lanes.ONE`.
        cells: C, how many of them are real.
        levels: (C', W) of zeros, W at least P and a multiple of 16, gets every similarity as a byte.
        scores: (P, m) gets the similarities of each token's nearest cells, nearest first, times :data:`SQUARE`; m <= C.
        names: (P, m) gets those cells.
    """
    products = np.empty((TOKENS, scores.shape[0]), np.int32)
    bars = np.full(scores.shape[0], LEAST, np.int32)
    scores[:] = LEAST
    most = scores.shape[1]
    for first in range(0, len(centers), TOKENS):
        if lanes.compare(query, centers, first, bars, products, levels):
            for n in range(min(TOKENS, cells - first)):
                for i in range(len(scores)):
                    if products[n, i] > bars[i]:
                        _insert(scores[i], names[i], min(first + n, most), most, products[n, i], first + n)
                        bars[i] = scores[i, most - 1]


@compiled
def gather(
    scores: I32, names: I64, tokens: int, coded: Coded, bonus: F32, allowed: NDArray[np.bool_], tally: Tally
) -> int:
    """Collect the allowed texts in the nearest cells of each query token, with what they gain over the unseen.

    A text that has no token in the nearest cells of a query token is taken to score there as the farthest of those
    cells, as XTR imputes it (Lee et al. 2023, "Rethinking the Role of Token Retrieval in Multi-Vector Retrieval").

    Args:
        scores: (P, m) as :func:`compare` gives them.
        names: (P, m) likewise.
        tokens: how many of the P are real.
        coded: the n texts.
        bonus: (L,) what a text in each language has on top.
        allowed: (n,) which texts may be found.
        tally: gets the texts, and the sum over query tokens of the best cell's score less the farthest cell's.

    Returns:
        how many there are.
    """
    count = 0
    most = scores.shape[1]
    for i in range(tokens):
        floor = scores[i, most - 1]
        for p in range(most):
            gain, cell = np.float32(scores[i, p] - floor) / np.float32(SQUARE), names[i, p]
            for at in range(coded.starts[cell], coded.starts[cell + 1]):
                text = coded.texts[at]
                last = tally.seen[text]
                if last == i or not allowed[text]:
                    continue  # a nearer cell has counted
                if last < 0:
                    tally.gains[text] = bonus[coded.languages[text]]
                    tally.found[count] = text
                    count += 1
                tally.seen[text] = i
                tally.gains[text] += gain
    for at in range(count):
        tally.seen[tally.found[at]] = -1
    return count


@compiled
def interact(levels: U8, bonus: F32, coded: Coded, rows: I64, out: F32) -> None:
    """Score rows by MaxSim over the cells of their tokens, as PLAID does (Santhanam et al. 2022).

    Args:
        levels: (C, W) as :func:`compare` gives them.
        bonus: (L,) what a text in each language has on top.
        coded: the texts.
        rows: (m,) texts.
        out: (m,) gets the scores.
    """
    best = np.empty(levels.shape[1], np.uint8)
    for r in range(len(rows)):
        if r + 2 * AHEAD < len(rows):
            prefetch(coded.offsets, rows[r + 2 * AHEAD])
        if r + AHEAD < len(rows):
            prefetch(coded.cells, coded.offsets[rows[r + AHEAD]])
        highest(levels, coded.cells, coded.offsets[rows[r]], coded.offsets[rows[r] + 1], best)
        total = 0
        for i in range(len(best)):
            total += best[i]
        out[r] = np.float32(total) / np.float32(LEVELS) + bonus[coded.languages[rows[r]]]


@compiled
def maxsim(query: I16, bias: F32, coded: Coded, neutral: bool, levels: U8, rows: I64, out: F32) -> None:
    """Score one query against rows by MaxSim.

    Args:
        query: (P / 8, d / 2, 16), rotated as the codes are.
        bias: (L, P) what every token of a text in a language adds, which is 0 where ``neutral`` is set.
        coded: the vectors.
        neutral: compare directions without the offset of their language, or the vectors as the encoder made them.
        levels: (C, W) as :func:`compare` gives them, to compare those tokens of a text alone whose cell is its nearest
            to some query token; or without rows, to compare all.
        rows: (m,) texts; what one without tokens scores means nothing.
        out: (m,) gets the scores.
    """
    tokens, scales = np.empty((TOKENS, 2 * query.shape[1]), np.int16), np.empty(TOKENS, np.float32)
    best, chosen = np.empty((len(query), LANES), np.float32), np.empty(0, np.int64)
    ends = np.zeros(GROUP + 1, np.int64)
    for begin in range(0, len(rows), GROUP):
        group = rows[begin : begin + GROUP]
        chosen = _choose(coded, levels, group, chosen, ends)
        for r in range(len(group)):
            best[:] = NOWHERE
            _meet(query, coded, neutral, chosen[ends[r] : ends[r + 1]], tokens, scales, best)
            score = np.float32(0)
            for b in range(len(query)):
                for lane in range(LANES):
                    score += best[b, lane] + bias[coded.languages[group[r]], b * LANES + lane]
            out[begin + r] = score


@compiled
def _choose(coded: Coded, levels: U8, rows: I64, chosen: I64, ends: I64) -> I64:
    """Choose the tokens of rows to be compared, and ask for their codes.

    Args:
        coded: the texts.
        levels: as in :func:`maxsim`.
        rows: (m,) texts.
        chosen: memory that may serve.
        ends: (m + 1 or more,) gets where the tokens of each row begin, and end, in

    Returns:
        the tokens, of which there may be more than count.
    """
    count = 0
    for r in range(len(rows)):
        count += coded.offsets[rows[r] + 1] - coded.offsets[rows[r]]
        prefetch(coded.cells, coded.offsets[rows[r]])
    if count > len(chosen):
        chosen = np.empty(count, np.int64)
    bars = np.empty(levels.shape[1], np.uint8)
    end = 0
    for r in range(len(rows)):
        begin, first, last = end, coded.offsets[rows[r]], coded.offsets[rows[r] + 1]
        if len(levels):
            highest(levels, coded.cells, first, last, bars)
            for i in range(len(bars)):  # never 0, or padding would let every token in
                bars[i] = max(bars[i], np.uint8(1))
        for t in range(first, last):
            chosen[end] = t
            end += not len(levels) or reaches(levels, coded.cells[t], bars)
        for at in range(begin, end):
            prefetch(coded.codes, chosen[at] * coded.codes.shape[1])
            prefetch(coded.widths, chosen[at])
        ends[r + 1] = end
    return chosen


@compiled
def _meet(query: I16, coded: Coded, neutral: bool, chosen: I64, tokens: I16, scales: F32, best: F32) -> None:
    """Keep the best of the chosen tokens' similarities for every query token."""
    unit = np.float32(1) / np.float32((FIXED << (coded.bits + 1)) * ONE) / np.float32(1 if neutral else FIXED)
    for at in range(0, len(chosen), TOKENS):
        for place in range(TOKENS):
            t = chosen[min(at + place, len(chosen) - 1)]  # the last stands as often as is needed
            unpack(coded.codes, t, coded.bits, tokens, place)
            scales[place] = unit * coded.widths[t] * (1 if neutral else coded.lengths[t])
        nearest(query, tokens, scales, best)


@compiled
def count_texts(cells: U16, offsets: I64, last: I64, counts: I64) -> None:
    """Count the texts of every cell, each once: ``counts`` (C,) of zeros, ``last`` (C,) of -1 for scratch."""
    for text in range(len(offsets) - 1):
        for t in range(offsets[text], offsets[text + 1]):
            if last[cells[t]] != text:
                last[cells[t]] = text
                counts[cells[t]] += 1


@compiled
def list_texts(cells: U16, offsets: I64, last: I64, ends: I64, texts: U32) -> None:
    """List the texts of every cell, ascending: ``ends`` (C,) holds where each cell begins, and then where it ends."""
    for text in range(len(offsets) - 1):
        for t in range(offsets[text], offsets[text + 1]):
            if last[cells[t]] != text:
                last[cells[t]] = text
                texts[ends[cells[t]]] = text
                ends[cells[t]] += 1
