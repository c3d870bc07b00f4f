"""Token vectors as codes, with cells that say where to look: the late view of a segment that is large enough.

Every vector loses the offset of its language (see `index.centroids`), is brought to unit length, rotated, and rounded
to a few bits a dimension with a range of its own. The rotation spreads what a vector says evenly over all dimensions,
so that one code fits all and nothing is learned: codes never age, and merging segments copies them. RaBitQ and
TurboQuant rest on the same (Gao et al. 2024, Zandieh et al. 2025). Residuals of 2,048 cells in the same 4 bits were no
better: .9705 against .9695 recall@10 on XQuAD-R.

A search looks at the cells nearest to each token of the query, collects the texts in them, scores the most promising by
their cells alone, and the best of those by MaxSim over the codes.

    late.codes.npy      (T, D * bits / 16) uint16, where D is d, made a multiple of 128 / bits
    late.widths.npy     (T,) uint16, the range of a vector's codes
    late.lengths.npy    (T,) uint16, its length without the offset: for ranking that is not language-neutral
    late.offsets.npy    (n + 1,) int64, where each text begins
    late.cells.npy      (T,) uint16
    late.centers.npy    (C, D) float16, rotated
    late.starts.npy     (C + 1,) int64, where each cell begins in
    late.texts.npy      the texts of each cell, ascending, uint32
    late.rotation.npy   (d, D) float32
    late.frame.npy      (L, d) float32, the offset of each of the segment's languages when it was coded
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index import kernels, lanes, packing
from index.parallel import share
from index.ragged import Ragged
from index.ranking import NOTHING, Ranked, Rows, best
from index.storage import read_array

# Tokens that are decoded at a time: 8 MB with 128 dims.
CHUNK = 1 << 14
# Texts that are decoded at a time where they are named one by one: of 10,000 tokens each they take some 300 MB.
TAKEN = 32
# Texts that are scored by their cells, for each that is scored by its nearest tokens; and texts whose codes are all
# compared, for each that is wanted. Recall@10 on XQuAD-R in two segments: 2 and 3 .9605, 3 and 3 .9605, 3 and 2 .9590.
INTERACT, FINAL = 3, 3
# Fewer than these are searched for as if they were these, or the best text would be one of three alone: of queries with
# k = 1 and half of 4,000 texts allowed, 1.4 % missed it.
LEAST = 10
# Levels of no cells: all tokens are compared.
EVERYWHERE = np.empty((0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class LateSearch:
    """How hard to look. `eval/bench/late.py` has measured the defaults.

    Attributes:
        cells: that each query token looks into.
        candidates: texts that are scored by some of their codes where ten are wanted; three times as many are scored by
            their cells.
    """

    cells: int = 8
    candidates: int = 480

    def deep(self, k: int, share: float) -> LateSearch:
        """Return what finds the best ``k`` in a ``share`` of all texts.

        Candidates make up for the noise of cells, which lets a part of the texts overtake the right ones, so that
        a share of the texts needs as large a share of the candidates; but half as many again as are wanted. They grow
        with the square root of what is wanted: of the 100 best that comparing everything finds in XQuAD-R, 480
        candidates give .89 and 1,518 .986, in 1.6 times the time; in SciFact .90 and .993, and Recall@100 is .904, not
        .894.
        """
        candidates = int(self.candidates * math.sqrt(max(k, LEAST) / LEAST) * share)
        return LateSearch(self.cells, max(candidates, k + k // 2))


@dataclass(frozen=True, slots=True)
class CodedQuery:
    """One query, ready for the kernels.

    Attributes:
        blocks: (P / 8, D / 2, 16) rotated, see `index.lanes`.
        tokens: how many there are.
        bias: (L, P) what every token of a text in a language adds.
    """

    blocks: NDArray[np.int16]
    tokens: int
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.floating], view: CodedTokens, *, neutral: bool) -> CodedQuery:
        """Prepare unit vectors (T, d) for a search in ``view``."""
        wide = view.rotation.shape[1]
        blocks = np.zeros((-(-len(vectors) // lanes.LANES), wide // 2, 2 * lanes.LANES), np.int16)
        kernels.rotate(np.ascontiguousarray(vectors, np.float32), view.rotation, blocks)
        bias = np.zeros((len(view.frame), len(blocks) * lanes.LANES), np.float32)
        if not neutral:
            bias[:, : len(vectors)] = view.frame @ vectors.T
        return cls(blocks, len(vectors), bias)


class _Scratch(NamedTuple):
    """The memory of a search, kept for the next: among 5 million tokens new pages took a tenth of the time.

    Attributes:
        levels: (C', W) see `kernels.compare`.
        tally: see `kernels.gather`.
    """

    levels: NDArray[np.uint8]
    tally: kernels.Tally


class CodedTokens:
    """The coded token vectors of n texts. Safe to share between threads."""

    def __init__(self, folder: Path, languages: NDArray[np.uint16]) -> None:
        """Map the files; ``languages`` (n,) points into the frame."""
        scattered = ("codes", "widths", "lengths", "cells")
        found = {name: read_array(folder / f"late.{name}.npy", scattered=True) for name in scattered}
        found |= {name: read_array(folder / f"late.{name}.npy") for name in ("offsets", "starts", "texts")}
        self.frame = read_array(folder / "late.frame.npy")
        self.rotation = read_array(folder / "late.rotation.npy")
        self._stored_centers = read_array(folder / "late.centers.npy")
        self.dims, wide = self.rotation.shape
        self.bits = 16 * found["codes"].shape[1] // wide
        self.offsets = found["offsets"]
        # As it will be when the collection is opened: to Numba what may be written is of another type, and `warm` would
        # compile what no search uses.
        own = np.asarray(languages).view()
        own.setflags(write=False)
        self.coded = packing.Coded(bits=self.bits, languages=own, **found)
        self._scratches: queue.SimpleQueue[_Scratch] = queue.SimpleQueue()

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.offsets) - 1

    def take(self, texts: NDArray[np.integer]) -> Ragged:
        """Return the vectors of the chosen texts as the encoder made them, but for the rounding, float16."""
        parts = [self._raw(texts[at : at + TAKEN]) for at in range(0, len(texts), TAKEN)]
        return Ragged.of([part[i] for part in parts for i in range(len(part))], self.dims)

    def pieces(self, texts: NDArray[np.integer]) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
        """Return the codes, widths and lengths of the chosen texts' tokens."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]
        ends = np.cumsum(lengths)
        tokens = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
            self.offsets[:-1][texts] - (ends - lengths), lengths
        )
        return self.coded.codes[tokens], self.coded.widths[tokens], self.coded.lengths[tokens]

    def spans(self) -> Iterator[tuple[int, Ragged]]:
        """Yield the vectors of all texts in order, each time with the first text's number; some texts at a time."""
        first = 0
        while first < len(self):
            last = max(int(np.searchsorted(self.offsets, self.offsets[first] + CHUNK, side="right")) - 1, first + 1)
            yield first, self._raw(np.arange(first, last))
            first = last

    def warm(self) -> None:
        """Search once, so that the kernels are compiled when the first query comes: about 15 s on a new machine."""
        tokens = self._raw(np.arange(min(len(self), 8))).values[:1].astype(np.float32)
        everything = np.ones(len(self), np.bool_)
        query = Ragged(tokens, np.array([0, len(tokens)], np.int64))
        for neutral in (True, False):
            self.search(
                query, 1, allowed=everything, neutral=neutral, how=LateSearch(1, 8), id_order=np.arange(len(self))
            )

    def search(
        self,
        queries: Ragged,
        k: int,
        *,
        allowed: NDArray[np.bool_],
        neutral: bool,
        how: LateSearch,
        id_order: NDArray[np.int64],
        share_of_all: float = 1.0,
    ) -> list[Ranked]:
        """Return the best texts for every query, on all cores.

        Args:
            queries: unit vectors as they are compared.
            k: at most so many each; as many as are allowed, if those have tokens.
            allowed: (n,) which texts may be found.
            neutral: language-neutral ranking.
            how: how hard to look.
            id_order: (n,) for ties, see `index.ranking`.
            share_of_all: the part that these texts make up of all that are searched.
        """
        allowed = allowed & self._filled
        possible = int(np.count_nonzero(allowed))
        how = how.deep(min(k, possible), share_of_all)
        few = np.flatnonzero(allowed) if possible <= 2 * how.candidates else None

        def work(i: int) -> Ranked:
            query = CodedQuery.of(queries[i], self, neutral=neutral)
            chosen = few
            if chosen is None:
                chosen = self._promising(query, allowed, possible, min(k, possible), how, neutral)
            scores = np.empty(len(chosen), np.float32)
            kernels.maxsim(query.blocks, query.bias, self.coded, neutral, EVERYWHERE, chosen, scores)
            return best(chosen, scores, k, id_order=id_order)

        return share(range(len(queries)), work) if possible and k > 0 else [NOTHING] * len(queries)

    def _promising(
        self, query: CodedQuery, allowed: NDArray[np.bool_], possible: int, k: int, how: LateSearch, neutral: bool
    ) -> Rows:
        """Return some of the ``possible`` allowed texts, ascending, at least ``k``, likely to have the best ``k``."""
        bonus = query.bias.sum(axis=1) / self._mean_length
        scratch = self._scratch(-(-query.bias.shape[1] // lanes.BYTES) * lanes.BYTES)
        rows = self._near_cells(query, bonus, allowed, possible, k, how, scratch)
        scores = np.empty(len(rows), np.float32)
        kernels.interact(scratch.levels, bonus, self.coded, rows, scores)
        rows = np.sort(_greatest(rows, scores, how.candidates))
        final = FINAL * max(k, LEAST)
        if final < len(rows):
            kernels.maxsim(query.blocks, query.bias, self.coded, neutral, scratch.levels, rows, scores)
            rows = np.sort(_greatest(rows, scores[: len(rows)], final))
        self._scratches.put(scratch)
        return rows

    def _near_cells(
        self,
        query: CodedQuery,
        bonus: NDArray[np.float32],
        allowed: NDArray[np.bool_],
        possible: int,
        k: int,
        how: LateSearch,
        scratch: _Scratch,
    ) -> Rows:
        """Return the texts that gain most in the cells nearest to each token of the query, see `kernels.gather`."""
        levels, tally = scratch
        padded, count = query.bias.shape[1], len(self._stored_centers)
        levels[:, padded:] = 0  # a longer query may have left something there
        # A filter leaves fewer texts in every cell, so more cells are looked into.
        cells = min(int(how.cells * (len(self) / possible) ** 0.5), count)
        while True:
            similarities, names = np.empty((padded, cells), np.int32), np.empty((padded, cells), np.int64)
            kernels.compare(query.blocks, self._centers, count, levels, similarities, names)
            found = kernels.gather(similarities, names, query.tokens, self.coded, bonus, allowed, tally)
            if found >= k or cells == count:
                break
            cells = min(cells * 4, count)
        rows = tally.found[:found]
        return _greatest(rows, tally.gains[rows], INTERACT * how.candidates).copy()

    def _scratch(self, width: int) -> _Scratch:
        """Return memory for one search: 20 bytes a text, ``width`` bytes a cell."""
        try:
            scratch = self._scratches.get_nowait()
        except queue.Empty:
            n = len(self)
            tally = kernels.Tally(np.empty(n, np.float32), np.full(n, -1, np.int32), np.empty(n, np.int64))
            scratch = _Scratch(np.empty((0, 0), np.uint8), tally)
        if scratch.levels.shape[1] != width:
            scratch = scratch._replace(levels=np.empty((len(self._centers), width), np.uint8))
        return scratch

    @cached_property
    def _filled(self) -> NDArray[np.bool_]:
        return np.diff(self.offsets) > 0

    @cached_property
    def _centers(self) -> NDArray[np.int16]:
        count, dims = self._stored_centers.shape
        whole = np.zeros((-(-count // lanes.TOKENS) * lanes.TOKENS, dims), np.int16)
        whole[:count] = np.rint(self._stored_centers.astype(np.float32) * lanes.ONE)
        return whole

    @cached_property
    def _mean_length(self) -> np.float32:
        sample = self.coded.lengths[:: max(1, len(self.coded.lengths) // 4096)]
        return np.float32(max(sample.mean(dtype=np.float64) / packing.FIXED, 1e-6))

    def _raw(self, texts: NDArray[np.integer]) -> Ragged:
        """Return the vectors of the chosen texts as the encoder made them."""
        codes, widths, lengths = self.pieces(texts)
        values = np.empty((len(codes), self.rotation.shape[1]), np.float32)
        packing.decode(codes, self.bits, widths, values)
        values = values @ self.rotation.T
        values *= (lengths / np.float32(packing.FIXED)).astype(np.float32)[:, None]
        tokens = self.offsets[texts + 1] - self.offsets[texts]
        values += self.frame[np.repeat(self.coded.languages[texts], tokens)]
        return Ragged(values.astype(np.float16), np.concatenate([[0], np.cumsum(tokens)]))


def _greatest(rows: Rows, scores: NDArray[np.float32], most: int) -> Rows:
    """Return the rows with the ``most`` greatest scores, in any order."""
    if len(rows) <= most:
        return rows
    return rows[np.argpartition(scores, len(scores) - most)[len(scores) - most :]]
