"""Cells: token space cut into regions, so that a search looks only where the query is.

A two-level k-means: the centers of the top level each own some of the cells, so that a token is compared with some
hundred centers and not with all of them, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.parallel import share

# Cells for T tokens: CELLS * sqrt(T), so that the work for comparing with all of them and for reading some grows alike.
CELLS = 5.5
# Vectors that a cell, and a center of the top level, is learned from.
SAMPLE, TOP_SAMPLE = 40, 256
ROUNDS = 6
# Top centers whose cells a token is compared with.
PROBES = 2
MOST = 1 << 16  # a cell's number is a uint16
SEED = 20240607
CHUNK = 1 << 14


@dataclass(frozen=True, slots=True)
class Cells:
    """Two levels of centers.

    Attributes:
        top: (G, d) float32.
        starts: (G + 1,) int64, which centers belong to each.
        centers: (C, d) float32, unit length; C is at most 65,536.
    """

    top: NDArray[np.float32]
    starts: NDArray[np.int64]
    centers: NDArray[np.float32]

    @classmethod
    def train(cls, sample: Callable[[NDArray[np.int64]], NDArray[np.float32]], size: int, count: int) -> Cells:
        """Learn about ``count`` cells from unit vectors; the same vectors give the same cells.

        Args:
            sample: returns those vectors of the sample, (n, d), that stand at n positions. It is never asked for many
                at once, so that memory does not grow with the sample.
            size: how many vectors there are.
            count: cells.
        """
        if not size:
            nowhere = np.zeros((1, sample(np.arange(0)).shape[1]), np.float32)
            return cls(nowhere, np.array([0, 1], np.int64), nowhere)
        count = max(1, min(count, size, MOST))
        groups = max(1, round(np.sqrt(count)))
        top = _kmeans(sample(spread(size, groups * TOP_SAMPLE)), groups)
        owner = np.empty(size, np.uint32)
        flat = np.arange(2, dtype=np.int64) * len(top)
        root = np.zeros((1, top.shape[1]), np.float32)
        for at in range(0, size, CHUNK):
            some = np.arange(at, min(at + CHUNK, size))
            kernels.assign(sample(some), root, flat, top, 1, owner[at : at + CHUNK])
        sizes = np.bincount(owner, minlength=len(top))
        wanted = np.maximum(1, np.floor(sizes / size * count).astype(np.int64))
        parts = []
        for g, few in enumerate(wanted.tolist()):
            own = np.flatnonzero(owner == g)
            parts.append(_kmeans(sample(own), min(few, len(own))) if few > 1 and len(own) > 1 else top[g : g + 1])
        starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
        return cls(top, starts, np.concatenate(parts)[:MOST])

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the cell of each vector, (T,)."""
        cells = np.empty(len(vectors), np.uint32)

        def work(part: slice) -> None:
            kernels.assign(vectors[part], self.top, self.starts, self.centers, min(PROBES, len(self.top)), cells[part])

        share([slice(at, at + CHUNK) for at in range(0, len(vectors), CHUNK)], work)
        return cells.astype(np.uint16)


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Return ``count`` positions among ``total``, or all: one drawn from each of as many equal parts, in order."""
    if count >= total:
        return np.arange(total)
    return ((np.arange(count) + np.random.default_rng(SEED).random(count)) * (total / count)).astype(np.int64)


def _kmeans(sample: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return ``count`` unit centers of unit vectors."""
    if count >= len(sample):
        return sample
    means = faiss.Kmeans(
        sample.shape[1], count, niter=ROUNDS, seed=SEED, spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=len(sample),
    )  # fmt: skip
    means.train(sample)
    return np.asarray(means.centroids, np.float32).reshape(count, -1)
