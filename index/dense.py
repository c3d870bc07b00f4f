"""The dense view: cosine similarity of one vector a text, exact, in a FAISS flat index.

The index is made when the first query comes, of the live rows as they are ranked: 61k rows of 384 dims take 94 MB
and 0.1 s. One is made for each position of the language-neutral switch that is used.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.ranking import NOTHING, Ranked, Rows, best
from index.vectors import VectorRows, groups

# Cosines closer than float32 sums over some hundred dims can tell are ties.
DECIMALS = 6
BLOCK = 16384


class DenseView:
    """Cosine search over one snapshot."""

    def __init__(self, rows: VectorRows) -> None:
        """Take the rows of the view; nothing is read yet."""
        self._rows = rows
        self._live = np.flatnonzero(rows.live)
        self._indexes: dict[bool, Any] = {}
        self._lock = threading.Lock()

    def search(
        self,
        queries: NDArray[np.float32],
        languages: Sequence[str],
        k: int,
        *,
        neutral: bool,
        within: Sequence[Rows] | None = None,
    ) -> list[Ranked]:
        """Return the best rows of every query.

        Args:
            queries: (n, d) unit vectors; a row of zeros (an empty query) finds nothing.
            languages: n codes, "" for unknown; they matter where ``neutral`` is set.
            k: at most so many rows each.
            neutral: language-neutral ranking.
            within: the rows allowed for each query, sorted; None for all.

        Returns:
            n rankings; scores are cosines, from -1 to 1.
        """
        found = [NOTHING] * len(queries)
        asked = np.any(queries != 0, axis=1)
        ready = self._rows.queries(queries, languages, neutral=neutral)
        if not len(self._live):
            return found
        index = self._index(neutral)
        for members, allowed in groups(within, len(queries), self._rows.live):
            wanted = np.array([i for i in members if asked[i]], np.int64)
            positions = np.searchsorted(self._live, allowed)
            selector = None if within is None else positions
            for i, ranked in zip(wanted, self._rank(index, ready[wanted], k, selector), strict=True):
                found[i] = ranked
        return found

    def _index(self, neutral: bool) -> Any:  # noqa: ANN401  (faiss has no types)
        neutral = neutral and self._rows.centroids.neutral
        with self._lock:
            if neutral not in self._indexes:
                index = None
                for _, block in self._rows.blocks(self._live, BLOCK, neutral=neutral):
                    index = index or faiss.IndexFlatIP(block.values.shape[1])
                    index.add(block.values)
                self._indexes[neutral] = index
            return self._indexes[neutral]

    def _rank(
        self,
        index: Any,  # noqa: ANN401
        queries: NDArray[np.float32],
        k: int,
        selector: NDArray[np.int64] | None,
    ) -> list[Ranked]:
        """Search, and search deeper while the k-th score is tied with what lies beyond."""
        total = len(self._live) if selector is None else len(selector)
        if total == 0 or len(queries) == 0 or k <= 0:
            return [NOTHING] * len(queries)
        parameters = None
        if selector is not None:
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBatch(selector))  # type: ignore[call-arg]
        depth = min(k + 16, total)
        while True:
            scores, positions = index.search(queries, depth, params=parameters)
            scores = np.round(scores, DECIMALS)
            if depth == total or not np.any(scores[:, min(k, depth) - 1] == scores[:, -1]):
                break
            depth = min(depth * 4, total)
        return [
            best(self._live[p[p >= 0]], s[p >= 0], k, id_order=self._rows.id_order)
            for s, p in zip(scores, positions, strict=True)
        ]
