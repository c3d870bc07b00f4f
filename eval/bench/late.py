"""Late interaction, side by side: exhaustive search, FastPlaid, XTR-WARP and Polyseek on the same token vectors.

    python -m eval.bench.late DATASET [--peers PYTHON] [--vectors FILE.npz] [--quick]

DATASET is a BEIR folder. Its passages and queries are encoded once by the bundled model, made language-neutral, and
kept in the file of vectors. The peers need a PyTorch of their own: ``make bench-late`` makes them an environment and
names its Python with ``--peers``; without it they are left out.

Every system gets the same vectors and the same queries, first one by one, then in batches of 32 with all cores.
Recall is against exact MaxSim.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.readers import BeirFolder
from eval.bench import results
from eval.bench.timing import Search, measure
from index.centroids import Centroids, sum_by_language
from index.coded import CodedTokens, LateSearch
from index.coding import Coding, write_coded
from index.maxsim import maxsim
from index.ragged import Ragged

QUERIES = 200
# Repeats of every timed pass; the fastest counts, for what else runs on the machine only ever adds.
PASSES = 3
# How hard to look, by the bits of the codes.
SETTINGS = {
    2: [LateSearch()],
    4: [LateSearch(4, 120), LateSearch(8, 240), LateSearch(), LateSearch(16, 960), LateSearch(32, 1920)],
    8: [LateSearch(), LateSearch(16, 960), LateSearch(32, 1920)],
}
PEERS = ("fastplaid", "xtr-warp")


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has fast-plaid and xtr-warp-rs")
    given = parser.parse_args()
    print(results.write("late", run(vectors(given), given.peers, 1 if given.quick else PASSES), given.to))


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return what a benchmark over token vectors is told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--vectors", type=Path, help="where the vectors are kept (default: beside the results)")
    parser.add_argument("--quick", action="store_true", help="1,000 passages, 40 queries, one pass")
    parser.add_argument("--to", type=Path, default=results.FOLDER, help="folder for the results")
    return parser


def vectors(given: argparse.Namespace) -> Path:
    """Return the file of vectors, made if there is none."""
    size = "quick" if given.quick else "all"
    file: Path = given.vectors or given.to / f"late.{given.dataset.resolve().name}.{size}.npz"
    if not file.exists():
        prepare(given.dataset, file, 1000 if given.quick else None, 40 if given.quick else QUERIES)
    return file


def prepare(dataset: Path, file: Path, most: int | None, asked: int) -> None:
    """Encode a dataset and write ``values``, ``offsets``, ``queries``, ``query_offsets`` and ``relevant``."""
    from retriever.bundled import NAME
    from retriever.encoder import Encoder
    from retriever.language import identifier

    reader, encoder = BeirFolder.open(dataset), Encoder.load(NAME)
    documents = list(reader.documents())[:most]
    rows = {document.id: row for row, document in enumerate(documents)}
    relevant = {
        q: [rows[d] for d, grade in own.items() if grade > 0 and d in rows] for q, own in reader.qrels().items()
    }
    queries = [q for q in reader.queries() if relevant.get(q.id)]
    queries = queries[:: max(1, len(queries) // asked)][:asked]
    texts = [document.content() for document in documents]
    made = encoder.encode_documents(texts).late
    spoken = encoder.encode_queries([q.text for q in queries]).late
    if made is None or spoken is None:
        raise SystemExit("this encoder makes no token vectors")
    identify = identifier().identify
    languages = [d.lang or x for d, x in zip(documents, identify(texts), strict=True)]
    query_languages = [q.lang or x for q, x in zip(queries, identify([q.text for q in queries]), strict=True)]
    names = sorted(set(languages))
    codes = np.array([names.index(x) for x in languages])
    centroids = Centroids(
        sum_by_language(made.values, made.offsets, codes, names), encoder.priors.get("late"), made.dims
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as target:
        np.savez(
            target,
            values=_neutral(made, languages, centroids).astype(np.float16),
            offsets=made.offsets,
            queries=_neutral(spoken, query_languages, centroids),
            query_offsets=spoken.offsets,
            relevant=np.array([(i, row) for i, q in enumerate(queries) for row in relevant[q.id]]),
        )


def run(file: Path, peers: str | None, passes: int) -> list[dict[str, Any]]:
    """Measure every system on a file of vectors."""
    with np.load(file) as kept:
        texts = Ragged(kept["values"].astype(np.float32), kept["offsets"])
        queries = Ragged(kept["queries"], kept["query_offsets"])
        relevant = [kept["relevant"][kept["relevant"][:, 0] == i, 1].tolist() for i in range(len(queries))]
    wanted = _exhaustive(texts)([queries[i] for i in range(len(queries))], 1000)
    judge = _Judge(wanted, relevant)
    rows = [_row("exhaustive", {}, judge, queries, _exhaustive(texts), passes, {"bytes_per_token": 4 * texts.dims})]
    for bits in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            rows += _polyseek(bits, Path(folder), texts, judge, queries, passes)
    for system in PEERS if peers else ():
        with tempfile.TemporaryDirectory() as folder:
            told = subprocess.run(
                [str(peers), "-m", "eval.bench.peers", system, str(file.resolve()), folder, str(passes)],
                check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            ).stdout  # fmt: skip
        for line in told.splitlines():
            if line.startswith('{"system"'):  # they have things of their own to say
                answer = json.loads(line)
                answer["metrics"] |= judge.quality(answer.pop("found"))
                rows.append(answer)
                print(results.table(rows[-1:]), flush=True)
    return rows


def _polyseek(
    bits: int, folder: Path, texts: Ragged, judge: _Judge, queries: Ragged, passes: int
) -> Iterator[dict[str, Any]]:
    everything = np.zeros(len(texts), np.uint16)
    coding = Coding(bits, {"": np.zeros(texts.dims, np.float32)})
    started = time.perf_counter()
    write_coded(folder, [(texts, everything, [""], np.arange(len(texts)))], [""], coding)
    build = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.iterdir()) / len(texts.values)
    view = CodedTokens(folder, everything)
    allowed, order = np.ones(len(view), np.bool_), np.arange(len(view))
    for how in SETTINGS[bits]:

        def search(asked: Sequence[NDArray[np.float32]], k: int, how: LateSearch = how) -> list[list[int]]:
            batch = Ragged.of(list(asked), texts.dims)
            found = view.search(batch, k, allowed=allowed, neutral=True, how=how, id_order=order)
            return [ranked.rows.tolist() for ranked in found]

        parameters = {"bits": bits, "cells": how.cells, "candidates": how.candidates}
        metrics = {"build_s": build, "bytes_per_token": size}
        yield _row("polyseek-late", parameters, judge, queries, search, passes, metrics)


def _row(
    system: str,
    parameters: dict[str, Any],
    judge: _Judge,
    queries: Ragged,
    search: Search,
    passes: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    asked = [queries[i] for i in range(len(queries))]
    times = measure(search, asked, passes)
    found = search(asked, 100)
    row = {"system": system, "parameters": parameters, "metrics": {**metrics, **times, **judge.quality(found)}}
    print(results.table([row]), flush=True)
    return row


class _Judge:
    """Recall against exact search, and nDCG@10 against the judgements."""

    def __init__(self, wanted: Sequence[Sequence[int]], relevant: Sequence[Sequence[int]]) -> None:
        self._wanted = wanted
        self._relevant = relevant

    def quality(self, found: Sequence[Sequence[int]]) -> dict[str, float]:
        metrics = {}
        for k in (10, 100):
            pairs = zip(found, self._wanted, strict=True)
            metrics[f"recall@{k}"] = float(np.mean([len({*a[:k]} & {*b[:k]}) / len(b[:k]) for a, b in pairs]))
        discounts = 1 / np.log2(np.arange(2, 12))
        gains = []
        for rows, right in zip(found, self._relevant, strict=True):
            hit = np.isin(rows[:10], right)
            gains.append(discounts[: len(hit)][hit].sum() / discounts[: len(right)].sum())
        return {**metrics, "nDCG@10": float(np.mean(gains))}


def _exhaustive(texts: Ragged) -> Search:
    def search(asked: Sequence[NDArray[np.float32]], k: int) -> list[list[int]]:
        scores = maxsim(Ragged.of(list(asked), texts.dims), texts)
        return [np.argsort(-row, kind="stable")[:k].tolist() for row in scores]

    return search


def _neutral(ragged: Ragged, languages: Sequence[str], centroids: Centroids) -> NDArray[np.float32]:
    offsets = np.stack([centroids.offset(x) for x in languages])
    values = np.asarray(ragged.values - np.repeat(offsets, np.diff(ragged.offsets), axis=0), np.float32)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.float32(1e-12))
    return values


if __name__ == "__main__":
    main()
