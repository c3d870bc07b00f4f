"""Writing token vectors as codes, with their cells: the files that `index.coded` describes and reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import kernels, packing
from index.cells import CELLS, CHUNK, SAMPLE, SEED, Cells, spread
from index.coded import CodedTokens
from index.parallel import share
from index.ragged import Ragged
from index.ranking import Rows
from index.storage import ArrayFile, read_array, write_array

BITS = (2, 4, 8)
# Bits that a vector's codes take are a multiple of this, see `index.lanes.unpack`.
WORDS = 128
# Tokens that are coded at a time, or those of one text: 64 MB of 128 dims, four times.
TOKENS = 1 << 17
# How far the offset of a language may move, in parts of a unit vector, before what is coded with it is coded anew.
DRIFT = 0.03


@dataclass(frozen=True, slots=True)
class Coding:
    """How to code a late view.

    Attributes:
        bits: for a dimension: 2, 4 or 8.
        offsets: what a vector of each language loses.
    """

    bits: int
    offsets: Mapping[str, NDArray[np.float32]]


# Some texts of one segment: their vectors, the positions of all its texts' languages in its codes, and their rows.
Source = tuple[Ragged | CodedTokens, NDArray[np.integer], Sequence[str], Rows]


def write_coded(folder: Path, sources: Sequence[Source], languages: Sequence[str], coding: Coding) -> None:
    """Write the files of a coded late view. What grows with the number of texts in memory are their cells alone.

    What is coded in the same way already is copied.

    Args:
        folder: an existing folder.
        sources: the texts, in order.
        languages: those of all texts together.
        coding: how.
    """
    lengths = [np.diff(vectors.offsets)[rows] for vectors, _, _, rows in sources]
    texts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    total, dims = int(texts[-1]), sources[0][0].dims
    rotation, frame = _rotation(dims, coding.bits), _frame(sources, coding)
    write_array(folder / "late.rotation.npy", rotation)
    write_array(folder / "late.frame.npy", np.stack([frame[x] for x in languages]).astype(np.float32))
    write_array(folder / "late.offsets.npy", texts)
    size = rotation.shape[1] * coding.bits // 16
    with (
        ArrayFile(folder / "late.codes.npy", (total, size), np.uint16) as all_codes,
        ArrayFile(folder / "late.widths.npy", (total,), np.uint16) as all_widths,
        ArrayFile(folder / "late.lengths.npy", (total,), np.uint16) as all_lengths,
    ):
        for vectors, spoken, names, rows in sources:
            table = np.stack([frame[x] for x in names]) if names else np.empty((0, dims), np.float32)
            for some in _blocks(rows, np.diff(vectors.offsets)[rows]):
                if (
                    isinstance(vectors, CodedTokens)
                    and vectors.bits == coding.bits
                    and np.array_equal(vectors.frame, table)
                ):
                    codes, widths, sizes = vectors.pieces(some)
                else:
                    ragged = vectors.take(some)
                    offsets = np.repeat(table[spoken[some]], np.diff(ragged.offsets), axis=0)
                    directions, sizes = _directions(ragged.values.astype(np.float32) - offsets)
                    # Encoders give unit vectors. What float16 changed of that would make the two positions of the
                    # neutral switch differ in a collection of one language.
                    sizes[~offsets.any(axis=1)] = packing.FIXED
                    codes, widths = encode(directions @ rotation, coding.bits)
                all_codes.append(codes)
                all_widths.append(widths)
                all_lengths.append(sizes)
    _write_cells(folder, texts, rotation.shape[1], coding.bits)


def _blocks(rows: Rows, lengths: NDArray[np.integer]) -> Iterator[Rows]:
    """Cut rows with so many tokens each into runs of :data:`TOKENS` at most, or of one row."""
    ends, at = np.cumsum(lengths), 0
    while at < len(rows):
        before = ends[at - 1] if at else 0
        stop = max(at + 1, int(np.searchsorted(ends, before + TOKENS, side="right")))
        yield rows[at:stop]
        at = stop


def _frame(sources: Sequence[Source], coding: Coding) -> dict[str, NDArray[np.float32]]:
    """Return the offset to code each language with: the one that it is coded with, while that is near enough.

    The source with most texts has the first word, so that most is copied.
    """
    frame: dict[str, NDArray[np.float32]] = {}
    for vectors, _, names, _ in sorted(sources, key=lambda source: -len(source[3])):
        if isinstance(vectors, CodedTokens):
            for name, offset in zip(names, vectors.frame, strict=True):
                if np.linalg.norm(offset - coding.offsets[name]) <= DRIFT:
                    frame.setdefault(name, offset)
    return {**coding.offsets, **frame}


def _directions(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Return vectors at unit length, and their lengths as they are stored."""
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    stored = np.minimum(np.round(lengths * packing.FIXED), 65535).astype(np.uint16)
    return values / np.maximum(lengths, np.float32(1e-12))[:, None], stored


def encode(vectors: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Encode rotated vectors (T, D); returns (T, D * bits / 16) codes and (T,) widths."""
    codes = np.empty((len(vectors), vectors.shape[1] * bits // 16), np.uint16)
    widths = np.empty(len(vectors), np.uint16)
    vectors = np.ascontiguousarray(vectors, np.float32)

    def work(part: slice) -> None:
        packing.encode(vectors[part], bits, codes[part], widths[part])

    share([slice(at, at + CHUNK) for at in range(0, len(vectors), CHUNK)], work)
    return codes, widths


def _write_cells(folder: Path, texts: NDArray[np.int64], dims: int, bits: int) -> None:
    """Learn the cells from what was coded, and write where every token lies."""
    total = int(texts[-1])
    codes, widths = read_array(folder / "late.codes.npy"), read_array(folder / "late.widths.npy")
    count = max(1, int(CELLS * total**0.5))
    drawn = spread(total, count * SAMPLE)
    drawn_codes, drawn_widths = codes[drawn], widths[drawn]

    def sample(some: NDArray[np.int64]) -> NDArray[np.float32]:
        values = np.empty((len(some), dims), np.float32)
        packing.decode(drawn_codes[some], bits, drawn_widths[some], values)
        return _directions(values)[0]

    cells = Cells.train(sample, len(drawn), count)
    of_token = np.empty(total, np.uint16)
    for begin in range(0, total, 16 * CHUNK):
        end = min(begin + 16 * CHUNK, total)
        values = np.empty((end - begin, dims), np.float32)
        packing.decode(codes[begin:end], bits, widths[begin:end], values)
        of_token[begin:end] = cells.assign(values)
    write_array(folder / "late.cells.npy", of_token)
    write_array(folder / "late.centers.npy", cells.centers.astype(np.float16))
    counts = np.zeros(len(cells.centers), np.int64)
    kernels.count_texts(of_token, texts, np.full(len(counts), -1, np.int64), counts)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    listed = np.empty(int(starts[-1]), np.uint32)
    kernels.list_texts(of_token, texts, np.full(len(counts), -1, np.int64), starts[:-1].copy(), listed)
    write_array(folder / "late.starts.npy", starts)
    write_array(folder / "late.texts.npy", listed)


def _rotation(dims: int, bits: int) -> NDArray[np.float32]:
    """Return a random rotation, the same every time, into as many dimensions or a few more."""
    wide = -(-dims * bits // WORDS) * WORDS // bits
    gauss = np.random.default_rng(SEED).standard_normal((wide, wide))
    return np.ascontiguousarray(np.linalg.qr(gauss)[0][:dims], np.float32)
