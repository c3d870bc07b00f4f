"""Products of matrices in whole numbers of 16 bits, in LLVM's own vector operations (see `index.lanes`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from llvmlite import ir
from numba.core import cgutils, types

from index.lanes import LANES, Array, Builder, Value, load, loop, spread, store

# Rows and outputs that are worked on at a time: eight sums, two of weights and one of a row are what the 16 registers
# of AVX2 hold. 2 and 4, 3 and 4, 6 and 2 rows and vectors were slower.
ROWS, WIDTH = 4, 16
VECTORS = WIDTH // LANES
# The greatest weight, and the greatest number in a row: :func:`multiply_crossed` adds the two in 16 bits.
WEIGHT = 4095
GREATEST = 32767 - WEIGHT
# The greatest sum of products.
MOST = (1 << 31) - 1

_BYTE, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_SHORTS, _INTS = ir.VectorType(ir.IntType(16), 16), ir.VectorType(_I32, 16)
_SUMS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(ir.FloatType(), LANES)
Sums: TypeAlias = list[list[Value]]  # of each row, where each vector of them is kept


@loop()
def multiply(
    b: Builder,
    rows: Array,
    scales: Array,
    at: Value,
    panels: Array,
    panel: Value,
    units: Array,
    bias: Array,
    out: Array,
) -> None:
    """Multiply four of ``rows`` (.., I) int16, those from ``at``, with the 16 outputs of a panel.

    ``panels`` is (O / 16, I / 2, 32) int16, I a multiple of 4. ``out`` (.., O) float32 gets each sum, times ``scales``
    (..,) of the row and ``units`` (O,) of the output, and ``bias`` (O,) added.
    """
    zero = ir.Constant(_SUMS, [0] * LANES)
    sums = [[cgutils.alloca_once_value(b, zero) for _ in range(VECTORS)] for _ in range(ROWS)]  # type: ignore[no-untyped-call]
    for x, w, total in _fours(b, rows, at, panels, panel, sums, 1):
        for own, other in zip(x, w, strict=True):
            _add_products(b, own, other, total)
    _scale(b, sums, scales, at, panel, units, bias, out)


@loop()
def multiply_crossed(
    b: Builder,
    rows: Array,
    scales: Array,
    row_excess: Array,
    at: Value,
    panels: Array,
    panel: Value,
    units: Array,
    bias: Array,
    excess: Array,
    out: Array,
) -> None:
    """Do what :func:`multiply` does with half of the multiplications; I is a multiple of 8.

    After Winograd (1968). For four inputs x and weights w, (x0 + w2) (x2 + w0) + (x1 + w3) (x3 + w1) is what is wanted
    and what the row alone and the output alone add to it: ``row_excess`` (..,) and ``excess`` (O,) int32, as
    :func:`sum_excess` has them. A processor adds numbers of 16 bits in twice as many places as it multiplies them: 84
    billion products a second on one core and not 76. Sums that turn over do no harm, for the whole one is in range.
    """
    places = [b.add(b.mul(panel, _I64(VECTORS)), _I64(v)) for v in range(VECTORS)]
    outputs = [load(b, excess, _SUMS, place) for place in places]
    own = [spread(b, b.load(b.gep(row_excess.data, [b.add(at, _I64(n))])), _SUMS) for n in range(ROWS)]
    sums = [[cgutils.alloca_once_value(b, b.neg(b.add(row, output))) for output in outputs] for row in own]  # type: ignore[no-untyped-call]
    for (x, other_x), (w, other_w), total in _fours(b, rows, at, panels, panel, sums, 2):
        _add_products(b, b.add(x, other_w), b.add(other_x, w), total)
    _scale(b, sums, scales, at, panel, units, bias, out)
    _fetch(b, rows, at, panels, panel)


@loop(types.int32)
def sum_excess(b: Builder, rows: Array, at: Value) -> Value:
    """Return the sum of x0 x2 + x1 x3 over every four inputs of row ``at`` (.., I) int16, I a multiple of 16."""
    turns = b.udiv(b.extract_value(rows.shape, 1), _I64(2 * LANES))
    total = cgutils.alloca_once_value(b, ir.Constant(_SUMS, [0] * LANES))  # type: ignore[no-untyped-call]
    with cgutils.for_range(b, turns, intp=_I64) as turn:
        row = load(b, rows, _SHORTS, b.add(b.mul(at, turns), turn.index))
        pairs, zero = b.bitcast(row, _SUMS), ir.Constant(_SUMS, [0] * LANES)
        second = [n + 1 if n % 2 == 0 else LANES for n in range(LANES)]
        _add_products(b, row, b.bitcast(b.shuffle_vector(pairs, zero, ir.Constant(_SUMS, second)), _SHORTS), total)
    sums, whole = b.load(total), _I32(0)
    for n in range(LANES):
        whole = b.add(whole, b.extract_element(sums, _I32(n)))
    return whole


@loop(types.intp)
def count(b: Builder, counts: Array, row: Value, column: Value) -> Value:
    """Add 1 to one of ``counts`` (.., 2) int64, which other threads count in too, and return what it was before."""
    return b.atomic_rmw("add", _count(b, counts, row, column), _I64(1), "seq_cst")


@loop()
def wait(b: Builder, counts: Array, row: Value, enough: Value) -> None:
    """Wait until the second of two ``counts`` (.., 2) int64 is ``enough``; what was done before that can be read."""
    again, after = b.append_basic_block("again"), b.append_basic_block("after")
    place = _count(b, counts, row, _I64(1))
    b.branch(again)
    b.position_at_end(again)
    b.cbranch(b.icmp_signed("<", b.load_atomic(place, "acquire", 8), enough), again, after)
    b.position_at_end(after)


def _count(b: Builder, counts: Array, row: Value, column: Value) -> Value:
    return b.gep(counts.data, [b.add(b.mul(row, _I64(2)), column)])


def _fours(
    b: Builder, rows: Array, at: Value, panels: Array, panel: Value, sums: Sums, turn: int
) -> Iterator[tuple[list[Value], list[Value], Value]]:
    """Write the loop over the inputs: two pairs of a row, those of an output and their sum, ``turn`` fours a turn."""
    pairs = b.extract_value(panels.shape, 1)
    first = b.gep(b.bitcast(rows.data, _I32.as_pointer()), [b.mul(at, pairs)])
    base = b.gep(b.bitcast(panels.data, _SHORTS.as_pointer()), [b.mul(panel, b.mul(pairs, _I64(VECTORS)))])
    with cgutils.for_range(b, b.udiv(pairs, _I64(2 * turn)), intp=_I64) as loop_:
        for pair in range(0, 2 * turn, 2):
            at_pairs = [b.add(b.mul(loop_.index, _I64(2 * turn)), _I64(pair + step)) for step in range(2)]
            places = [[b.add(b.mul(p, _I64(VECTORS)), _I64(v)) for p in at_pairs] for v in range(VECTORS)]
            weights = [[b.load(b.gep(base, [place]), align=1) for place in both] for both in places]
            for n, own in enumerate(sums):
                twos = [b.load(b.gep(first, [b.add(b.mul(pairs, _I64(n)), p)]), align=2) for p in at_pairs]
                row = [b.bitcast(spread(b, two, _SUMS), _SHORTS) for two in twos]
                for weight, total in zip(weights, own, strict=True):
                    yield row, weight, total


def _fetch(b: Builder, rows: Array, at: Value, panels: Array, panel: Value) -> None:
    """Ask for the next panel, each four rows for their part of it: memory is slower than the products are made."""
    pairs, count = b.extract_value(panels.shape, 1), b.extract_value(rows.shape, 0)
    # The weights of a pair of inputs fill a cache line.
    lines = b.add(b.udiv(b.mul(pairs, _I64(ROWS)), count), _I64(1))
    first = b.add(b.mul(b.add(panel, _I64(1)), pairs), b.mul(b.udiv(at, _I64(ROWS)), lines))
    kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _I32, _I32, _I32])
    prefetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
    base = b.bitcast(panels.data, _BYTE.as_pointer())
    with cgutils.for_range(b, lines, intp=_I64) as line:
        place = b.mul(b.add(first, line.index), _I64(4 * WIDTH))
        b.call(prefetch, [b.gep(base, [place]), _I32(0), _I32(2), _I32(1)])


def _add_products(b: Builder, left: Value, right: Value, total: Value) -> None:
    """Add to eight sums the products of two pairs each: VPMADDWD and VPADDD, where there are these."""
    both, nothing = b.mul(b.sext(left, _INTS), b.sext(right, _INTS)), ir.Constant(_INTS, ir.Undefined)
    even, odd = (ir.Constant(_SUMS, list(range(side, 2 * LANES, 2))) for side in (0, 1))
    pairs = b.add(b.shuffle_vector(both, nothing, even), b.shuffle_vector(both, nothing, odd))
    b.store(b.add(b.load(total), pairs), total)


def _scale(
    b: Builder, sums: Sums, scales: Array, at: Value, panel: Value, units: Array, bias: Array, out: Array
) -> None:
    """Bring the sums of four rows and a panel into their scale, and store them."""
    wide = b.udiv(b.extract_value(out.shape, 1), _I64(LANES))
    for v in range(VECTORS):
        column = b.add(b.mul(panel, _I64(VECTORS)), _I64(v))
        unit, added = load(b, units, _FLOATS, column), load(b, bias, _FLOATS, column)
        for n, own in enumerate(sums):
            row = b.add(at, _I64(n))
            scale = b.fmul(unit, spread(b, b.load(b.gep(scales.data, [row])), _FLOATS))
            value = b.fadd(b.fmul(b.sitofp(b.load(own[v]), _FLOATS), scale), added)
            store(b, value, out, b.add(b.mul(row, wide), column))
