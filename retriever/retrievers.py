"""Retrievers: one for each view, fusion by reciprocal ranks, means over translations, and a cascade.

All are searched in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np

from data.records import Hit, Query, check_string
from index.analysis import query_terms
from index.bm25 import Bm25Parameters
from index.levels import DEPTH as LEVELLED
from index.levels import Levels
from index.ranking import Ranked, Rows, best
from index.segment import Vectors
from index.snapshot import Snapshot

# Reciprocal-rank fusion's constant, from Cormack et al. 2009, "Reciprocal Rank Fusion outperforms Condorcet".
RRF = 60
# How deep the parts of a fusion or the first stage of a cascade look, at least.
DEPTH = 100


class QueryEncoder(Protocol):
    """The part of an encoder that a search needs."""

    def encode_queries(self, texts: Sequence[str], languages: Sequence[str]) -> Vectors:
        """Encode queries in their languages, whole."""
        ...


class Retriever(Protocol):
    """Anything that answers queries. Filtering and re-ranking are the same argument, ``within``."""

    def search(
        self, queries: Sequence[str | Query], k: int, *, within: Sequence[Rows] | None = None
    ) -> list[list[Hit]]:
        """Return at most ``k`` hits for each query, best first; ties go to the greater id.

        Args:
            queries: texts, or queries that may name their language.
            k: how many hits at most.
            within: the rows that may be found, sorted, one array for each query; None for all.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """What every retriever of one collection shares.

    Attributes:
        snapshot: the state that is searched.
        encoder: None for a collection without vectors.
        identify: texts -> language codes.
    """

    snapshot: Snapshot
    encoder: QueryEncoder | None
    identify: Callable[[Sequence[str]], list[str]]

    def queries(self, queries: Sequence[str | Query]) -> list[Query]:
        """Return queries with their languages, given or identified.

        Raises:
            InputError: a query that is no string, or one that UTF-8 cannot hold.
        """
        asked = [q if isinstance(q, Query) else Query(q) for q in queries]
        for q in asked:
            check_string(q.text, "a query")
        found = iter(self.identify([q.text for q in asked if not q.lang]))
        return [q if q.lang else q._replace(lang=next(found)) for q in asked]

    def vectors(self, queries: Sequence[Query]) -> Vectors:
        """Encode queries."""
        if self.encoder is None:
            raise ValueError("a collection without vectors has no encoder")
        return self.encoder.encode_queries([q.text for q in queries], [q.lang for q in queries])

    def hits(self, ranked: Sequence[Ranked]) -> list[list[Hit]]:
        """Name the rows of each ranking; an id is read once, however many rankings it stands in.

        Half a million hits may be made at a time, so without a call of Python for each.
        """
        rows, places = np.unique(np.concatenate([r.rows for r in ranked]), return_inverse=True)
        ids = np.array(self.snapshot.ids(rows), dtype=object)[places]
        ends = np.cumsum([len(r.rows) for r in ranked])[:-1]
        pairs = (zip(x, r.scores.tolist(), strict=True) for x, r in zip(np.split(ids, ends), ranked, strict=True))
        return [list(map(tuple.__new__, repeat(Hit), of_one)) for of_one in pairs]


class Ranker(Protocol):
    """A retriever before rows have become ids; fusion and cascades work on these."""

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Return at most ``k`` rows for each query that has a language."""
        ...


@dataclass(frozen=True, slots=True)
class Bm25Ranker:
    """BM25 over the terms of the query, analysed in its own language and those of the collection."""

    sources: Sources
    parameters: Bm25Parameters = Bm25Parameters()  # noqa: RUF009  (frozen)

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank the documents that share a term with the query."""
        spoken = self.sources.snapshot.language_counts
        analysed = [query_terms(q.text, (q.lang, *spoken)) for q in queries]
        return self.sources.snapshot.bm25.search(analysed, k, parameters=self.parameters, within=within)


