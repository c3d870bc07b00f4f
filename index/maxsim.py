"""MaxSim, the score of late interaction (Khattab & Zaharia 2020, ColBERT, eq. 3), exact, on BLAS.

    score(q, d) = sum over query tokens i of the maximum over document tokens j of <q_i, d_j>

There is no padding anywhere, so nothing is masked and a negative similarity counts as what it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.ragged import Ragged

# Similarities of one product, at most: 16 Mi float32 are 64 MB, and larger ones were not faster.
SIMILARITIES = 1 << 24


def maxsim(
    queries: Ragged, documents: Ragged, *, similarities: int = SIMILARITIES, dtype: type[np.floating] = np.float32
) -> NDArray[np.float32]:
    """Score every query against every document.

    Args:
        queries: n texts; a query without tokens scores 0 everywhere.
        documents: m texts; a document without tokens scores -inf: there is nothing in it to find.
        similarities: the budget of memory: so many at a time, or those of one query where they are more.
        dtype: what products and sums are made in. In float64 a score does not depend on what stands beside it.

    Returns:
        (n, m) float32, higher is better.
    """
    scores = np.full((len(queries), len(documents)), -np.inf, np.float32)
    lengths = np.diff(documents.offsets)
    filled = np.flatnonzero(lengths)
    if len(filled) == 0 or len(queries) == 0:
        return scores
    starts = documents.offsets[filled]  # documents without tokens own no tokens between these
    values = np.asarray(documents.values, dtype).T  # (d, T)
    tokens = max(1, similarities // values.shape[1])
    for first, last in _runs(queries.offsets, tokens):
        part = np.asarray(queries.values[queries.offsets[first] : queries.offsets[last]], dtype)
        best = np.maximum.reduceat(part @ values, starts, axis=1)  # (query tokens, documents)
        for i in range(first, last):
            own = slice(queries.offsets[i] - queries.offsets[first], queries.offsets[i + 1] - queries.offsets[first])
            scores[i, filled] = best[own].sum(axis=0)
    return scores


def _runs(offsets: NDArray[np.int64], tokens: int) -> list[tuple[int, int]]:
    """Cut texts into runs of at most ``tokens`` tokens, or of one text where that is longer."""
    runs, first = [], 0
    for i in range(1, len(offsets)):
        if offsets[i] - offsets[first] > tokens and i - 1 > first:
            runs.append((first, i - 1))
            first = i - 1
    runs.append((first, len(offsets) - 1))
    return runs
