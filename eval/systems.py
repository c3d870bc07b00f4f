"""The systems that `polyseek eval` knows: those of the engine, and the reference BM25 of the rank_bm25 package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rank_bm25 import BM25Okapi

from data.errors import UsageError
from data.records import Hit, Query
from index.analysis import query_terms, terms
from index.ranking import Rows, best
from index.snapshot import Snapshot
from retriever.engine import Engine
from retriever.retrievers import Retriever

RANK_BM25 = "rank-bm25"
SYSTEMS: dict[str, tuple[str, ...]] = {
    "hybrid": ("bm25", "dense", "late"),
    "cascade": ("bm25", "dense", "late"),
    "dense": ("dense",),
    "late": ("late",),
    "bm25": ("bm25",),
    RANK_BM25: (),
}
"""Every system with the views that it needs."""
BIASED = "/no-neutral"
"""What follows a system's name where it shall rank without language-neutral ranking."""


def views_of(systems: Sequence[str]) -> tuple[str, ...]:
    """Return the views that a collection needs for all of ``systems``: at least one, the cheapest if none is needed.

    Raises:
        UsageError: no system, or an unknown one.
    """
    unknown = [name for name in systems if name.removesuffix(BIASED) not in SYSTEMS]
    if unknown or not systems:
        given = repr(unknown[0]) if unknown else "nothing"
        raise UsageError(f"cannot evaluate {given}: choose among {', '.join(SYSTEMS)}, each with {BIASED} or without")
    needed = {view for name in systems for view in SYSTEMS[name.removesuffix(BIASED)]} or {"bm25"}
    return tuple(view for view in SYSTEMS["hybrid"] if view in needed)


def open_system(engine: Engine, name: str, *, neutral: bool) -> Retriever:
    """Return the retriever behind the name of a system.

    Args:
        engine: the opened collection.
        name: a key of :data:`SYSTEMS`, and :data:`BIASED` after it or not.
        neutral: whether ranking is language-neutral, where the system knows such a thing.
    """
    neutral, name = neutral and not name.endswith(BIASED), name.removesuffix(BIASED)
    return RankBm25(engine.snapshot) if name == RANK_BM25 else engine.retriever(name, neutral=neutral)


def file_name(system: str) -> str:
    """Return the name of a system as a part of a file's."""
    return system.replace("/", ".")


@dataclass(frozen=True, slots=True)
class WithoutSelf:
    """A retriever that does not find the document with the query's own id."""

    retriever: Retriever

    def search(
        self, queries: Sequence[str | Query], k: int, *, within: Sequence[Rows] | None = None
    ) -> list[list[Hit]]:
        """Search for one more, as :meth:`retriever.retrievers.Retriever.search` does, and leave that document out."""
        found = self.retriever.search(queries, k + 1, within=within)
        own = [query.id if isinstance(query, Query) else "" for query in queries]
        return [[hit for hit in hits if hit.id != x][:k] for hits, x in zip(found, own, strict=True)]


class RankBm25:
    """BM25 as ``rank_bm25.BM25Okapi`` computes it, k1 = 0.9 and b = 0.4, over our terms: a yardstick, not a product.

    It holds the corpus in memory and looks at every document for every term. Its idf is Robertson's, where terms of
    more than half of the documents get a quarter of the mean idf. Documents that score 0 or less are no hits.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        """Analyse all live documents of a snapshot, each in its language."""
        self._rows = np.flatnonzero(snapshot.live)
        self._spoken = tuple(snapshot.language_counts)
        self._ids = snapshot.ids(self._rows)
        by_id = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        self._id_order = np.empty(len(by_id), np.int64)
        self._id_order[by_id] = np.arange(len(by_id))
        corpus = [terms(snapshot.document(row).content(), snapshot.language(row)) for row in self._rows.tolist()]
        # rank_bm25 divides by the number of documents and of terms.
        self._model = BM25Okapi(corpus, k1=0.9, b=0.4) if any(corpus) else None

    def search(
        self, queries: Sequence[str | Query], k: int, *, within: Sequence[Rows] | None = None
    ) -> list[list[Hit]]:
        """Return the best ``k`` documents of each query that share a term with it.

        Args:
            queries: texts, or queries with their ``lang``; they are analysed in it and in the collection's languages.
            k: hits per query at most.
            within: the rows that may be found, sorted, one array per query; None for all.
        """
        allowed = [None] * len(queries) if within is None else within
        return [self._search(query, k, rows) for query, rows in zip(queries, allowed, strict=True)]

    def _search(self, query: str | Query, k: int, within: Rows | None) -> list[Hit]:
        if self._model is None:
            return []
        query = query if isinstance(query, Query) else Query(query)
        searched = query_terms(query.text, (query.lang, *self._spoken))
        scores = np.asarray(self._model.get_scores(searched), np.float32)
        mask = scores > 0 if within is None else (scores > 0) & np.isin(self._rows, within)
        found = np.flatnonzero(mask)
        ranked = best(found, scores[found], k, id_order=self._id_order)
        return [Hit(self._ids[i], float(s)) for i, s in zip(ranked.rows, ranked.scores, strict=True)]
