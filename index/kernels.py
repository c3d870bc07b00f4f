"""The inner loops of late-interaction search, compiled by Numba and kept in its cache.

All of them run on one thread and without the interpreter's lock. Threads share out queries when searching and vectors
when coding, so that no result depends on how many there are; every sum is made in one order. Nothing is allocated for a
passage.

Vectors are compared two by four, the most that AVX2's sixteen registers hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.compiling import F32, I64, U8, U16, U32, compiled
from index.packing import FIXED, Coded, unpack

# The tokens of a query are padded with zeros to a multiple of this.
LANES = 4
# Similarities to cells are kept as bytes: all below 0 are 0, and 1 is this.
LEVELS = 255

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
def _tile(queries: F32, i: int, x: F32, y: F32) -> tuple[np.float32, ...]:
    """Return what two vectors have in common with the :data:`LANES` query tokens from ``i``: those of x, those of y."""
    q0, q1, q2, q3 = queries[i], queries[i + 1], queries[i + 2], queries[i + 3]
    s0 = s1 = s2 = s3 = r0 = r1 = r2 = r3 = np.float32(0)
    for k in range(len(x)):
        v, w = x[k], y[k]
        s0 += q0[k] * v
        s1 += q1[k] * v
        s2 += q2[k] * v
        s3 += q3[k] * v
        r0 += q0[k] * w
        r1 += q1[k] * w
        r2 += q2[k] * w
        r3 += q3[k] * w
    return s0, s1, s2, s3, r0, r1, r2, r3


@compiled
def compare(queries: F32, centers: F32, levels: U8, scores: F32, names: I64) -> None:
    """Compare a query's tokens with all cells.

    Args:
        queries: (P, d).
        centers: (C, d).
        levels: (C, W) of zeros, W at least P, gets every similarity as a byte. :func:`interact` is four times as
            fast where W is a multiple of 16, the lanes of a vector instruction.
        scores: (P, m) gets the similarities of each token's nearest cells, nearest first; m <= C.
        names: (P, m) gets those cells.
    """
    tokens = len(queries)
    most, count = scores.shape[1], len(centers)
    for c in range(0, count, 2):
        x, y = centers[c], centers[min(c + 1, count - 1)]
        for i in range(0, tokens, LANES):
            s0, s1, s2, s3, r0, r1, r2, r3 = _tile(queries, i, x, y)
            for lane, s in enumerate((s0, s1, s2, s3)):
                levels[c, i + lane] = np.uint8(min(max(s, np.float32(0)), np.float32(1)) * np.float32(LEVELS))
                if c < most or s > scores[i + lane, most - 1]:
                    _insert(scores[i + lane], names[i + lane], min(c, most), most, np.float32(s), c)
            if c + 1 < count:
                for lane, s in enumerate((r0, r1, r2, r3)):
                    levels[c + 1, i + lane] = np.uint8(min(max(s, np.float32(0)), np.float32(1)) * np.float32(LEVELS))
                    if c + 1 < most or s > scores[i + lane, most - 1]:
                        _insert(scores[i + lane], names[i + lane], min(c + 1, most), most, np.float32(s), c + 1)


@compiled
def gather(
    scores: F32, names: I64, tokens: int, coded: Coded, bonus: F32, allowed: NDArray[np.bool_], tally: Tally
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
            gain, cell = scores[i, p] - floor, names[i, p]
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
        _nearest(levels, coded.cells, coded.offsets[rows[r]], coded.offsets[rows[r] + 1], best)
        total = 0
        for i in range(len(best)):
            total += best[i]
        out[r] = np.float32(total) / np.float32(LEVELS) + bonus[coded.languages[rows[r]]]


@compiled
def _meet(queries: F32, x: F32, y: F32, a: np.float32, b: np.float32, best: F32) -> None:
    """Compare two vectors, times ``a`` and ``b``, with a query's tokens, and keep the best for each."""
    for i in range(0, len(queries), LANES):
        s0, s1, s2, s3, r0, r1, r2, r3 = _tile(queries, i, x, y)
        best[i] = max(best[i], max(s0 * a, r0 * b))
        best[i + 1] = max(best[i + 1], max(s1 * a, r1 * b))
        best[i + 2] = max(best[i + 2], max(s2 * a, r2 * b))
        best[i + 3] = max(best[i + 3], max(s3 * a, r3 * b))


