"""The late view: MaxSim over token vectors.

Large segments are coded and searched by `index.coded`; the rest is small enough to be compared whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from index.coded import CodedTokens, LateSearch
from index.levels import Levels
from index.maxsim import maxsim
from index.ragged import Ragged
from index.ranking import NOTHING, Ranked, Rows, Scores, best, settle
from index.vectors import VectorRows, groups

# Document tokens read at a time: with 128 dims 4 MB as float32, which the second-level cache and BLAS like.
TOKENS = 8192
# Scores kept at a time, over all queries: 32 Mi float32 are 128 MB.
SCORES = 1 << 25
# A product of float32 matrices gives the same two tokens similarities up to 3e-7 apart, depending on what stands beside
# them. What is closer to the k-th score than this for every token of the query is scored anew in float64.
SLACK = 4e-6


DEFAULT = LateSearch()


class LateView:
    """Late interaction over one snapshot."""

    def __init__(self, rows: VectorRows) -> None:
        """Take the rows of the view; nothing is read yet."""
        self._rows = rows

    @cached_property
    def levels(self) -> Levels | None:
        """What scores lose beyond the centroids, for each token of a query; None in a collection of one language."""

        def score(texts: Ragged, passages: Ragged) -> Scores:
            lengths = np.maximum(np.diff(texts.offsets), 1).astype(np.float32)
            return maxsim(texts, passages) / lengths[:, None]

        return Levels.measure(self._rows, score)

    def search(
        self,
        queries: Ragged,
        languages: Sequence[str],
        k: int,
        *,
        neutral: bool,
        within: Sequence[Rows] | None = None,
        how: LateSearch = DEFAULT,
    ) -> list[Ranked]:
        """Return the best rows of every query by MaxSim.

        Args:
            queries: n texts of unit token vectors (T_i, d).
            languages: n codes, "" for unknown; they matter where ``neutral`` is set.
            k: at most so many rows each.
            neutral: language-neutral ranking.
            within: the rows allowed for each query, sorted; None for all.
            how: how hard to look in coded segments.

        Returns:
            n rankings; scores lie between minus and plus the number of the query's tokens.
        """
        owner = [x for x, n in zip(languages, np.diff(queries.offsets), strict=True) for _ in range(n)]
        ready = Ragged(self._rows.queries(queries.values, owner, neutral=neutral), queries.offsets)
        found = [NOTHING] * len(queries)
        for members, allowed in groups(within, len(queries), self._rows.live):
            asked = [i for i in members if len(ready[i])] if k > 0 else []
            at_once = max(1, SCORES // max(len(allowed), 1))
            for start in range(0, len(asked), at_once):
                some = asked[start : start + at_once]
                batch = ready.take(np.array(some))
                exact = self._rank(batch, allowed, k, neutral)
                for i, ranked in zip(some, self._join(exact, batch, allowed, k, neutral, how), strict=True):
                    found[i] = ranked
        return found

    def _join(
        self, exact: list[Ranked], queries: Ragged, allowed: Rows, k: int, neutral: bool, how: LateSearch
    ) -> list[Ranked]:
        """Return what is found in coded segments and in the others, ranked as one."""
        order, base, joined = self._rows.id_order, 0, exact
        coded = sum(len(part) for part in self._rows.parts if isinstance(part, CodedTokens))
        for part in self._rows.parts:
            if isinstance(part, CodedTokens):
                mask = np.zeros(len(part), np.bool_)
                mask[allowed[np.searchsorted(allowed, base) : np.searchsorted(allowed, base + len(part))] - base] = True
                own = order[base : base + len(part)]
                found = part.search(
                    queries, k, allowed=mask, neutral=neutral, how=how, id_order=own, share_of_all=len(part) / coded
                )
                joined = [
                    _both(a, Ranked(b.rows + base, b.scores), k, order) for a, b in zip(joined, found, strict=True)
                ]
            base += len(part)
        return joined

    def _rank(self, queries: Ragged, allowed: Rows, k: int, neutral: bool) -> list[Ranked]:
        parts = [
            (rows, maxsim(queries, documents))
            for rows, documents in self._rows.blocks(allowed, TOKENS, neutral=neutral)
        ]
        if not parts:
            return [NOTHING] * len(queries)
        rows = np.concatenate([r for r, _ in parts])
        scores = np.concatenate([s for _, s in parts], axis=1)
        keep = np.isfinite(scores[0])  # a document without tokens is nowhere
        ranked = []
        for i, row_scores in enumerate(scores):
            query = queries.take(np.array([i]))
            exact = partial(self._exact, query, neutral=neutral)
            slack = SLACK * len(query.values)
            order = self._rows.id_order
            ranked.append(settle(rows[keep], row_scores[keep], k, slack=slack, exact=exact, id_order=order))
        return ranked

    def _exact(self, query: Ragged, rows: Rows, *, neutral: bool) -> Scores:
        """Score rows in float64."""
        blocks = self._rows.blocks(rows, TOKENS, neutral=neutral)
        return np.concatenate([maxsim(query, documents, dtype=np.float64)[0] for _, documents in blocks])


def _both(a: Ranked, b: Ranked, k: int, id_order: Rows) -> Ranked:
    """Return the best of two rankings of different rows."""
    return best(np.concatenate([a.rows, b.rows]), np.concatenate([a.scores, b.scores]), k, id_order=id_order)
