"""The late view: exact MaxSim over every token vector. What is exact here is what a faster index is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.maxsim import maxsim
from index.ragged import Ragged
from index.ranking import NOTHING, Ranked, Rows, best
from index.vectors import VectorRows, groups

# Document tokens read at a time: with 128 dims 4 MB as float32, which the second-level cache and BLAS like.
TOKENS = 8192
# Scores kept at a time, over all queries: 32 Mi float32 are 128 MB.
SCORES = 1 << 25
# Scores that differ by less than float32 sums can tell (20 tokens of about 1, 2e-6 apart) are ties.
DECIMALS = 5


class LateView:
    """Late interaction over one snapshot."""

    def __init__(self, rows: VectorRows) -> None:
        """Take the rows of the view; nothing is read yet."""
        self._rows = rows

    def search(
        self, queries: Ragged, languages: Sequence[str], k: int, *, neutral: bool, within: Sequence[Rows] | None = None
    ) -> list[Ranked]:
        """Return the best rows of every query by exact MaxSim.

        Args:
            queries: n texts of unit token vectors (T_i, d).
            languages: n codes, "" for unknown; they matter where ``neutral`` is set.
            k: at most so many rows each.
            neutral: language-neutral ranking.
            within: the rows allowed for each query, sorted; None for all.

        Returns:
            n rankings; scores lie between minus and plus the number of the query's tokens.
        """
        owner = [x for x, n in zip(languages, np.diff(queries.offsets), strict=True) for _ in range(n)]
        ready = Ragged(self._rows.queries(queries.values, owner, neutral=neutral), queries.offsets)
        found = [NOTHING] * len(queries)
        for members, allowed in groups(within, len(queries), self._rows.live):
            at_once = max(1, SCORES // max(len(allowed), 1))
            for start in range(0, len(members), at_once):
                some = members[start : start + at_once]
                for i, ranked in zip(some, self._rank(ready.take(np.array(some)), allowed, k, neutral), strict=True):
                    found[i] = ranked if queries.offsets[i + 1] > queries.offsets[i] else NOTHING
        return found

    def _rank(self, queries: Ragged, allowed: Rows, k: int, neutral: bool) -> list[Ranked]:
        parts = [
            (rows, maxsim(queries, documents))
            for rows, documents in self._rows.blocks(allowed, TOKENS, neutral=neutral)
        ]
        if not parts:
            return [NOTHING] * len(queries)
        rows = np.concatenate([r for r, _ in parts])
        scores = np.round(np.concatenate([s for _, s in parts], axis=1), DECIMALS)
        keep = np.isfinite(scores[0])  # a document without tokens is nowhere
        return [best(rows[keep], s[keep], k, id_order=self._rows.id_order) for s in scores]