@compiled
def _scale(coded: Coded, t: int, neutral: bool) -> np.float32:
    """Return what the numbers of a code are multiplied with."""
    step = np.float32(np.float32(coded.widths[t]) / np.float32(FIXED << coded.bits))
    return step if neutral else np.float32(step * np.float32(coded.lengths[t]) / np.float32(FIXED))


@compiled
def maxsim(queries: F32, bias: F32, coded: Coded, neutral: bool, rows: I64, out: F32) -> None:
    """Score one query against rows by MaxSim.

    Args:
        queries: (P, d), rotated as the codes are.
        bias: (L, P) what every token of a text in a language adds, which is 0 where ``neutral`` is set.
        coded: the vectors.
        neutral: compare directions without the offset of their language, or the vectors as the encoder made them.
        rows: (m,) texts; what one without tokens scores means nothing.
        out: (m,) gets the scores.
    """
    x, y = np.empty(queries.shape[1], np.float32), np.empty(queries.shape[1], np.float32)
    best = np.empty(len(queries), np.float32)
    for r in range(len(rows)):
        best[:] = NOWHERE
        last = coded.offsets[rows[r] + 1]
        for t in range(coded.offsets[rows[r]], last, 2):
            u = min(t + 1, last - 1)  # of an odd number the last stands twice
            unpack(coded.codes[t], coded.bits, x)
            unpack(coded.codes[u], coded.bits, y)
            _meet(queries, x, y, _scale(coded, t, neutral), _scale(coded, u, neutral), best)
        score = np.float32(0)
        for i in range(len(queries)):
            score += best[i] + bias[coded.languages[rows[r]], i]
        out[r] = score


@compiled
def maxsim_near(queries: F32, bias: F32, coded: Coded, neutral: bool, levels: U8, rows: I64, out: F32) -> None:
    """Score as :func:`maxsim` does, over those tokens of a text alone whose cell is its nearest to some query token.

    Args:
        queries: as in :func:`maxsim`; ``bias``, ``coded``, ``neutral``, ``rows`` and ``out`` too.
        bias: see there.
        coded: see there.
        neutral: see there.
        levels: (C, W) as :func:`compare` gives them.
        rows: see there.
        out: see there.
    """
    x, y = np.empty(queries.shape[1], np.float32), np.empty(queries.shape[1], np.float32)
    best, bar = np.empty(len(queries), np.float32), np.empty(levels.shape[1], np.uint8)
    for r in range(len(rows)):
        best[:] = NOWHERE
        first, last = coded.offsets[rows[r]], coded.offsets[rows[r] + 1]
        _nearest(levels, coded.cells, first, last, bar)
        for i in range(len(bar)):  # never 0, or padding would let every token in
            bar[i] = max(bar[i], np.uint8(1))
        waiting = -1
        for t in range(first, last):
            if not _reaches(levels[coded.cells[t]], bar):
                continue
            if waiting < 0:
                waiting = t
                continue
            unpack(coded.codes[waiting], coded.bits, x)
            unpack(coded.codes[t], coded.bits, y)
            _meet(queries, x, y, _scale(coded, waiting, neutral), _scale(coded, t, neutral), best)
            waiting = -1
        if waiting >= 0:
            unpack(coded.codes[waiting], coded.bits, x)
            _meet(queries, x, x, _scale(coded, waiting, neutral), _scale(coded, waiting, neutral), best)
        score = np.float32(0)
        for i in range(len(queries)):
            score += max(best[i], np.float32(-1)) + bias[coded.languages[rows[r]], i]
        out[r] = score


@compiled
def _nearest(levels: U8, cells: U16, first: int, last: int, best: U8) -> None:
    """Keep the level of the nearest cell for each query token, over the tokens from ``first`` to ``last``."""
    for i in range(len(best)):
        best[i] = 0
    for t in range(first, last):
        row = levels[cells[t]]
        for i in range(len(best)):
            best[i] = max(best[i], row[i])


@compiled
def _reaches(row: U8, bar: U8) -> bool:
    """Return whether any level is as high as its bar."""
    near = np.uint8(0)
    for i in range(len(bar)):
        near |= np.uint8(row[i] >= bar[i])
    return bool(near > 0)


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
