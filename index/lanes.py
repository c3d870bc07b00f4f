"""The loops of late interaction that must run in vector lanes, in LLVM's own vector operations.

Numba's compiler finds no such form in loops over Python's numbers: it sums floats along the dimensions, 8 ns for a pair
of vectors, where here eight query tokens lie side by side and meet four document tokens at a time, 2 ns. Sums are of
whole numbers, and so are the same in whatever order. Nothing here is of one processor's kind: with AVX2 a step of
`_multiply` becomes VPMADDWD, elsewhere what does the same.

The P tokens of a query with D dimensions are kept as ``(P / 8, D / 2, 16)`` int16: block, pair of dimensions, and the
pair of each of eight tokens. What fills the last block is zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

# Tokens of a query side by side, and tokens of documents that are met at a time.
LANES, TOKENS = 8, 4
# What 1 is as a component of a query. Sums of products with codes of 8 bits fit into 32 bits up to 65,536 dims, for
# queries have unit length.
ONE = 32767
# Pairs of dimensions in one turn of the loop, for one pair a turn takes half as long again.
PAIRS = 4
# Lanes of bytes.
BYTES = 16
# Similarities to cells are kept as bytes, the highest bits of a product: all below 0 are 0, and 1 is the greatest byte.
SHIFT, LEVELS = 22, 256

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_8_BYTES, _16_BYTES = ir.VectorType(_I8, LANES), ir.VectorType(_I8, BYTES)
_8_SHORTS, _16_SHORTS = ir.VectorType(_I16, LANES), ir.VectorType(_I16, 2 * LANES)
_8_INTS, _16_INTS = ir.VectorType(_I32, LANES), ir.VectorType(_I32, 2 * LANES)
_8_FLOATS = ir.VectorType(ir.FloatType(), LANES)

Builder: TypeAlias = ir.IRBuilder
Value: TypeAlias = ir.Value
Array: TypeAlias = Any  # what Numba gives for one: `data`, a pointer, and `shape`


def loop(returns: types.Type = types.void) -> Callable[[Callable[..., Value | None]], Callable[..., Any]]:
    """Make a function that compiled ones can call from one that writes its code.

    It is given a builder, the parts of every array and the values of every number.
    """

    def decorate(write: Callable[..., Value | None]) -> Callable[..., Any]:
        def typed(_: object, *kinds: types.Type) -> tuple[object, Callable[..., Value]] | None:
            if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in kinds):
                return None  # Numba says that there is no such function

            def generate(context: Any, builder: Builder, signature: Any, values: list[Value]) -> Value:  # noqa: ANN401
                parts = [
                    context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
                    for kind, value in zip(signature.args, values, strict=True)
                ]
                result = write(builder, *parts)
                return context.get_dummy_value() if result is None else result

            return returns(*(kind if isinstance(kind, types.Array) else types.intp for kind in kinds)), generate

        # Numba asks for the names of the arguments after the first.
        return cast("Callable[..., Any]", intrinsic(functools.wraps(write)(typed)))

    return decorate


@loop(types.boolean)
def compare(b: Builder, query: Array, rows: Array, at: Value, bars: Array, products: Array, levels: Array) -> Value:
    """Compare a query with four of ``rows`` (.., D) int16, those from ``at``.

    ``products`` (4, P / 8, 8) int32 gets the products, and ``levels`` (.., W) uint8, in the places of those rows, their
    highest bits, see :data:`SHIFT`.

    Returns:
        whether any product is greater than its bar, (P / 8, 8) int32.
    """
    blocks, pairs = (b.extract_value(query.shape, axis) for axis in (0, 1))
    width = b.extract_value(levels.shape, 1)
    first = b.gep(b.bitcast(rows.data, _I32.as_pointer()), [b.mul(at, pairs)])
    out = b.gep(levels.data, [b.mul(at, width)])
    low, high, by = (ir.Constant(_8_INTS, [n] * LANES) for n in (0, LEVELS - 1, SHIFT))
    above = cgutils.alloca_once_value(b, _I8(0))  # type: ignore[no-untyped-call]
    with cgutils.for_range(b, blocks, intp=_I64) as block:
        bar = load(b, bars, _8_INTS, block.index)
        for n, total in enumerate(_multiply(b, query, block.index, first)):
            store(b, total, products, b.add(b.mul(_I64(n), blocks), block.index))
            level = b.ashr(total, by)
            level = b.select(b.icmp_signed(">", level, low), level, low)
            level = b.select(b.icmp_signed("<", level, high), level, high)
            place = b.gep(out, [b.add(b.mul(_I64(n), width), b.mul(block.index, _I64(LANES)))])
            b.store(b.trunc(level, _8_BYTES), b.bitcast(place, _8_BYTES.as_pointer()), align=1)
            b.store(b.or_(b.load(above), b.bitcast(b.icmp_signed(">", total, bar), _I8)), above)
    return b.icmp_unsigned("!=", b.load(above), _I8(0))


@loop()
def nearest(b: Builder, query: Array, tokens: Array, scales: Array, best: Array) -> None:
    """Keep in ``best`` (P / 8, 8) float32 the greatest product of each query token with four, times their scales.

    ``tokens`` is (4, D) int16, ``scales`` (4,) float32.
    """
    rows = b.bitcast(tokens.data, _I32.as_pointer())
    factors = [spread(b, b.load(b.gep(scales.data, [_I64(n)])), _8_FLOATS) for n in range(TOKENS)]
    with cgutils.for_range(b, b.extract_value(query.shape, 0), intp=_I64) as block:
        top = load(b, best, _8_FLOATS, block.index)
        for total, factor in zip(_multiply(b, query, block.index, rows), factors, strict=True):
            score = b.fmul(b.sitofp(total, _8_FLOATS), factor)
            top = b.select(b.fcmp_ordered(">", score, top), score, top)
        store(b, top, best, block.index)


@loop()
def highest(b: Builder, levels: Array, rows: Array, first: Value, last: Value, out: Array) -> None:
    """Put into ``out`` (W,) the greatest of every column of ``levels`` (C, W) uint8, over ``rows[first:last]`` uint16.

    W is a multiple of 16; of no rows it is 0.
    """
    width = b.udiv(b.extract_value(levels.shape, 1), _I64(BYTES))
    best = cgutils.alloca_once(b, _16_BYTES)  # type: ignore[no-untyped-call]
    with cgutils.for_range(b, width, intp=_I64) as column:
        b.store(ir.Constant(_16_BYTES, [0] * BYTES), best)
        with cgutils.for_range_slice(b, first, last, _I64(1), intp=_I64) as (at, _):
            row = b.zext(b.load(b.gep(rows.data, [at])), _I64)
            found, top = load(b, levels, _16_BYTES, b.add(b.mul(row, width), column.index)), b.load(best)
            b.store(b.select(b.icmp_unsigned(">", found, top), found, top), best)
        store(b, b.load(best), out, column.index)


@loop(types.boolean)
def reaches(b: Builder, levels: Array, row: Value, bars: Array) -> Value:
    """Return whether any of the levels in a row of (C, W) uint8 is as high as its bar, (W,); W is a multiple of 16."""
    width = b.udiv(b.extract_value(levels.shape, 1), _I64(BYTES))
    found = cgutils.alloca_once_value(b, _I16(0))  # type: ignore[no-untyped-call]
    with cgutils.for_range(b, width, intp=_I64) as column:
        own = load(b, levels, _16_BYTES, b.add(b.mul(row, width), column.index))
        high = b.icmp_unsigned(">=", own, load(b, bars, _16_BYTES, column.index))
        b.store(b.or_(b.load(found), b.bitcast(high, _I16)), found)
    return b.icmp_unsigned("!=", b.load(found), _I16(0))


def _unpacker(bits: int) -> Callable[..., Any]:
    """Return what unpacks codes of so many bits."""
    doubled, top = (ir.Constant(_8_SHORTS, [n] * LANES) for n in ((2 << bits) - 2, (1 << bits) - 1))
    planes = 16 // bits

    @loop()
    def unpack(b: Builder, codes: Array, row: Value, out: Array, at: Value) -> None:
        """Unpack one row of ``codes`` (T, D * bits / 16) uint16 into row ``at`` of ``out`` (.., D) int16."""
        chunks = b.udiv(b.extract_value(codes.shape, 1), _I64(LANES))
        first = b.mul(at, b.mul(chunks, _I64(planes)))
        with cgutils.for_range(b, chunks, intp=_I64) as chunk:
            words = load(b, codes, _8_SHORTS, b.add(b.mul(row, chunks), chunk.index))
            for plane in range(planes):
                by = ir.Constant(_8_SHORTS, [abs(bits * plane - 1)] * LANES)
                moved = b.lshr(words, by) if plane else b.shl(words, by)
                place = b.add(first, b.add(b.mul(chunk.index, _I64(planes)), _I64(plane)))
                store(b, b.sub(b.and_(moved, doubled), top), out, place)

    return unpack


unpack_2, unpack_4, unpack_8 = (_unpacker(bits) for bits in (2, 4, 8))


@loop()
def prefetch(b: Builder, array: Array, at: Value) -> None:
    """Ask for the element number ``at`` of an array's data, so that it is near when it is read."""
    anything = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [anything, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
    b.call(function, [b.bitcast(b.gep(array.data, [at]), anything), _I32(0), _I32(3), _I32(1)])  # to read, near, data


def _multiply(b: Builder, query: Array, block: Value, rows: Value) -> list[Value]:
    """Return the sums of products, in the lanes of a query's block, for each of four rows of pairs."""
    pairs = b.extract_value(query.shape, 1)
    sums = [cgutils.alloca_once_value(b, ir.Constant(_8_INTS, [0] * LANES)) for _ in range(TOKENS)]  # type: ignore[no-untyped-call]
    even, odd = (ir.Constant(_8_INTS, list(range(side, 2 * LANES, 2))) for side in (0, 1))
    nothing = ir.Constant(_16_INTS, ir.Undefined)
    with cgutils.for_range(b, b.udiv(pairs, _I64(PAIRS)), intp=_I64) as turn:
        for step in range(PAIRS):
            at = b.add(b.mul(turn.index, _I64(PAIRS)), _I64(step))
            asked = b.sext(load(b, query, _16_SHORTS, b.add(b.mul(block, pairs), at)), _16_INTS)
            for n, total in enumerate(sums):
                pair = b.load(b.gep(rows, [b.add(b.mul(pairs, _I64(n)), at)]), align=2)
                own = b.sext(b.bitcast(spread(b, pair, _8_INTS), _16_SHORTS), _16_INTS)
                both = b.mul(asked, own)
                left, right = (b.shuffle_vector(both, nothing, side) for side in (even, odd))
                b.store(b.add(b.load(total), b.add(left, right)), total)
    return [b.load(total) for total in sums]


def spread(b: Builder, value: Value, kind: ir.VectorType) -> Value:
    """Return a vector of eight with the value in all lanes."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = b.insert_element(nothing, value, _I32(0))
    return b.shuffle_vector(first, nothing, ir.Constant(_8_INTS, [0] * LANES))


def load(b: Builder, array: Array, kind: ir.VectorType, place: Value) -> Value:
    """Return the vector number ``place`` of an array's data."""
    return b.load(b.gep(b.bitcast(array.data, kind.as_pointer()), [place]), align=1)


def store(b: Builder, value: Value, array: Array, place: Value) -> None:
    """Put a vector at place number ``place`` of its kind in an array's data."""
    b.store(value, b.gep(b.bitcast(array.data, value.type.as_pointer()), [place]), align=1)
