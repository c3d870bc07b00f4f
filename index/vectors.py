"""What the two vector views share: all rows of a snapshot, their languages, and what is removed from each.

Vectors are stored as the encoder made them. Language-neutral ranking is applied when they are read, so that one
stored copy serves both positions of the switch and centroids may move with every commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.centroids import Centroids
from index.coded import CodedTokens
from index.ragged import Ragged
from index.ranking import Rows


@dataclass(frozen=True, slots=True)
class VectorRows:
    """The rows of one vector view.

    Attributes:
        parts: the segments' vectors, oldest first.
        live: (rows,) bool, False for deleted rows.
        languages: the codes that occur; ``codes`` (rows,) int64 points into it.
        centroids: of the live rows.
        id_order: (rows,) for ties, see `index.ranking`.
    """

    parts: Sequence[Ragged | CodedTokens]
    live: NDArray[np.bool_]
    languages: Sequence[str]
    codes: NDArray[np.int64]
    centroids: Centroids
    id_order: NDArray[np.int64]

    def blocks(self, rows: Rows, tokens: int, *, neutral: bool) -> Iterator[tuple[Rows, Ragged]]:
        """Yield sorted ``rows`` with their vectors as float32, about ``tokens`` vectors at a time.

        Rows of coded segments are left out.
        """
        offsets = self._offsets() if neutral and self.centroids.neutral else None
        base = 0
        for part in self.parts:
            if isinstance(part, CodedTokens):
                base += len(part)
                continue
            inside = rows[np.searchsorted(rows, base) : np.searchsorted(rows, base + len(part))] - base
            ends = np.cumsum(part.offsets[inside + 1] - part.offsets[inside])
            start = 0
            while start < len(inside):
                done = ends[start - 1] if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, done + tokens, side="right")))
                chosen = inside[start:stop]
                yield chosen + base, self._read(part, chosen, base, offsets)
                start = stop
            base += len(part)

    def read(self, rows: Rows, *, neutral: bool) -> Ragged:
        """Return the vectors of sorted ``rows`` as float32, those of coded segments decoded."""
        return self._texts(rows, self._offsets() if neutral and self.centroids.neutral else None)

    def centred(self, rows: Rows) -> Ragged:
        """Return the unit vectors of sorted ``rows`` without the whole mean of their language."""
        means = np.zeros((len(self.languages), self.parts[0].dims), np.float32)
        for code in np.unique(self.codes[rows]):
            means[code] = self.centroids.mean(self.languages[code])
        return self._texts(rows, means)

    def _texts(self, rows: Rows, offsets: NDArray[np.float32] | None) -> Ragged:
        texts, base = [], 0
        for part in self.parts:
            inside = rows[np.searchsorted(rows, base) : np.searchsorted(rows, base + len(part))] - base
            if len(inside):
                taken = self._read(part, inside, base, offsets)
                texts += [taken[i] for i in range(len(taken))]
            base += len(part)
        return Ragged.of(texts, self.parts[0].dims)

    def queries(self, values: NDArray[np.floating], owner: Sequence[str], *, neutral: bool) -> NDArray[np.float32]:
        """Return query vectors (T, d) as they are compared: without their language's offset, unit length."""
        vectors = np.array(values, np.float32)
        if neutral and len(vectors):
            names = sorted(set(owner))
            table = np.stack([self.centroids.offset(x) for x in names])
            vectors -= table[[names.index(x) for x in owner]]
        return _unit(vectors)

    def _offsets(self) -> NDArray[np.float32]:
        return np.stack([self.centroids.offset(x) for x in self.languages])

    def _read(self, part: Ragged | CodedTokens, chosen: Rows, base: int, offsets: NDArray[np.float32] | None) -> Ragged:
        whole = len(chosen) == chosen[-1] - chosen[0] + 1
        if whole and isinstance(part, Ragged):  # neighbours: no gathering
            span = part.offsets[chosen[0] : chosen[-1] + 2]
            taken = Ragged(part.values[span[0] : span[-1]], span - span[0])
        else:
            taken = part.take(chosen)
        values = taken.values.astype(np.float32)
        if offsets is not None:
            values -= np.repeat(offsets[self.codes[chosen + base]], np.diff(taken.offsets), axis=0)
            values = _unit(values)
        return Ragged(values, taken.offsets)


def groups(within: Sequence[Rows] | None, queries: int, live: NDArray[np.bool_]) -> Iterator[tuple[list[int], Rows]]:
    """Yield the positions of queries that share the same allowed rows, with those rows, deleted ones taken out.

    Raises:
        ValueError: ``within`` of another length than the queries, or rows that are not sorted or stand twice.
    """
    if within is None:
        yield list(range(queries)), np.flatnonzero(live)
        return
    if len(within) != queries:
        raise ValueError(f"{queries} queries but `within` for {len(within)}")
    allowed = list(within)  # holds every array, so that no two have the same identity
    members: dict[int, list[int]] = {}
    for i, rows in enumerate(allowed):
        members.setdefault(id(rows), []).append(i)
    for indices in members.values():
        rows = allowed[indices[0]]
        if np.any(np.diff(rows) <= 0):
            raise ValueError("the rows in `within` must be sorted, each once")
        yield indices, rows[live[rows]]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1; a row of length 0 stays 0."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors /= np.maximum(norms, np.float32(1e-12))[:, None]
    return vectors
