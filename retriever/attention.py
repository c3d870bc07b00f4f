"""Attention in whole numbers of 16 bits: one head over one text, compiled by Numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from index.compiling import F32, I16, I32, I64, compiled
from retriever.lanes import MOST, ROWS, WEIGHT, WIDTH, multiply

# Rows of scores at a time, so that those of a long text stay in the second-level cache.
QUERIES = 64
# Floats whose bits, without the sign, are as great as these are infinite or no number.
INFINITE = 0x7F800000


class Memory(NamedTuple):
    """What attention needs for the longest text of a piece, with D dimensions a head and C tokens at most.

    Attributes:
        whole: (C, D) int16 rounded keys, or queries.
        units: (C,) what 1 of them is.
        keys: (C * D,) int16, in panels.
        values: (D * C,) int16, in panels.
        key_units: (C,).
        value_units: (D,).
        scores: (QUERIES * C,) float32.
        bits: (QUERIES * C,) int32.
        shares: (QUERIES * C,) int16.
        sums: (QUERIES, D) float32.
        mask: (C,) float32.
        nothing: (D,) zeros.
        powers: (S,) float32, for a row between two matrices.
        row_bits: (S,) int32, for the same.
    """

    whole: I16
    units: F32
    keys: I16
    values: I16
    key_units: F32
    value_units: F32
    scores: F32
    bits: I32
    shares: I16
    sums: F32
    mask: F32
    nothing: F32
    powers: F32
    row_bits: I32


@compiled
def memory(lengths: I64, size: int, between: int) -> Memory:
    """Return memory for texts of such lengths, ``size`` dimensions a head and ``between`` between two matrices.

    All that a thread needs is asked for before it begins with anything: were there none in the middle of a part, the
    others would wait for that part for ever.
    """
    longest = -(-lengths.max() // WIDTH) * WIDTH if len(lengths) else 0
    most, scores = max(longest, QUERIES), QUERIES * longest
    return Memory(
        np.zeros((most, size), np.int16),
        np.empty(most, np.float32),
        np.empty(longest * size, np.int16),
        np.empty(longest * size, np.int16),
        np.empty(longest, np.float32),
        np.empty(size, np.float32),
        np.empty(scores, np.float32),
        np.empty(scores, np.int32),
        np.empty(scores, np.int16),
        np.empty((QUERIES, size), np.float32),
        np.empty(longest, np.float32),
        np.zeros(size, np.float32),
        np.empty(between, np.float32),
        np.empty(between, np.int32),
    )


@compiled
def attend(asked: F32, column: int, memory: Memory, out: F32) -> None:
    """Let every token of one text gather with one head, whose part of ``out`` begins at ``column``."""
    length, size = len(asked), len(memory.nothing)
    count = -(-length // WIDTH) * WIDTH
    limit = np.float32(min(32767, int(np.sqrt(MOST / size))))
    keys = memory.keys[: count * size].reshape(count // WIDTH, size // 2, 2 * WIDTH)
    values = memory.values[: size * count].reshape(size // WIDTH, count // 2, 2 * WIDTH)
    scores, shares = memory.scores[: QUERIES * count].reshape(QUERIES, count), memory.shares[: QUERIES * count]
    key_units, mask, bits = memory.key_units[:count], memory.mask[:count], memory.bits[: QUERIES * count]
    shares = shares.reshape(QUERIES, count)
    mask[:length], mask[length:] = np.float32(0), np.float32(-1e30)
    key_units[length:] = np.float32(0)
    keys[length // WIDTH :], values[:, (length + 1) // 2 :] = np.int16(0), np.int16(0)
    _round_heads(asked, 3 * column + size, limit, memory.whole, key_units)
    _pack_keys(memory.whole[:length], keys)
    _pack_values(asked, 3 * column + 2 * size, memory.nothing, values, memory.value_units)
    for first in range(0, length, QUERIES):
        some = min(QUERIES, length - first)
        rows = -(-some // ROWS) * ROWS
        _round_heads(asked[first : first + some], 3 * column, limit, memory.whole, memory.units)
        for i in range(some):
            memory.units[i] /= np.float32(np.sqrt(size))
        products(memory.whole[:rows], memory.units, keys, key_units, mask, scores)
        share_out(scores[:rows], bits, shares, memory.units)
        products(shares[:rows], memory.units, values, memory.value_units, memory.nothing, memory.sums)
        for i in range(some):
            out[first + i, column : column + size] = memory.sums[i]


@compiled
def _round_heads(wide: F32, column: int, limit: np.float32, out: I16, units: F32) -> None:
    """Round what one head has of each token, from ``column`` on, to at most ``limit``; ``units`` gets what 1 is."""
    size = out.shape[1]
    bits, tops = wide.view(np.int32), units.view(np.int32)
    for t in range(len(wide)):
        row, own, whole, top = wide[t, column : column + size], bits[t, column : column + size], out[t], np.int32(0)
        for j in range(size):
            top = max(top, own[j] & np.int32(MOST))
        tops[t] = top
        units[t] = max(units[t], np.float32(1e-20))
        scale = limit / units[t]
        for j in range(size):
            whole[j] = np.int16(np.rint(row[j] * scale))
        units[t] /= limit


@compiled
def _pack_keys(keys: I16, panels: I16) -> None:
    """Put the keys of one head, (T, D), into panels, as if each were an output: in pairs of dimensions."""
    pairs, out = keys.view(np.int32), panels.view(np.int32)
    for t in range(len(pairs)):
        own, row, place = out[t // WIDTH], pairs[t], t % WIDTH
        for j in range(len(row)):
            own[j, place] = row[j]


@compiled
def _pack_values(wide: F32, column: int, nothing: F32, panels: I16, units: F32) -> None:
    """Round the values of one head and put them into panels, as if dimensions were outputs and each token an input.

    What ``nothing`` holds follows an odd number of tokens.
    """
    size, tops, bits = len(units), units.view(np.int32), wide.view(np.int32)
    units[:] = np.float32(1e-20)
    for t in range(len(wide)):
        row = bits[t, column : column + size]  # among floats, what is no number would be passed over
        for j in range(size):
            tops[j] = max(tops[j], row[j] & np.int32(MOST))
    for j in range(size):
        units[j] = np.float32(WEIGHT) / units[j]
    for t in range(0, len(wide), 2):
        one = wide[t, column : column + size]
        other = wide[t + 1, column : column + size] if t + 1 < len(wide) else nothing
        for panel in range(len(panels)):
            own, first = panels[panel, t // 2], panel * WIDTH
            for j in range(WIDTH):
                own[2 * j] = np.int16(np.rint(one[first + j] * units[first + j]))
                own[2 * j + 1] = np.int16(np.rint(other[first + j] * units[first + j]))
    for j in range(size):
        units[j] = np.float32(1) / units[j]


@compiled
def products(rows: I16, scales: F32, panels: I16, units: F32, bias: F32, out: F32) -> None:
    """Multiply rows (T, I), T a multiple of four, with all panels."""
    for panel in range(len(panels)):
        for t in range(0, len(rows), ROWS):
            multiply(rows, scales, t, panels, panel, units, bias, out)


@compiled
def share_out(scores: F32, bits: I32, out: I16, units: F32) -> None:
    """Put the softmax of each row of scores into whole numbers; ``units`` gets what 1 of a row is.

    The shares of a row add up to 1: with values of at most :data:`WEIGHT` they may add up to 2 ** 31 / 4,096.
    """
    count = scores.shape[1]
    ordered, tops = scores.view(np.int32), units.view(np.int32)
    for i in range(len(scores)):
        # The greatest is found in lanes, among whole numbers in their order: 2.7 us for 64 rows of 512, 16 for floats.
        own, greatest, largest, row = ordered[i], np.int32(-MOST), np.int32(0), scores[i]
        for j in range(count):
            greatest = max(greatest, own[j] ^ ((own[j] >> np.int32(31)) & np.int32(MOST)))
            largest = max(largest, own[j] & np.int32(MOST))
        tops[i] = greatest ^ ((greatest >> np.int32(31)) & np.int32(MOST))
        if largest >= INFINITE:  # so that vectors of a broken model are seen to be that
            tops[i] = INFINITE + 1
        top = units[i]
        for j in range(count):
            row[j] -= top
    exp(scores.reshape(len(scores) * count), bits)
    for i in range(len(scores)):
        row, whole, total, broken = scores[i], out[i], np.float32(0), tops[i] == INFINITE + 1
        for j in range(count):
            total += row[j]
        scale = min(np.float32(32767), np.float32(500_000) / total)  # the greatest is 1 here
        for j in range(count):
            whole[j] = np.int16(np.rint(row[j] * scale))
        units[i] = np.float32(1) / (scale * total)
        if broken:
            tops[i] = INFINITE + 1


@compiled
def exp(x: F32, bits: I32) -> None:
    """Replace numbers by e to the power of them, with an error of some 2e-7; ``bits`` is memory for as many or more."""
    powers = bits.view(np.float32)
    for j in range(len(x)):
        y = max(min(x[j] * np.float32(1.4426950408889634), np.float32(126)), np.float32(-126))
        near = np.rint(y)
        r = (y - near) * np.float32(0.6931471805599453)
        # The power series, for r is at most .35.
        p = np.float32(1 / 720)
        p = p * r + np.float32(1 / 120)
        p = p * r + np.float32(1 / 24)
        p = p * r + np.float32(1 / 6)
        p = p * r + np.float32(1 / 2)
        p = p * r + np.float32(1)
        x[j] = p * r + np.float32(1)
        bits[j] = (np.int32(near) + np.int32(127)) << np.int32(23)  # an exponent of a float
    for j in range(len(x)):
        x[j] *= powers[j]
