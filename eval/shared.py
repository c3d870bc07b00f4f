"""Rankings that several systems look into: the views of a fusion, the first stage of a cascade. Made once, then kept.

Fusion and cascades of 1,000 hits look at the very 1,000 hits of each view that the view itself was measured on. They
are kept in memory, 8 bytes a hit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.records import Query
from index.ranking import Ranked, Rows
from retriever.retrievers import Ranker

# Bytes: five views of XQuAD-R (13,090 questions, 1,000 hits) are 524 MB. What does not fit is searched again.
BUDGET = 1 << 29
_HIT = 8

_Key = tuple[Ranker, int, tuple[Query, ...]]


@dataclass(slots=True)
class Shared:
    """Wraps rankers, so that what one of them has ranked is looked up when an equal one is asked the same.

    Attributes:
        budget: bytes that are kept at most.
        saved: seconds of the searches that were not made again.
    """

    budget: int = BUDGET
    saved: float = 0.0
    _kept: dict[_Key, tuple[list[Ranked], float]] = field(default_factory=dict)

    def __call__(self, ranker: Ranker) -> Ranker:
        """Return a ranker that gives the same rankings."""
        return _SharedRanker(ranker, self)

    def clock(self) -> float:
        """Return seconds that pass as if every search were made: what is looked up counts as long as it took."""
        return time.perf_counter() + self.saved

    def rank(self, ranker: Ranker, queries: Sequence[Query], k: int) -> list[Ranked]:
        """Rank a batch, or look up what came out."""
        key = (ranker, k, tuple(queries))
        if key in self._kept:
            kept, seconds = self._kept[key]
            self.saved += seconds
            return [Ranked(ranked.rows.astype(np.int64), ranked.scores) for ranked in kept]
        began = self.clock()
        found = ranker.rank(queries, k, None)
        seconds, size = self.clock() - began, _HIT * sum(len(ranked.rows) for ranked in found)
        if size <= self.budget:
            self.budget -= size
            self._kept[key] = ([Ranked(ranked.rows.astype(np.int32), ranked.scores) for ranked in found], seconds)
        return found


@dataclass(frozen=True, slots=True)
class _SharedRanker:
    ranker: Ranker
    shared: Shared

    def rank(self, queries: Sequence[Query], k: int, within: Sequence[Rows] | None) -> list[Ranked]:
        # A question alone is one whose time is measured, and what is filtered is nobody else's.
        if within is not None or len(queries) < 2:
            return self.ranker.rank(queries, k, within)
        return self.shared.rank(self.ranker, queries, k)
