"""One order everywhere: score descending, then id descending, as trec_eval sorts.

FAISS, BLAS and sorting return ties in arbitrary order, so every view ends here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


class Ranked(NamedTuple):
    """The best rows of one query, best first.

    Attributes:
        rows: (m,) int64, m <= k.
        scores: (m,) float32, never rising.
    """

    rows: Rows
    scores: Scores


NOTHING = Ranked(np.empty(0, np.int64), np.empty(0, np.float32))


def best(rows: Rows, scores: Scores, k: int, *, id_order: NDArray[np.int64]) -> Ranked:
    """Return the ``k`` best of ``rows`` in the one order.

    Args:
        rows: (m,) candidates, each at most once.
        scores: (m,) their scores, higher is better.
        k: how many at most.
        id_order: for every row of the snapshot the position of its id among all ids, ascending: ties go to the
            greater id.
    """
    if k <= 0 or len(rows) == 0:
        return NOTHING
    if k < len(rows):
        # Everything that ties with the k-th score stays in until the ids have decided.
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= threshold)
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((-id_order[rows], -scores))[:k]
    return Ranked(rows[order].astype(np.int64, copy=False), scores[order].astype(np.float32, copy=False))
