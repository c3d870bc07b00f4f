"""The dense view, side by side: FAISS's exact flat index and Polyseek, over a million vectors.

    python -m eval.bench.dense DATASET [--rows 1000000] [--quick]

DATASET is a BEIR folder. Its passages and queries are encoded by the bundled model and made language-neutral. Rows are
drawn between a passage and one of its ten nearest, with a little noise, so that they lie where texts lie (SMOTE, Chawla
et al. 2002). Every system gets the same rows and queries, one by one, in batches of 32 and all at once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from data.readers import BeirFolder
from eval.bench import results
from eval.bench.timing import Search, measure
from index.centroids import Centroids, LanguageSums, sum_by_language
from index.dense import DenseView
from index.inverted import InvertedFile, write_inverted
from index.ragged import Ragged
from index.vectors import VectorRows
from retriever.bundled import NAME
from retriever.encoder import Encoder
from retriever.language import identifier

# A pass of the flat index takes two minutes.
QUERIES, PASSES = 500, 1
NEAREST, NOISE = 10, 0.01

Floats = NDArray[np.float32]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="1,000 passages, 40 queries, 10,000 rows, one pass")
    parser.add_argument("--to", type=Path, default=results.FOLDER, help="folder for the results")
    given = parser.parse_args()
    some = (1000, 40, 10_000) if given.quick else (None, QUERIES, given.rows)
    file = given.to / f"dense.{given.dataset.resolve().name}.{'quick' if given.quick else 'all'}.npz"
    if not file.exists():
        prepare(given.dataset, file, *some[:2])
    with np.load(file) as kept:
        passages, queries = kept["passages"], kept["queries"]
    rows = run(between(passages, some[2]), queries, 1 if given.quick else PASSES)
    print(results.write("dense", rows, given.to))


def prepare(dataset: Path, file: Path, most: int | None, asked: int) -> None:
    """Encode a dataset and write ``passages`` and ``queries``, neutral unit vectors."""
    reader, encoder = BeirFolder.open(dataset), Encoder.load(NAME)
    documents, queries = list(reader.documents())[:most], list(reader.queries())
    queries = queries[:: max(1, len(queries) // asked)][:asked]
    texts, questions = [d.content() for d in documents], [q.text for q in queries]
    made, spoken = encoder.encode_documents(texts).dense, encoder.encode_queries(questions).dense
    if made is None or spoken is None:
        raise SystemExit("this encoder makes no dense vectors")
    identify = identifier().identify
    languages = [d.lang or x for d, x in zip(documents, identify(texts), strict=True)]
    names = sorted(set(languages))
    codes = np.array([names.index(x) for x in languages])
    sums = sum_by_language(made, np.arange(len(made) + 1), codes, names)
    centroids = Centroids(sums, encoder.priors.get("dense"), made.shape[1])
    asked_in = [q.lang or x for q, x in zip(queries, identify(questions), strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        passages=_unit(made - np.stack([centroids.offset(x) for x in languages])),
        queries=_unit(spoken - np.stack([centroids.offset(x) for x in asked_in])),
    )


def between(passages: Floats, count: int) -> Floats:
    """Draw ``count`` unit vectors between passages and their nearest."""
    generator = np.random.default_rng(0)
    index = faiss.IndexFlatIP(passages.shape[1])
    index.add(passages)
    nearest = index.search(passages, NEAREST + 1)[1]
    first = generator.integers(0, len(passages), count)
    second = nearest[first, generator.integers(1, NEAREST + 1, count)]
    drawn = passages[first]
    drawn += generator.random((count, 1), np.float32) * (passages[second] - drawn)
    drawn += generator.standard_normal(drawn.shape, np.float32) * np.float32(NOISE)
    return _unit(drawn)


def run(rows: Floats, queries: Floats, passes: int) -> list[dict[str, Any]]:
    """Measure both."""
    flat = faiss.IndexFlatIP(rows.shape[1])
    started = time.perf_counter()
    flat.add(rows)
    build = time.perf_counter() - started

    def exhaustive(asked: Sequence[Floats], k: int) -> list[list[int]]:
        return [found.tolist() for found in flat.search(np.stack(asked), k)[1]]

    wanted = exhaustive(list(queries), 10)
    told = [_row("FAISS flat", exhaustive, queries, wanted, passes, {"build_s": build, "bytes": 4 * rows.shape[1]})]
    vectors = Ragged(rows.astype(np.float16), np.arange(len(rows) + 1, dtype=np.int64))
    nothing = np.zeros(rows.shape[1], np.float32)
    codes = np.zeros(len(rows), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_inverted(Path(folder), vectors, codes, ["en"], {"en": nothing})
        build = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / len(rows) + 2 * rows.shape[1]
        centroids = Centroids(LanguageSums({}, {}, {}), None, rows.shape[1])
        held = VectorRows([vectors], np.ones(len(rows), np.bool_), ["en"], codes, centroids, np.arange(len(rows)))
        view = DenseView(held, [InvertedFile(Path(folder), ["en"], len(rows))])

        def ours(asked: Sequence[Floats], k: int) -> list[list[int]]:
            found = view.search(np.stack(asked), ["en"] * len(asked), k, neutral=False)
            return [ranked.rows.tolist() for ranked in found]

        told.append(_row("polyseek-dense", ours, queries, wanted, passes, {"build_s": build, "bytes": size}))
    return told


def _row(
    system: str, search: Search, queries: Floats, wanted: list[list[int]], passes: int, metrics: dict[str, float]
) -> dict[str, Any]:
    times = measure(search, list(queries), passes)
    together = []
    for _ in range(passes):
        started = time.perf_counter()
        found = search(list(queries), 10)
        together.append(time.perf_counter() - started)
    recall = np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, wanted, strict=True)])
    metrics = {**metrics, **times, "qps_at_once": len(queries) / min(together), "recall@10": float(recall)}
    row = {"system": system, "parameters": {}, "metrics": metrics}
    print(results.table([row]), flush=True)
    return row


def _unit(values: NDArray[np.floating]) -> Floats:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), np.float32)


if __name__ == "__main__":
    main()
