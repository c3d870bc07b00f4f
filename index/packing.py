"""Codes of token vectors, packed and unpacked: a few bits a dimension, and one range for each vector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from index import lanes
from index.compiling import F32, I16, I64, U16, U32, compiled

# Lengths are stored as fixed-point numbers from 0 to 4, for Numba knows no float16.
FIXED = 16384
# Ranges that are tried for a vector's code, in parts of its largest component.
RANGES = 12


class Coded(NamedTuple):
    """The token vectors of n texts as codes, see `index.coded`.

    Attributes:
        codes: (T, d * bits / 16).
        bits: for a dimension.
        widths: (T,) the range of a vector's codes, times :data:`FIXED`.
        lengths: (T,) what a vector's length was when its language's offset had been taken off, times :data:`FIXED`.
        offsets: (n + 1,) where each text begins.
        languages: (n,) each text's language, a row of the bias.
        cells: (T,) the cell of every token.
        starts: (C + 1,) where each cell begins in ``texts``.
        texts: the texts of each cell, each once.
    """

    codes: U16
    bits: int
    widths: U16
    lengths: U16
    offsets: I64
    languages: U16
    cells: U16
    starts: I64
    texts: U32


@compiled
def unpack(codes: U16, row: int, bits: int, out: I16, at: int) -> None:
    """Unpack one row of codes into row ``at`` of ``out`` (.., d), odd numbers from -2 ** bits + 1 to 2 ** bits - 1.

    Eight words hold 128 / bits dimensions: word j the dimensions j, j + 8, j + 16, ..., the first in its lowest bits.
    """
    if bits == 4:
        lanes.unpack_4(codes, row, out, at)
    elif bits == 8:
        lanes.unpack_8(codes, row, out, at)
    else:
        lanes.unpack_2(codes, row, out, at)


@compiled
def decode(codes: U16, bits: int, widths: U16, out: F32) -> None:
    """Decode vectors into ``out`` (T, d)."""
    twice = np.empty((1, out.shape[1]), np.int16)
    for t in range(len(codes)):
        unpack(codes, t, bits, twice, 0)
        step = np.float32(widths[t]) / np.float32(FIXED << (bits + 1))
        for k in range(out.shape[1]):
            out[t, k] = np.float32(twice[0, k]) * step


@compiled
def encode(vectors: F32, bits: int, codes: U16, widths: U16) -> None:
    """Encode vectors (T, d), each with the range of codes that keeps its direction best.

    The direction of a code y is kept as well as <x, y> ** 2 / <y, y> is large, and <x, y> / <y, y> is then the length
    of a step that makes the error least.
    """
    count, dims = vectors.shape
    size, planes, top = codes.shape[1], 16 // bits, np.float32((1 << bits) - 1)
    half = top / np.float32(2)
    for t in range(count):
        x = vectors[t]
        largest = np.float32(0)
        for k in range(dims):
            largest = max(largest, abs(x[k]))
        kept, chosen, scale = np.float32(-1), np.float32(1), np.float32(0)
        if largest > 0:
            for part in range(RANGES):
                # From .4 to 1 of the largest component on either side.
                inverse = (half + np.float32(0.5)) / (largest * np.float32(0.4 + 0.6 * part / (RANGES - 1)))
                xy = yy = np.float32(0)
                for k in range(dims):
                    y = min(max(np.floor(x[k] * inverse) + half + np.float32(0.5), np.float32(0)), top) - half
                    xy += x[k] * y
                    yy += y * y
                if xy * xy > kept * yy:
                    kept, chosen, scale = xy * xy / yy, inverse, xy / yy
        widths[t] = np.uint16(min(scale * np.float32(FIXED << bits) + np.float32(0.5), np.float32(65535)))
        for j in range(size):
            word = np.uint16(0)
            first = j // lanes.LANES * lanes.LANES * planes + j % lanes.LANES
            for plane in range(planes):
                v = x[first + plane * lanes.LANES]
                y = min(max(np.floor(v * chosen) + half + np.float32(0.5), np.float32(0)), top)
                word |= np.uint16(np.uint16(y) << np.uint16(bits * plane))
            codes[t, j] = word
