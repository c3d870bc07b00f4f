"""The layers of a BERT in whole numbers of 16 bits: the inner loops, compiled by Numba.

A processor multiplies twice as many numbers of 16 bits as floats in the same time, and its 32-bit sums are exact. Rows
of activations are rounded to 16 bits each with a scale of its own, weights to 13 bits with a scale for each output;
how great a row may be follows from the norms, so that by Cauchy and Schwarz no sum of products can exceed 32 bits. Both
errors are some .03 % of a row.

All texts of a piece stand one below the other, without padding. A piece goes through all layers on one core, or on all
that have nothing else to do; no result depends on how many there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from index.compiling import F32, I16, I32, I64, compiled
from retriever.attention import Memory, attend, exp, memory
from retriever.lanes import GREATEST, MOST, ROWS, WIDTH, count, multiply_crossed, sum_excess, wait

# The stages of a layer, in their order: rows are rounded between the products of matrices.
BEGIN, ASK, ROUND, GATHER, ADD, WIDEN, BEND, NARROW, END = range(9)
STAGES = 9
# Panels that a thread takes at a time.
PANELS = 6


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
        asked: 3 H outputs, for each head its queries, keys and values.
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


class Piece(NamedTuple):
    """Some texts, one below the other, T tokens with up to three rows more so that T is a multiple of 4.

    Attributes:
        x: (T, H) the embedded tokens; in their place come the last hidden states.
        lengths: the tokens of each text.
        asked: (T, 3 H) for each head its queries, keys and values.
        narrow: (T, H) what attention has gathered, and what is added to the tokens.
        between: (T, 4 H).
        whole: (T, H) int16, rounded rows.
        wholes: (T, 4 H) int16.
        scales: (T,) what 1 of a rounded row is.
        excess: (T,) see :func:`multiply_crossed`.
        progress: (9 L, 2) zeros: of each stage, the parts that were begun and those that are done.
    """

    x: F32
    lengths: I64
    asked: F32
    narrow: F32
    between: F32
    whole: I16
    wholes: I16
    scales: F32
    excess: I32
    progress: I64


def piece(x: F32, lengths: I64, layers: Layers) -> Piece:
    """Return the piece of some tokens, (T, H), in memory of its own."""
    tokens, dims, size = -(-len(x) // ROWS) * ROWS, x.shape[1], layers.inner.bias.shape[1]
    padded, narrow = np.zeros((tokens, dims), np.float32), np.zeros((tokens, dims), np.float32)
    padded[: len(x)] = x
    return Piece(
        padded,
        lengths,
        np.empty((tokens, 3 * dims), np.float32),
        narrow,
        np.empty((tokens, size), np.float32),
        np.empty((tokens, dims), np.int16),
        np.empty((tokens, size), np.int16),
        np.empty(tokens, np.float32),
        np.empty(tokens, np.int32),
        np.zeros((STAGES * len(layers.norms), 2), np.int64),
    )


@compiled
def forward(piece: Piece, layers: Layers, heads: int, epsilon: float) -> None:
    """Bring a piece through all layers, together with every other thread that calls this with the same piece.

    A layer has :data:`STAGES`, each in parts that any thread may take. Nobody goes on to the next stage before this one
    is done, and who has no part reads nothing; so a thread that comes late, or never, keeps nobody waiting, and what is
    computed does not depend on how many there are.

    Args:
        piece: the tokens.
        layers: the weights.
        heads: of attention; what each has of H is a multiple of 16.
        epsilon: of the norms.
    """
    needed = memory(piece.lengths, piece.x.shape[1] // heads, piece.between.shape[1])
    rows, dims, size = len(piece.x) // ROWS, piece.x.shape[1], piece.between.shape[1]
    parts = (rows, heads, rows, _groups(dims), rows, _groups(size), rows, _groups(dims), rows)
    for stage in range(len(piece.progress)):
        n, kind = divmod(stage, STAGES)
        part = count(piece.progress, stage, 0)
        while part < parts[kind]:
            if kind == ASK:
                _ask(piece, layers.asked, n, part, heads, needed)
            elif kind == GATHER:
                _transform(piece, piece.whole, layers.context, n, part, PANELS, piece.narrow)
            elif kind == WIDEN:
                _transform(piece, piece.whole, layers.inner, n, part, PANELS, piece.between)
            elif kind == NARROW:
                _transform(piece, piece.wholes, layers.outer, n, part, PANELS, piece.narrow)
            else:
                _work_on_rows(piece, layers, n, kind, slice(part * ROWS, (part + 1) * ROWS), epsilon, needed)
            count(piece.progress, stage, 1)
            part = count(piece.progress, stage, 0)
        wait(piece.progress, stage, parts[kind])


@compiled
def _groups(outputs: int) -> int:
    """Return how many parts the outputs of a matrix are worked on in."""
    return -(-outputs // (WIDTH * PANELS))


@compiled
def _work_on_rows(piece: Piece, layers: Layers, n: int, kind: int, rows: slice, epsilon: float, needed: Memory) -> None:
    """Do what comes between the products of matrices, for four rows."""
    x, narrow, between = piece.x[rows], piece.narrow[rows], piece.between[rows]
    whole, wholes, scales, excess = piece.whole[rows], piece.wholes[rows], piece.scales[rows], piece.excess[rows]
    if kind == BEGIN:
        _round(x, layers.asked.longest[n], whole, scales, excess)
    elif kind == ROUND:
        _round(narrow, layers.context.longest[n], whole, scales, excess)
    elif kind == ADD:
        add_and_norm(x, narrow, layers.norms[n, 0], layers.norms[n, 1], epsilon)
        _round(x, layers.inner.longest[n], whole, scales, excess)
    elif kind == BEND:
        for t in range(ROWS):  # of rows that a loop over the array gives, lanes know nothing: 6 ms for 1.3
            gelu(between[t], needed.row_bits, needed.powers)
        _round(between, layers.outer.longest[n], wholes, scales, excess)
    else:
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
def _transform(piece: Piece, rows: I16, matrices: Matrices, n: int, part: int, size: int, out: F32) -> None:
    """Multiply rounded rows with the ``size`` panels of one part of layer ``n``, and add the bias."""
    panels, units, bias, excess = matrices.weights[n], matrices.scales[n], matrices.bias[n], matrices.excess[n]
    for panel in range(part * size, min((part + 1) * size, len(panels))):
        for t in range(0, len(rows), ROWS):
            multiply_crossed(rows, piece.scales, piece.excess, t, panels, panel, units, bias, excess, out)


@compiled
def _ask(piece: Piece, matrices: Matrices, n: int, head: int, heads: int, needed: Memory) -> None:
    """Make the queries, keys and values of one head, and let every token gather from the tokens of its text."""
    size = piece.x.shape[1] // heads
    _transform(piece, piece.whole, matrices, n, head, 3 * size // WIDTH, piece.asked)
    end = 0
    for length in piece.lengths:
        begin, end = end, end + length
        attend(piece.asked[begin:end], head * size, needed, piece.narrow[begin:end])


@compiled
def gelu(x: F32, bits: I32, powers: F32) -> None:
    """Replace numbers by the Gaussian error linear unit of them: x times the normal distribution up to x.

    ``bits`` and ``powers`` are memory for as many.

    The error function is 7.1.26 in Abramowitz and Stegun (1964), with an error of 1.5e-7.
    """
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
