"""From a search that is in order to what is told: hits with their texts, all out of one snapshot."""

from __future__ import annotations

from copy import copy
from typing import Any

from data.records import Document, Hit, Query
from index.ranking import Rows
from index.snapshot import Snapshot
from retriever.engine import Engine
from server.schema import SearchRequest


def answer(engine: Engine, asked: SearchRequest) -> list[dict[str, Any]]:
    """Return one answer per question, all but the time it took. A blank question has no hits."""
    engine = copy(engine)  # shares all but keeps the snapshot of now, whatever writers do meanwhile
    queries = [query._replace(lang=query.lang or engine.identify(query.text)) for query in asked.queries]
    answers = []
    rows = engine.snapshot.select(asked.within or (), asked.languages)
    for query, hits in zip(queries, _search(engine, asked, queries, rows), strict=True):
        # The encoder reads a question whole, in windows where it is long: nothing of it is ever cut off.
        told: dict[str, Any] = {"query": query.text, "language": query.lang, "using": asked.using}
        told |= {"hits": _hits_json(engine.snapshot, hits), "truncated": False}
        if asked.explain:
            told["explain"] = engine.explain(query, hits, using=asked.using, neutral=asked.neutral, within=rows)
        answers.append(told)
    return answers


def document_json(document: Document) -> dict[str, Any]:
    """Return a document as the interface shows it."""
    told = {"id": document.id, "title": document.title, "text": document.text, "lang": document.lang}
    return {**told, "metadata": dict(document.metadata)}


def _search(engine: Engine, asked: SearchRequest, queries: list[Query], rows: Rows | None) -> list[list[Hit]]:
    if asked.within == ():
        return [[] for _ in queries]
    within = None if rows is None else [rows] * len(queries)
    return engine.retriever(asked.using, neutral=asked.neutral).search(queries, asked.k, within=within)


def _hits_json(snapshot: Snapshot, hits: list[Hit]) -> list[dict[str, Any]]:
    told = []
    for rank, hit in enumerate(hits, 1):
        row = snapshot.row(hit.id)
        if row is None:
            raise LookupError(f"the hit {hit.id} is not in the snapshot it was found in")
        # Scores are float32, which have seven digits; what Python shows beyond them is noise.
        score = float(f"{hit.score:.7g}")
        told.append({"rank": rank, "id": hit.id, "score": score, **document_json(snapshot.document(row))})
    return told
