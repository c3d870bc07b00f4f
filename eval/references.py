"""BM25 as other packages compute it, over Polyseek's terms: what its own is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from data.errors import UsageError
from data.records import Hit, Query
from index.analysis import query_terms, terms
from index.bm25 import Bm25Parameters
from index.ranking import Rows, best
from index.snapshot import Snapshot

K1, B = Bm25Parameters().k1, Bm25Parameters().b

Terms: TypeAlias = Sequence[Sequence[str]]
# From the terms of a query to the score of every document.
Score: TypeAlias = Callable[[Sequence[str]], NDArray[Any]]


class RankBm25:
    """BM25 as ``rank_bm25.BM25Okapi`` computes it, over our terms: a yardstick, not a product.

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
        # Both packages divide by the number of documents and of terms.
        self._scores = self._fit(corpus) if any(corpus) else None

    def _fit(self, corpus: Terms) -> Score:
        return cast("Score", BM25Okapi(corpus, k1=K1, b=B).get_scores)

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
        if self._scores is None:
            return []
        query = query if isinstance(query, Query) else Query(query)
        searched = query_terms(query.text, (query.lang, *self._spoken))
        scores = np.asarray(self._scores(searched), np.float32)
        mask = scores > 0 if within is None else (scores > 0) & np.isin(self._rows, within)
        found = np.flatnonzero(mask)
        ranked = best(found, scores[found], k, id_order=self._id_order)
        return [Hit(self._ids[i], float(s)) for i, s in zip(ranked.rows, ranked.scores, strict=True)]


class Bm25s(RankBm25):
    """BM25 as the package bm25s computes it, in Lucene's variant, which is Polyseek's own."""

    def _fit(self, corpus: Terms) -> Score:
        try:
            import bm25s
        except ImportError as error:
            raise UsageError("bm25s is not installed: pip install 'polyseek[bench]'") from error
        model = bm25s.BM25(k1=K1, b=B, method="lucene")
        model.index(corpus, show_progress=False)

        def scores(searched: Sequence[str]) -> NDArray[Any]:
            known = [term for term in searched if term in model.vocab_dict]  # without any, bm25s answers with an error
            return cast("NDArray[Any]", model.get_scores(known)) if known else np.zeros(len(corpus), np.float32)

        return scores


REFERENCES: Mapping[str, type[RankBm25]] = {"rank-bm25": RankBm25, "bm25s": Bm25s}
"""The packages by the names of their systems."""
