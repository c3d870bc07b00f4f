"""The dense view: cosine similarity of one vector a text.

Large segments have an inverted file that finds candidates (`index.inverted`); the rest is compared whole, in a FAISS
flat index that is made when the first query comes, of the live rows as they are ranked: 61k rows of 384 dims take 94 MB
and 0.1 s. One is made for each position of the language-neutral switch that is used. All scores are exact.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise, repeat
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.inverted import InvertedFile
from index.levels import Levels
from index.ranking import NOTHING, Ranked, Rows, Scores, best, settle
from index.regularization import regularize
from index.vectors import VectorRows, groups

# FAISS sums in float32, in an order that depends on the number of queries and on filters: the cosine of the same two
# vectors varies by up to 3e-7. What is closer than this to the k-th score is scored anew in float64.
SLACK = 4e-6
# How much deeper than k the first search goes, so that a second one is rarely needed.
SPARE = 16
BLOCK = 16384
# How far the offset of a language may have moved, in parts of a unit vector, since an inverted file was written.
NEAR = 0.1
# Candidates of an inverted file beyond k, and for each of the k: bytes put some of the best behind others.
MORE, PART = 20, 4
# Of so few allowed rows no candidates are sought.
FEW = 2048
# Hits that are held at a time, over all queries.
HELD = 1 << 20


class DenseView:
    """Cosine search over one snapshot."""

    def __init__(self, rows: VectorRows, inverted: Sequence[InvertedFile | None]) -> None:
        """Take the rows of the view, and the inverted files of their segments.

        A vector of zeros is an empty text, and nowhere.
        """
        self._rows = rows
        self._bases = np.cumsum([0, *map(len, rows.parts)]).tolist()
        self._inverted = inverted
        self._flat: dict[bool, tuple[_Flat, list[NDArray[np.bool_] | None]]] = {}
        self._lock = threading.Lock()

    @cached_property
    def levels(self) -> Levels | None:
        """What scores lose beyond the centroids; None in a collection of one language."""
        return Levels.measure(self._rows, lambda a, b: np.asarray(a.values @ b.values.T, np.float32))

    def regularize(self, ranked: Ranked, depth: int, k: int) -> Ranked:
        """Return the ``k`` best after the first ``depth`` hits were averaged with their translations.

        In a collection of one language those are the hits as they came. What is deeper stays below.
        """
        rows = ranked.rows[:depth]
        if not self._rows.centroids.neutral or not len(rows):
            return Ranked(ranked.rows[:k], ranked.scores[:k])
        order = np.argsort(rows)
        vectors = np.empty((len(rows), self._rows.parts[0].dims), np.float32)
        vectors[order] = self._rows.centred(rows[order]).values
        known = np.array([bool(language) for language in self._rows.languages])
        codes = self._rows.codes[rows]
        scores = regularize(
            ranked.scores[:depth], vectors, np.where(known[codes], codes, -1), self._rows.centroids.alpha
        )
        first = best(rows, scores, k, id_order=self._rows.id_order)
        rest = slice(depth, max(k, depth))
        return Ranked(
            np.concatenate([first.rows, ranked.rows[rest]]), np.concatenate([first.scores, ranked.scores[rest]])
        )

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
        removed = neutral and self._rows.centroids.neutral
        flat, served = self._ready(removed)
        at_once = max(1, HELD // max(k, 1))
        for members, allowed in self._groups(within, len(queries)):
            wanted = np.array([i for i in members if asked[i] and k > 0], np.int64)
            for start in range(0, len(wanted), at_once):
                some = wanted[start : start + at_once]
                rankings = flat.search(ready[some], k, allowed)
                if any(mask is not None for mask in served):
                    rankings = self._join(rankings, ready[some], k, allowed, removed, served)
                for i, ranked in zip(some, rankings, strict=True):
                    found[i] = ranked
        return found

    def _groups(self, within: Sequence[Rows] | None, queries: int) -> Iterable[tuple[Sequence[int], Rows | None]]:
        return [(range(queries), None)] if within is None else groups(within, queries, self._rows.live)

    def _ready(self, removed: bool) -> tuple[_Flat, list[NDArray[np.bool_] | None]]:
        """Return the flat index, and which rows of each segment its inverted file serves, None where it has none."""
        with self._lock:
            if removed not in self._flat:
                live, spans = self._rows.live, list(pairwise(self._bases))
                served = [self._serves(i, removed) for i in range(len(spans))]
                rest = [
                    np.flatnonzero(live[a:b] if mask is None else live[a:b] & ~mask) + a
                    for (a, b), mask in zip(spans, served, strict=True)
                ]
                rows = np.concatenate([np.empty(0, np.int64), *rest])
                self._flat[removed] = _Flat(self._rows, rows, removed), served
            return self._flat[removed]

    def _serves(self, segment: int, removed: bool) -> NDArray[np.bool_] | None:
        """Return which live rows lie about where they lay when the segment's inverted file was written."""
        file, here = self._inverted[segment], slice(self._bases[segment], self._bases[segment + 1])
        if file is None:
            return None
        then = dict(zip(file.languages, file.frame, strict=True))
        near = [
            name in then and np.linalg.norm(then[name] - (self._rows.centroids.offset(name) if removed else 0)) <= NEAR
            for name in self._rows.languages
        ]
        return self._rows.live[here] & np.array(near, np.bool_)[self._rows.codes[here]]

    def _join(
        self,
        rankings: Sequence[Ranked],
        queries: NDArray[np.float32],
        k: int,
        allowed: Rows | None,
        removed: bool,
        served: Sequence[NDArray[np.bool_] | None],
    ) -> list[Ranked]:
        """Return the best of what is found in the flat index and in inverted files.

        Where all that a file nominated ties with the k-th, it nominates more: the ids decide which of equal texts are
        the best.
        """
        most = k + max(MORE, k // PART)
        while True:
            nominated = [[ranked.rows] for ranked in rankings]
            for i, mask in enumerate(served):
                if mask is not None:
                    for own, near in zip(nominated, self._near(i, mask, queries, most, allowed), strict=True):
                        own.append(near)
            rows = [np.concatenate(own) for own in nominated]
            scores = self._exact(queries, rows, removed)
            joined = [best(*pair, k, id_order=self._rows.id_order) for pair in zip(rows, scores, strict=True)]
            if not any(map(_cut_in_ties, nominated, scores, joined, repeat(most))):
                return joined
            most *= 4

    def _near(
        self, segment: int, mask: NDArray[np.bool_], queries: NDArray[np.float32], most: int, allowed: Rows | None
    ) -> list[Rows]:
        """Return those of the rows in ``mask`` that a segment's inverted file holds to be nearest to each query."""
        file, base, end = self._inverted[segment], self._bases[segment], self._bases[segment + 1]
        if allowed is not None:
            inside = allowed[np.searchsorted(allowed, base) : np.searchsorted(allowed, end)] - base
            inside = inside[mask[inside]]
            if len(inside) <= FEW:
                part = self._rows.parts[segment].take(inside)
                return [inside[np.any(part.values, axis=1)] + base] * len(queries)
            mask = np.zeros(end - base, np.bool_)
            mask[inside] = True
        found = [] if file is None else file.search(queries, most, None if mask.all() else mask)
        return [rows + base for rows in found]

    def _exact(self, queries: NDArray[np.float32], nominated: Sequence[Rows], removed: bool) -> list[Scores]:
        """Score the rows nominated for each query in float64; every vector is read once."""
        ends = np.cumsum([0, *map(len, nominated)])
        rows = np.concatenate(nominated)
        owner = np.repeat(np.arange(len(queries)), np.diff(ends))
        order = np.argsort(rows, kind="stable")
        rows, owner = rows[order], owner[order]
        scores = np.empty(len(rows), np.float32)
        for some, block in self._rows.blocks(np.unique(rows), BLOCK, neutral=removed):
            first, last = np.searchsorted(rows, some[0]), np.searchsorted(rows, some[-1], side="right")
            for start in range(first, last, BLOCK):
                here = slice(start, min(start + BLOCK, last))
                vectors = block.values[np.searchsorted(some, rows[here])].astype(np.float64)
                scores[order[here]] = np.einsum("ij,ij->i", vectors, queries[owner[here]].astype(np.float64))
        return np.split(scores, ends[1:-1])


def _cut_in_ties(nominated: Sequence[Rows], scores: Scores, ranked: Ranked, most: int) -> bool:
    """Return whether a file nominated as many as it should and even the worst of them ties with the last that is kept.

    Args:
        nominated: the rows of one query, those of the flat index first, then those of each file.
        scores: of all of them.
        ranked: the best of them.
        most: how many were asked of each file.
    """
    parts = np.split(scores, np.cumsum([len(rows) for rows in nominated]))[1:]
    return any(len(part) == most and part.min() >= ranked.scores[-1] - SLACK for part in parts)


class _Flat:
    """Rows whose vectors are compared whole."""

    def __init__(self, rows: VectorRows, live: Rows, removed: bool) -> None:
        """Read the vectors of ``live``, with or without their languages' offsets."""
        self._id_order = rows.id_order
        filled = [some[block.values.any(axis=1)] for some, block in rows.blocks(live, BLOCK, neutral=False)]
        self._live = np.concatenate([np.empty(0, np.int64), *filled])
        self._index: Any = None
        for _, block in rows.blocks(self._live, BLOCK, neutral=removed):
            self._index = self._index or faiss.IndexFlatIP(block.values.shape[1])
            self._index.add(block.values)

    def search(self, queries: NDArray[np.float32], k: int, allowed: Rows | None) -> list[Ranked]:
        """Return the best rows for every query; search deeper while what lies beyond may belong among them."""
        selector = None if allowed is None else np.flatnonzero(np.isin(self._live, allowed, assume_unique=True))
        total = len(self._live) if selector is None else len(selector)
        if total == 0 or len(queries) == 0:
            return [NOTHING] * len(queries)
        parameters = None
        if selector is not None:
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBatch(selector))  # type: ignore[call-arg]
        depth = min(k + SPARE, total)
        while True:
            scores, positions = self._index.search(queries, depth, params=parameters)
            if depth == total or np.all(scores[:, -1] < scores[:, k - 1] - SLACK):
                break
            depth = min(depth * 4, total)
        return [self._settle(*found, k=k) for found in zip(queries, positions, scores, strict=True)]

    def _settle(self, query: Scores, positions: NDArray[np.int64], scores: Scores, *, k: int) -> Ranked:
        order = np.argsort(positions)

        def exact(rows: Rows) -> Scores:
            vectors = self._index.reconstruct_batch(np.searchsorted(self._live, rows)).astype(np.float64)
            return np.asarray(vectors @ query.astype(np.float64), np.float32)

        rows = self._live[positions[order]]
        return settle(rows, scores[order], k, slack=SLACK, exact=exact, id_order=self._id_order)
