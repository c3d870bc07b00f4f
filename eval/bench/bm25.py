"""BM25, side by side: rank-bm25, bm25s with its Numba backend and Polyseek over the same terms.

    python -m eval.bench.bm25 DATASET [--quick]

DATASET is a BEIR folder. Its passages and queries are analysed once. Every system gets the same terms and the same
queries, first one by one, then in batches of 32; bm25s uses all cores in batches, as Polyseek does. "agrees" is the
part of queries for which the ten best scores are those of Polyseek; rank-bm25 has another formula and has none.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from os import cpu_count
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from rank_bm25 import BM25Okapi

from data.readers import BeirFolder
from eval.bench import results
from eval.bench.timing import Search, measure
from index.analysis import terms
from index.bm25 import DEFAULTS, Bm25View
from index.postings import Postings, write_postings
from retriever.language import identifier

QUERIES = 500
# rank-bm25 takes a tenth of a second for a query.
PATIENCE = 20
PASSES = 10

Terms = list[list[str]]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--quick", action="store_true", help="1,000 passages, 40 queries, one pass")
    parser.add_argument("--to", type=Path, default=results.FOLDER, help="folder for the results")
    given = parser.parse_args()
    reader = BeirFolder.open(given.dataset)
    documents = list(reader.documents())[: 1000 if given.quick else None]
    queries = list(reader.queries())
    queries = queries[:: max(1, len(queries) // QUERIES)][: 40 if given.quick else QUERIES]
    identify = identifier().identify
    texts = [document.content() for document in documents]
    languages = [d.lang or x for d, x in zip(documents, identify(texts), strict=True)]
    spoken = [q.lang or x for q, x in zip(queries, identify([q.text for q in queries]), strict=True)]
    asked = [terms(query.text, lang) for query, lang in zip(queries, spoken, strict=True)]
    rows = run(texts, languages, [query for query in asked if query], 1 if given.quick else PASSES)
    print(results.write(f"bm25.{given.dataset.resolve().name}", rows, given.to))


def run(texts: Sequence[str], languages: Sequence[str], asked: Terms, passes: int) -> list[dict[str, Any]]:
    """Measure every system; building begins with the texts, and all analyse them in the same way."""
    started = time.perf_counter()
    corpus = [terms(text, lang) for text, lang in zip(texts, languages, strict=True)]
    analysis = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_postings(Path(folder), zip(texts, languages, strict=True))
        own = {"documents": len(texts), "build_s": time.perf_counter() - started, "mb": _megabytes(folder)}
        everything = np.ones(len(texts), np.bool_)
        view = Bm25View([Postings.open(Path(folder))], everything, np.arange(len(texts)))

        def ours(queries: Sequence[Sequence[str]], k: int) -> list[list[int]]:
            return [ranked.rows.tolist() for ranked in view.search(queries, k)]

        rows = [_row("polyseek-bm25", ours, asked, passes, own)]
        wanted = [ranked.scores for ranked in view.search(asked, 10)]
    started = time.perf_counter()
    peer = bm25s.BM25(k1=DEFAULTS.k1, b=DEFAULTS.b, method="lucene", backend="numba")
    peer.index(corpus, show_progress=False)
    build = analysis + time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        peer.save(folder)
        size = _megabytes(folder)

    def theirs(queries: Sequence[Sequence[str]], k: int) -> list[list[int]]:
        found = peer.retrieve(list(queries), k=k, show_progress=False, n_threads=_threads(queries))
        return [[int(row) for row in ranked] for ranked in found.documents]

    scores = peer.retrieve(asked, k=10, show_progress=False).scores
    # bm25s fills up with scores of 0 where fewer than ten texts have a term.
    same = [np.allclose(np.pad(a, (0, 10 - len(a))), b, rtol=1e-4) for a, b in zip(wanted, scores, strict=True)]
    rows.append(_row("bm25s", theirs, asked, passes, {"build_s": build, "mb": size, "agrees": float(np.mean(same))}))
    started = time.perf_counter()
    slow = BM25Okapi(corpus, k1=DEFAULTS.k1, b=DEFAULTS.b)
    build = analysis + time.perf_counter() - started

    def slowly(queries: Sequence[Sequence[str]], k: int) -> list[list[int]]:
        return [np.argsort(-slow.get_scores(query), kind="stable")[:k].tolist() for query in queries]

    rows.append(_row("rank-bm25", slowly, asked[:PATIENCE], 1, {"build_s": build}))
    return rows


def _megabytes(folder: str) -> float:
    return sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6


def _threads(queries: Sequence[object]) -> int:
    return 1 if len(queries) == 1 else cpu_count() or 1


def _row(system: str, search: Search, asked: Terms, passes: int, metrics: dict[str, float]) -> dict[str, Any]:
    row = {"system": system, "parameters": {}, "metrics": {**metrics, **measure(search, asked, passes)}}
    print(results.table([row]), flush=True)
    return row


if __name__ == "__main__":
    main()