@dataclass(frozen=True, slots=True)
class DenseRanker:
    """Cosine of one vector a text."""

    sources: Sources
    neutral: bool = True

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank all documents."""
        vectors = self.sources.vectors(queries).dense
        if vectors is None:
            raise ValueError("this encoder makes no dense vectors")
        view, languages = self.sources.snapshot.dense, [q.lang for q in queries]
        levels = view.levels if self.neutral else None
        found = view.search(vectors, languages, _deep(k, levels), neutral=self.neutral, within=within)
        return _lowered(found, levels, languages, [1] * len(queries), k)


@dataclass(frozen=True, slots=True)
class LateRanker:
    """MaxSim over token vectors."""

    sources: Sources
    neutral: bool = True

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank all documents."""
        vectors = self.sources.vectors(queries).late
        if vectors is None:
            raise ValueError("this encoder makes no token vectors")
        view, languages = self.sources.snapshot.late, [q.lang for q in queries]
        levels = view.levels if self.neutral else None
        found = view.search(vectors, languages, _deep(k, levels), neutral=self.neutral, within=within)
        return _lowered(found, levels, languages, np.diff(vectors.offsets).tolist(), k)


def _deep(k: int, levels: Levels | None) -> int:
    """Return how deep to look, so that what levels bring forward is among the best ``k``."""
    return k if levels is None or k <= 0 else max(k, LEVELLED)


def _lowered(
    found: list[Ranked], levels: Levels | None, languages: Sequence[str], tokens: Sequence[int], k: int
) -> list[Ranked]:
    """Rank anew what a view found, with the levels of languages gone."""
    if levels is None:
        return found
    return [levels.lower(*one, k) for one in zip(found, languages, tokens, strict=True)]


@dataclass(frozen=True, slots=True)
class Fusion:
    """Weighted reciprocal-rank fusion: score(d) = sum over rankers of weight / (60 + rank of d)."""

    sources: Sources
    parts: Sequence[tuple[Ranker, float]]

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank what any part finds among its best ``max(k, 100)``."""
        depth = max(k, DEPTH)
        found = [(ranker.rank(queries, depth, within), weight) for ranker, weight in self.parts]
        return [self._fuse([(ranked[i], weight) for ranked, weight in found], k) for i in range(len(queries))]

    def _fuse(self, rankings: Sequence[tuple[Ranked, float]], k: int) -> Ranked:
        rows = np.concatenate([ranked.rows for ranked, _ in rankings])
        gains = np.concatenate([w / (RRF + 1 + np.arange(len(ranked.rows))) for ranked, w in rankings])
        unique, places = np.unique(rows, return_inverse=True)
        scores = np.bincount(places, weights=gains, minlength=len(unique)).astype(np.float32)
        return best(unique, scores, k, id_order=self.sources.snapshot.id_order)


@dataclass(frozen=True, slots=True)
class Regularized:
    """The best of another ranker, scores averaged over translations, see `index.regularization`."""

    sources: Sources
    ranker: Ranker

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank its best 100 anew; what it finds beyond stays as it is."""
        view, found = self.sources.snapshot.dense, self.ranker.rank(queries, max(k, DEPTH), within)
        return [view.regularize(ranked, DEPTH, k) for ranked in found]


@dataclass(frozen=True, slots=True)
class Cascade:
    """A first stage, then another ranker within what it found.

    Attributes:
        first, second: the stages.
        depth: how many the first hands on; None for 100, or k where that is more.
    """

    first: Ranker
    second: Ranker
    depth: int | None = None

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank the first stage's best anew."""
        depth = self.depth or max(k, DEPTH)
        candidates = [np.sort(ranked.rows) for ranked in self.first.rank(queries, depth, within)]
        return self.second.rank(queries, k, candidates)


@dataclass(frozen=True, slots=True)
class Search:
    """The one retriever: a ranker between queries with languages and hits with ids."""

    sources: Sources
    ranker: Ranker

    def search(
        self, queries: Sequence[str | Query], k: int, *, within: Sequence[Rows] | None = None
    ) -> list[list[Hit]]:
        """Answer queries, see :meth:`Retriever.search`; a blank query finds nothing."""
        if within is not None and len(within) != len(queries):
            raise ValueError(f"{len(queries)} queries but {len(within)} filters")
        known = self.sources.queries(queries)
        asked = [i for i, q in enumerate(known) if q.text.strip()]
        found: list[list[Hit]] = [[] for _ in known]
        if not asked or k <= 0 or not len(self.sources.snapshot):
            return found
        allowed = None if within is None else [within[i] for i in asked]
        ranked = self.ranker.rank([known[i] for i in asked], min(k, len(self.sources.snapshot)), allowed)
        for i, hits in zip(asked, self.sources.hits(ranked), strict=True):
            found[i] = hits
        return found
