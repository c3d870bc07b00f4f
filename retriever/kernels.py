"""The layers of a BERT in whole numbers of 16 bits: the inner loops, compiled by Numba.

A processor multiplies twice as many numbers of 16 bits as floats in the same time, and its 32-bit sums are exact. Rows
of activations are rounded to 16 bits each with a scale of its own, weights to 13 bits with a scale for each output;
how great a row may be follows from the norms, so that by Cauchy and Schwarz no sum of products can exceed 32 bits. Both
errors are some .03 % of a row.

All texts of a piece stand one below the other, without padding. A piece is worked on by one thread through all layers,
so that no result depends on how many threads there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from index.compiling import F32, I16, I32, I64, compiled
from retriever.lanes import ROWS, WIDTH, multiply, multiply_crossed, sum_excess

# Rows of scores in attention at a time, so that those of a long text stay in the second-level cache.
QUERIES = 64
# The greatest weight, and the greatest number in a row: the two are added in 16 bits.
WEIGHT = 4095
GREATEST = 32767 - WEIGHT
MOST = (1 << 31) - 1


class Matrices(NamedTuple):
    """One matrix of each of L layers, O outputs and I inputs.

    Attributes:
        weights: (L, O / 16, I / 2, 32) a panel for 16 outputs; for two inputs those of each output.
        scales: (L, O) what 1 of them is.
        bias: (L, O).
        excess: (L, O) see :func:`multiply_crossed`.
        longest: (L,) the greatest norm that a row of activations may have, see :data:`MOST`.
    """

    weights: I16
    scales: F32
    bias: F32
    excess: I32
    longest: F32


class Layers(NamedTuple):
    """The layers of a BERT with H dimensions, and 4 H between.

    Attributes:
        asked: queries, keys and values, 3 H outputs.
        context: H outputs of what attention has gathered.
        inner: 4 H outputs.
        outer: H outputs.
        norms: (L, 4, H) weight and bias of the norm after attention, and of that at the end.
    """

    asked: Matrices
    context: Matrices
    inner: Matrices
    outer: Matrices
    norms: F32


@compiled
def forward(x: F32, lengths: I64, layers: Layers, heads: int, epsilon: float) -> None:
    """Bring the embedded tokens of some texts through all layers.

    Args:
        x: (T, H) the tokens of all texts, and up to three rows more, T a multiple of 4; in their place come the last
            hidden states.
        lengths: the tokens of each text.
        layers: the weights.
        heads: of attention; what each has of H is a multiple of 16.
        epsilon: of the norms.
    """
    tokens, dims = x.shape
    size = layers.inner.bias.shape[1]
    wide, narrow = np.empty((tokens, 3 * dims), np.float32), np.zeros((tokens, dims), np.float32)
    between = np.empty((tokens, size), np.float32)
    whole, wholes = np.empty((tokens, dims), np.int16), np.empty((tokens, size), np.int16)
    scales, excess = np.empty(tokens, np.float32), np.empty(tokens, np.int32)
    for n in range(len(layers.norms)):
        _round(x, layers.asked.longest[n], whole, scales, excess)
        _transform(whole, scales, excess, layers.asked, n, wide)
        _attend(wide, lengths, heads, narrow)
        _round(narrow, layers.context.longest[n], whole, scales, excess)
        _transform(whole, scales, excess, layers.context, n, narrow)
        add_and_norm(x, narrow, layers.norms[n, 0], layers.norms[n, 1], epsilon)
        _round(x, layers.inner.longest[n], whole, scales, excess)
        _transform(whole, scales, excess, layers.inner, n, between)
        for t in range(tokens):
            gelu(between[t])
        _round(between, layers.outer.longest[n], wholes, scales, excess)
        _transform(wholes, scales, excess, layers.outer, n, narrow)
        add_and_norm(x, narrow, layers.norms[n, 2], layers.norms[n, 3], epsilon)


@compiled
def _round(x: F32, longest: np.float32, out: I16, scales: F32, excess: I32) -> None:
    """Round rows to 16 bits, as finely as :data:`GREATEST` and a norm of ``longest`` allow.

    ``scales`` gets what 1 is, and ``excess`` what :func:`multiply_crossed` has to know.
    """
    # Without their sign the bits of floats are in the order of the floats, and of whole numbers the largest is found in
    # lanes, in .28 us among 1,536 where floats take .49.
    bits, tops = x.view(np.int32), scales.view(np.int32)
    for t in range(len(x)):
        row, own, whole, top, square = x[t], bits[t], out[t], np.int32(0), np.float32(1e-30)
        for j in range(len(own)):
            top = max(top, own[j] & np.int32(MOST))
        tops[t] = top
        for j in range(len(row)):
            square += row[j] * row[j]
        scale = min(np.float32(GREATEST) / max(scales[t], np.float32(1e-20)), longest / np.sqrt(square))
        for j in range(len(row)):
            whole[j] = np.int16(np.rint(row[j] * scale))
        scales[t] = np.float32(1) / scale
        excess[t] = sum_excess(out, t)


@compiled
def _transform(rows: I16, scales: F32, row_excess: I32, matrices: Matrices, n: int, out: F32) -> None:
    """Multiply rows (T, I), T a multiple of four, with the matrix of layer ``n`` and add its bias."""
    panels, units, bias, excess = matrices.weights[n], matrices.scales[n], matrices.bias[n], matrices.excess[n]
    for panel in range(len(panels)):
        for t in range(0, len(rows), ROWS):
            multiply_crossed(rows, scales, row_excess, t, panels, panel, units, bias, excess, out)


@compiled
def _products(rows: I16, scales: F32, panels: I16, units: F32, bias: F32, out: F32) -> None:
    """Multiply rows (T, I), T a multiple of four, with all panels."""
    for panel in range(len(panels)):
        for t in range(0, len(rows), ROWS):
            multiply(rows, scales, t, panels, panel, units, bias, out)


@compiled
def _attend(wide: F32, lengths: I64, heads: int, out: F32) -> None:
    """Let every token gather from the tokens of its text: ``wide`` (T, 3 H) has queries, keys and values."""
    dims = out.shape[1]
    size = dims // heads
    limit = np.float32(min(32767, int(np.sqrt(MOST / size))))
    most = -(-lengths.max() // WIDTH) * WIDTH if len(lengths) else 0
    whole, units = np.zeros((max(most, QUERIES), size), np.int16), np.empty(max(most, QUERIES), np.float32)
    sums, nothing = np.empty((QUERIES, size), np.float32), np.zeros(size, np.float32)
    end = 0
    for length in lengths:
        begin, end = end, end + length
        count = -(-length // WIDTH) * WIDTH
        keys, key_units = np.zeros((count // WIDTH, size // 2, 2 * WIDTH), np.int16), np.zeros(count, np.float32)
        values, value_units = np.zeros((size // WIDTH, count // 2, 2 * WIDTH), np.int16), np.empty(size, np.float32)
        scores, shares = np.empty((QUERIES, count), np.float32), np.empty((QUERIES, count), np.int16)
        bits, mask = np.empty(QUERIES * count, np.int32), np.zeros(count, np.float32)
        mask[length:] = np.float32(-1e30)
        for column in range(0, dims, size):
            _round_heads(wide[begin:end], dims + column, limit, whole, key_units)
            _pack_keys(whole[:length], keys)
            _pack_values(wide[begin:end], 2 * dims + column, nothing, values, value_units)
            for first in range(begin, end, QUERIES):
                some = min(QUERIES, end - first)
                rows = -(-some // ROWS) * ROWS
                _round_heads(wide[first : first + some], column, limit, whole, units)
                for i in range(some):
                    units[i] /= np.float32(np.sqrt(size))
                _products(whole[:rows], units, keys, key_units, mask, scores)
                _share_out(scores[:rows], bits, shares, units)
                _products(shares[:rows], units, values, value_units, nothing, sums)
                for i in range(some):
                    out[first + i, column : column + size] = sums[i]


@compiled
def _round_heads(wide: F32, column: int, limit: np.float32, out: I16, units: F32) -> None:
    """Round what one head has of each token, from ``column`` on, to at most ``limit``; ``units`` gets what 1 is."""
    size = out.shape[1]
    for t in range(len(wide)):
        row, whole, top = wide[t, column : column + size], out[t], np.float32(1e-20)
        for j in range(size):
            top = max(top, abs(row[j]))
        scale = limit / top
        for j in range(size):
            whole[j] = np.int16(np.rint(row[j] * scale))
        units[t] = top / limit


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
    size = len(units)
    units[:] = np.float32(1e-20)
    for t in range(len(wide)):
        row = wide[t, column : column + size]
        for j in range(size):
            units[j] = max(units[j], abs(row[j]))
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
def _share_out(scores: F32, bits: I32, out: I16, units: F32) -> None:
    """Put the softmax of each row of scores into whole numbers; ``units`` gets what 1 of a row is.

    The shares of a row add up to 1: with values of at most :data:`WEIGHT` they may add up to 2 ** 31 / 4,096.
    """
    count = scores.shape[1]
    for i in range(len(scores)):
        row, top = scores[i], np.float32(-1e30)
        for j in range(count):
            top = max(top, row[j])
        for j in range(count):
            row[j] -= top
    exp(scores.reshape(len(scores) * count), bits)
    for i in range(len(scores)):
        row, whole, total = scores[i], out[i], np.float32(0)
        for j in range(count):
            total += row[j]
        scale = min(np.float32(32767), np.float32(500_000) / total)  # the greatest is 1 here
        for j in range(count):
            whole[j] = np.int16(np.rint(row[j] * scale))
        units[i] = np.float32(1) / (scale * total)


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


@compiled
def gelu(x: F32) -> None:
    """Replace numbers by the Gaussian error linear unit of them: x times the normal distribution up to x.

    The error function is 7.1.26 in Abramowitz and Stegun (1964), with an error of 1.5e-7.
    """
    bits, powers = np.empty(len(x), np.int32), np.empty(len(x), np.float32)
    for j in range(len(x)):
        powers[j] = np.float32(-0.5) * x[j] * x[j]
    exp(powers, bits)
    for j in range(len(x)):
        size = abs(x[j]) * np.float32(0.7071067811865476)
        t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * size)
        p = np.float32(1.061405429)
        p = p * t - np.float32(1.453152027)
        p = p * t + np.float32(1.421413741)
        p = p * t - np.float32(0.284496736)
        p = p * t + np.float32(0.254829592)
        far = np.float32(0.5) * p * t * powers[j]  # of the distribution, beyond |x|
        x[j] = x[j] * (np.float32(1) - far if x[j] > 0 else far)


@compiled
def add_and_norm(x: F32, added: F32, weight: F32, bias: F32, epsilon: float) -> None:
    """Add to rows, and give each mean 0 and variance 1, then a weight and a bias for each dimension."""
    dims = x.shape[1]
    for t in range(len(x)):
        row, other = x[t], added[t]
        total = np.float32(0)
        for j in range(dims):
            row[j] += other[j]
            total += row[j]
        mean, square = total / np.float32(dims), np.float32(0)
        for j in range(dims):
            row[j] -= mean
            square += row[j] * row[j]
        scale = np.float32(1) / np.float32(np.sqrt(square / np.float32(dims) + np.float32(epsilon)))
        for j in range(dims):
            row[j] = row[j] * scale * weight[j] + bias[j]
