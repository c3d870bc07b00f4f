"""Counters in the Prometheus text format 0.0.4: requests, search latency, documents.

Written out by hand because it is three metrics; labels hold only names of our own, so nothing needs escaping.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from threading import Lock

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. One BM25 search takes about 1 ms, a hybrid one some 20 ms, a batch of 1000 questions several seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What one application has done since it was made. Safe to use from many threads."""

    def __init__(self) -> None:
        """Start from zero."""
        self._lock = Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._searches = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def count(self, endpoint: str, status: int) -> None:
        """Count one answered request; ``endpoint`` is a name from the routing table, never what a caller typed."""
        with self._lock:
            self._requests[endpoint, status] += 1

    def observe(self, seconds: float) -> None:
        """Count one search, a whole batch being one, that took this long."""
        with self._lock:
            self._searches[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def render(self, documents: int) -> str:
        """Return the exposition, with the number of documents as it is now."""
        with self._lock:
            requests, searches, seconds = sorted(self._requests.items()), list(self._searches), self._seconds
        lines = ["# HELP polyseek_requests_total Requests answered.", "# TYPE polyseek_requests_total counter"]
        lines += [f'polyseek_requests_total{{endpoint="{e}",status="{s}"}} {n}' for (e, s), n in requests]
        lines += ["# HELP polyseek_search_seconds Time a search request spent searching."]
        lines += ["# TYPE polyseek_search_seconds histogram"]
        bounds = [*map(str, BUCKETS), "+Inf"]
        cumulative = list(accumulate(searches))
        lines += [f'polyseek_search_seconds_bucket{{le="{b}"}} {n}' for b, n in zip(bounds, cumulative, strict=True)]
        lines += [f"polyseek_search_seconds_sum {seconds}", f"polyseek_search_seconds_count {cumulative[-1]}"]
        lines += ["# HELP polyseek_documents Documents in the collection.", "# TYPE polyseek_documents gauge"]
        lines += [f"polyseek_documents {documents}"]
        return "\n".join(lines) + "\n"
