"""Retrievers: one for each view, fusion by standard scores, means over translations, and a cascade.

All are searched in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.records import Hit, Query, check_string
from index.analysis import query_terms
from index.bm25 import Bm25Parameters
from index.levels import DEPTH as LEVELLED
from index.levels import Levels
from index.ranking import Ranked, Rows, best
from index.segment import Vectors
from index.snapshot import Snapshot

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
    """Weighted means of standard scores: how many deviations a candidate lies above the mean, in each view.

    Candidates are what any ranker has among its best. Every ranker scores what is among anybody's best 100, and the
    mean and the deviation are those of the same, so that k hardly matters to them:

        score(d) = sum over rankers of weight * (own score of d - mean) / deviation,  over the sum of weights

    What a ranker does not score has the least score that it found, or 0 at most where it found all that it could: no
    shared word, no text.
    """

    sources: Sources
    parts: Sequence[tuple[Ranker, float]]

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        """Rank what any part finds among its best ``max(k, 100)``."""
        depth = max(k, DEPTH)
        found = [ranker.rank(queries, depth, within) for ranker, _ in self.parts]
        each = range(len(queries))
        candidates = [np.unique(np.concatenate([one[i].rows for one in found])) for i in each]
        first = [np.unique(np.concatenate([one[i].rows[:DEPTH] for one in found])) for i in each]
        totals = [np.zeros(len(rows)) for rows in candidates]
        for (ranker, weight), one in zip(self.parts, found, strict=True):
            scored = _scored(ranker, queries, one, first, depth)
            for i in each:
                least = _least(one[i], depth)
                totals[i] += weight * _standard(candidates[i], [one[i], scored[i]], first[i], least)
        weights, order = sum(weight for _, weight in self.parts), self.sources.snapshot.id_order
        return [
            best(rows, (total / weights).astype(np.float32), k, id_order=order)
            for rows, total in zip(candidates, totals, strict=True)
        ]


def _scored(
    ranker: Ranker, queries: Sequence[Query], found: Sequence[Ranked], first: Sequence[Rows], depth: int
) -> list[Ranked]:
    """Return what a ranker makes of rows; one that found fewer than ``depth`` has nothing for those it did not find.

    It is asked about all of them, not only about the others, so that equal texts have equal scores.
    """
    scored = list(found)
    asked = [
        i
        for i, ranked in enumerate(found)
        if len(ranked.rows) == depth and not np.isin(first[i], ranked.rows, assume_unique=True).all()
    ]
    if asked:
        again = ranker.rank([queries[i] for i in asked], max(len(first[i]) for i in asked), [first[i] for i in asked])
        for i, ranked in zip(asked, again, strict=True):
            scored[i] = ranked
    return scored


def _least(found: Ranked, depth: int) -> float:
    """Return the score of what a ranker does not score."""
    least = float(found.scores[-1]) if len(found.rows) else 0.0
    return least if len(found.rows) == depth else min(0.0, least)


def _standard(rows: Rows, scored: Sequence[Ranked], first: Rows, least: float) -> NDArray[np.float64]:
    """Return the standard scores of candidates, (m,), by those in ``first``; 0 for all where those do not differ."""
    scores = np.full(len(rows), least)
    for ranked in scored:
        scores[np.searchsorted(rows, ranked.rows)] = ranked.scores
    usual = scores[np.searchsorted(rows, first)]
    deviation = usual.std() if len(usual) else 0.0
    if not deviation:  # float32 scores that are equal have exactly that mean in float64
        return np.zeros(len(rows))
    return np.asarray((scores - usual.mean()) / deviation)


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
