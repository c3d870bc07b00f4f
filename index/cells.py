"""Cells: token space cut into regions, so that a search looks only where the query is.

A two-level k-means: the centers of the top level each own some of the cells, so that a token is compared with some
hundred centers and not with all of them, whatever their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from index import kernels
from index.parallel import share

# Cells for T tokens: CELLS * sqrt(T), so that the work for comparing with all of them and for reading some grows alike.
CELLS = 5.5
# Vectors that a cell is learned from.
SAMPLE = 40
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
    def train(cls, sample: NDArray[np.float32], count: int) -> Cells:
        """Learn about ``count`` cells from unit vectors (m, d); the same vectors give the same cells."""
        if not len(sample):
            nowhere = np.zeros((1, sample.shape[1]), np.float32)
            return cls(nowhere, np.array([0, 1], np.int64), nowhere)
        count = max(1, min(count, len(sample), MOST))
        top = _kmeans(sample, max(1, round(np.sqrt(count))))
        owner = np.empty(len(sample), np.uint32)
        flat = np.arange(2, dtype=np.int64) * len(top)
        kernels.assign(sample, np.zeros((1, sample.shape[1]), np.float32), flat, top, 1, owner)
        sizes = np.bincount(owner, minlength=len(top))
        wanted = np.maximum(1, np.floor(sizes / len(sample) * count).astype(np.int64))
        parts = []
        for g, few in enumerate(wanted.tolist()):
            own = sample[owner == g]
            parts.append(_kmeans(own, min(few, len(own))) if few > 1 and len(own) > 1 else top[g : g + 1])
        starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
        return cls(top, starts, np.concatenate(parts)[:MOST])

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the cell of each vector, (T,)."""
        cells = np.empty(len(vectors), np.uint32)

        def work(part: slice) -> None:
            kernels.assign(vectors[part], self.top, self.starts, self.centers, min(PROBES, len(self.top)), cells[part])

        share([slice(at, at + CHUNK) for at in range(0, len(vectors), CHUNK)], work)
        return cells.astype(np.uint16)


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
