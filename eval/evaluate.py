"""Evaluating one retriever: search all judged queries in batches, score them, measure speed.

Only the values of each query are kept, so 13,090 queries with 1000 hits each need the memory of one batch. Not here:
building an index and choosing systems (:mod:`eval.command`), formulas (:mod:`eval.measures`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.readers import Qrels
from data.records import Hit, Query
from eval.measures import Measure, Values, average, depth_of, score
from retriever.retrievers import Retriever

# Queries searched for at a time: what is held of their hits beside the values grows with it.
BATCH_SIZE = 128
LATENCY_SAMPLE = 100
LATENCY_HITS = 10

BatchListener = Callable[[Sequence[Query], Sequence[list[Hit]]], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one retriever is worth on one set of judged queries.

    Attributes:
        overall: measure -> mean over all queries (``mAP``: over the means of the languages).
        per_language: language of the query, ``und`` where unknown -> measure -> mean over its queries.
        per_query: query id -> measure -> value.
        ms_per_query: ``p50`` and ``p95`` of single searches for 10 hits, encoding included, in milliseconds.
        queries_per_second: of the batched searches, at the depth that the measures need, of queries that are encoded.
    """

    overall: dict[str, float]
    per_language: Values
    per_query: Values
    ms_per_query: dict[str, float]
    queries_per_second: float


def evaluate(
    retriever: Retriever,
    queries: Sequence[Query],
    qrels: Qrels,
    *,
    measures: Sequence[Measure],
    depth: int = 0,
    batch_size: int = BATCH_SIZE,
    on_batch: BatchListener | None = None,
    forget: Callable[[Query], object] = lambda query: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """Search every judged query of ``queries`` and average the measures.

    Every query that has judgements counts, with 0 where nothing was found; the others are not searched.

    Args:
        retriever: what is measured.
        queries: with ids; ``lang`` groups them.
        qrels: query id -> document id -> relevance.
        measures: at least one; the deepest cutoff among them says how many hits each query asks for.
        depth: hits of each query at least, if the listener wants more than the measures.
        batch_size: queries searched at once. Values do not depend on it, memory does.
        on_batch: told the queries and the hits of every batch, outside the time that is measured.
        forget: drops what is kept of a query, see :func:`latency`.
        clock: tells the seconds, for batches.

    Raises:
        InputError: no query has judgements, or two queries share an id.
    """
    judged = _judged(queries, qrels)
    ms_per_query = latency(retriever, judged, forget)
    per_query: Values = {}
    depth, seconds = max(depth, depth_of(measures)), 0.0
    with _uncollected():
        for start in range(0, len(judged), batch_size):
            batch = judged[start : start + batch_size]
            began = clock()
            results = retriever.search(batch, depth)
            seconds += clock() - began
            rankings = {query.id: [hit.id for hit in hits] for query, hits in zip(batch, results, strict=True)}
            per_query.update(score(measures, {query.id: qrels[query.id] for query in batch}, rankings))
            if on_batch is not None:
                on_batch(batch, results)
    overall, per_language = average(measures, per_query, {query.id: query.lang for query in judged})
    return Evaluation(overall, per_language, per_query, ms_per_query, len(judged) / max(seconds, 1e-9))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python's collector of cycles from looking through millions of hits, which are in none, again and again.

    BM25 over XQuAD-R, 13,090 rankings of 1,000: 44 s of CPU, and 68 with it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _judged(queries: Sequence[Query], qrels: Qrels) -> list[Query]:
    judged = [query for query in queries if qrels.get(query.id)]
    if not judged:
        raise InputError(f"none of the {len(queries)} queries has judgements: do the ids of queries and qrels match?")
    if len({query.id for query in judged}) < len(judged):
        raise InputError("two queries share an id: give every query an id of its own")
    return judged


def latency(
    retriever: Retriever, queries: Sequence[Query], forget: Callable[[Query], object] = lambda query: None
) -> dict[str, float]:
    """Return ``p50`` and ``p95`` in milliseconds of searches for 10 hits, one query at a time, as a user waits.

    A batch shares its work among queries: its time divided by its size is throughput. Up to 100 queries are taken at
    equal distances, so that all languages of a sorted file are among them, after one search that is not timed.

    Args:
        retriever: what is measured.
        queries: at least one.
        forget: called before each timed search, to drop what an earlier one kept of the query, its encoding above all.
    """
    sample = np.unique(np.linspace(0, len(queries) - 1, LATENCY_SAMPLE).astype(int))
    retriever.search([queries[0]], LATENCY_HITS)
    times = []
    for i in sample:
        forget(queries[i])
        began = time.perf_counter()
        retriever.search([queries[i]], LATENCY_HITS)
        times.append(1000 * (time.perf_counter() - began))
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
