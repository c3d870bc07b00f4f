"""How a system is timed, the same for all: nothing is needed here that the peers' environment does not have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BATCH = 32

# From queries, each (T, d) in what the system takes, and k to the rows found for each.
Search = Callable[[Sequence[Any], int], list[list[int]]]


def measure(search: Search, asked: Sequence[Any], passes: int) -> dict[str, float]:
    """Time queries one by one and in batches, for 10 hits each; the fastest of the passes counts."""
    search(asked[:BATCH], 10)
    single: list[list[float]] = []
    batched: list[float] = []
    for _ in range(passes):
        single.append([])
        for query in asked:
            started = time.perf_counter()
            search([query], 10)
            single[-1].append(time.perf_counter() - started)
        started = time.perf_counter()
        for start in range(0, len(asked), BATCH):
            search(asked[start : start + BATCH], 10)
        batched.append(time.perf_counter() - started)
    best = min(single, key=sum)
    return {
        "ms_p50": 1e3 * float(np.percentile(best, 50)),
        "ms_p95": 1e3 * float(np.percentile(best, 95)),
        "qps": len(asked) / min(batched),
    }
