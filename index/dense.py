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

from index.ragged import Ragged
from index.ranking import NOTHING, Ranked, Rows, Scores, settle
from index.vectors import VectorRows, groups

# FAISS sums in float32, in an order that depends on the number of queries and on filters: the cosine of the same two
# vectors varies by up to 3e-7. What is closer than this to the k-th score is scored anew in float64.
SLACK = 4e-6
# How much deeper than k the first search goes, so that a second one is rarely needed.
SPARE = 16
BLOCK = 16384


class DenseView:
    """Cosine search over one snapshot."""

    def __init__(self, rows: VectorRows) -> None:
        """Take the rows of the view. A vector of zeros is an empty text, and nowhere."""
        filled = [np.any(part.values, axis=1) for part in rows.parts if isinstance(part, Ragged)]
        self._rows = rows
        self._live = np.flatnonzero(rows.live & np.concatenate([np.empty(0, np.bool_), *filled]))
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
            selector = None if within is None else np.flatnonzero(np.isin(self._live, allowed, assume_unique=True))
            for i, ranked in zip(wanted, self._rank(index, ready[wanted], k, selector), strict=True):
                found[i] = ranked
        return found

    def _index(self, neutral: bool) -> Any:  # noqa: ANN401  (faiss has no types)
        neutral = neutral and self._rows.centroids.neutral
        with self._lock:
            if neutral not in self._indexes:
                index = None
                for _, block in self._rows.blocks(self._live, BLOCK, neutral=neutral):
                    if index is None:
                        index = faiss.IndexFlatIP(block.values.shape[1])
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
        """Search, and search deeper while what lies beyond may belong among the best."""
        total = len(self._live) if selector is None else len(selector)
        if total == 0 or len(queries) == 0 or k <= 0:
            return [NOTHING] * len(queries)
        parameters = None
        if selector is not None:
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBatch(selector))  # type: ignore[call-arg]
        depth = min(k + SPARE, total)
        while True:
            scores, positions = index.search(queries, depth, params=parameters)
            if depth == total or np.all(scores[:, -1] < scores[:, k - 1] - SLACK):
                break
            depth = min(depth * 4, total)
        return [self._settle(index, *found, k=k) for found in zip(queries, positions, scores, strict=True)]

    def _settle(
        self,
        index: Any,  # noqa: ANN401
        query: Scores,
        positions: NDArray[np.int64],
        scores: Scores,
        *,
        k: int,
    ) -> Ranked:
        order = np.argsort(positions)

        def exact(rows: Rows) -> Scores:
            vectors = index.reconstruct_batch(np.searchsorted(self._live, rows)).astype(np.float64)
            return np.asarray(vectors @ query.astype(np.float64), np.float32)

        rows = self._live[positions[order]]
        return settle(rows, scores[order], k, slack=SLACK, exact=exact, id_order=self._rows.id_order)
