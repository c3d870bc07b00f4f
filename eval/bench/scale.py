"""How late interaction grows: jittered copies of a corpus, ten times as many token vectors each time.

    python -m eval.bench.scale DATASET [--most 6000000] [--vectors FILE.npz] [--quick]

DATASET is a BEIR folder, encoded as for ``eval.bench.late``, whose file of vectors may be given. Every copy has
noise of its own. Each size is built in this process and searched in a fresh one, which maps the files: "open_ms" is
what it takes to map them, "first_mb" what the process holds after the first query (pages of the mapped files included,
none of which was in memory before, for the system maps what it has at hand), "all_mb" after all of them, "own_mb"
without mapped pages, which the system takes back when memory is short.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.bench import results
from eval.bench.late import arguments, vectors
from eval.bench.timing import measure
from index.coded import CodedTokens, LateSearch
from index.coding import Coding, write_coded
from index.maxsim import maxsim
from index.ragged import Ragged
from index.storage import ArrayFile, read_array, write_array

NOISE = 0.03
STEP = 10
# Texts that are made, or compared with the queries, at a time.
TEXTS = 4096
# Queries that recall is measured with: to compare all with sixty million token vectors takes a quarter of an hour.
JUDGED = 50


def main() -> None:
    """Run the benchmark, or search in one folder where the first argument is ``search``."""
    if sys.argv[1:2] == ["search"]:
        print(json.dumps(_searched(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    parser = arguments(__doc__)
    parser.add_argument("--most", type=int, default=6_000_000, help="token vectors of the largest size, about")
    given = parser.parse_args()
    with np.load(vectors(given)) as kept:
        texts, queries = Ragged(kept["values"], kept["offsets"]), Ragged(kept["queries"], kept["query_offsets"])
    most = STEP * len(texts.values) if given.quick else given.most
    rows, copies = [], 1
    while copies == 1 or copies * len(texts.values) <= most:
        rows.append(_measured(texts, queries, copies))
        print(results.table(rows[-1:]), flush=True)
        copies *= STEP
    print(results.write("scale", rows, given.to))


def _measured(texts: Ragged, queries: Ragged, copies: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grown = _grown(folder, texts, copies)
        everything = np.zeros(len(grown), np.uint16)
        (folder / "late").mkdir()
        started = time.perf_counter()
        coding = Coding(4, {"": np.zeros(texts.dims, np.float32)})
        write_coded(folder / "late", [(grown, everything, [""], np.arange(len(grown)))], [""], coding)
        build = time.perf_counter() - started
        size = sum(path.stat().st_size for path in (folder / "late").iterdir()) / len(grown.values)
        write_array(folder / "queries.npy", queries.values)
        write_array(folder / "query_offsets.npy", queries.offsets)
        _forget(folder / "late")
        told = subprocess.run(
            [sys.executable, "-m", "eval.bench.scale", "search", str(folder), str(len(grown))],
            check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        ).stdout  # fmt: skip
        answer = json.loads(told.splitlines()[-1])
        judged = np.linspace(0, len(queries) - 1, min(JUDGED, len(queries))).astype(np.int64)
        found, wanted = answer.pop("found"), _exhaustive(grown, queries.take(judged))
        recall = [len({*found[i]} & {*best}) / 10 for i, best in zip(judged, wanted, strict=True)]
        metrics = {"build_s": build, "bytes_per_token": size, **answer, "recall@10": float(np.mean(recall))}
        return {"system": "polyseek-late", "parameters": {"tokens": len(grown.values)}, "metrics": metrics}


def _forget(folder: Path) -> None:
    """Let the system drop what it has of files in memory, where it can be told to."""
    for path in folder.iterdir() if hasattr(os, "posix_fadvise") else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _grown(folder: Path, texts: Ragged, copies: int) -> Ragged:
    """Write copies of the texts, each with noise, and map them."""
    generator = np.random.default_rng(copies)
    offsets = np.concatenate([[0], np.cumsum(np.tile(np.diff(texts.offsets), copies))]).astype(np.int64)
    with ArrayFile(folder / "values.npy", (int(offsets[-1]), texts.dims), np.float16) as file:
        for _ in range(copies):
            for start in range(0, len(texts), TEXTS):
                values = texts.take(np.arange(start, min(start + TEXTS, len(texts)))).values.astype(np.float32)
                values += generator.standard_normal(values.shape, np.float32) * np.float32(NOISE)
                file.append(values / np.linalg.norm(values, axis=1, keepdims=True))
    return Ragged(read_array(folder / "values.npy"), offsets)


def _exhaustive(texts: Ragged, queries: Ragged) -> list[list[int]]:
    """Return the ten best texts for each query by exact MaxSim."""
    best = np.full((len(queries), 10), -np.inf, np.float32)
    rows = np.full((len(queries), 10), -1, np.int64)
    for start in range(0, len(texts), TEXTS):
        some = np.arange(start, min(start + TEXTS, len(texts)))
        taken = texts.take(some)
        scores = maxsim(queries, Ragged(taken.values.astype(np.float32), taken.offsets))
        both, names = np.hstack([best, scores]), np.hstack([rows, np.tile(some, (len(queries), 1))])
        kept = np.argsort(-both, axis=1, kind="stable")[:, :10]
        best, rows = np.take_along_axis(both, kept, axis=1), np.take_along_axis(names, kept, axis=1)
    return [row.tolist() for row in rows]


def _searched(folder: Path, texts: int) -> dict[str, Any]:
    """Search in a folder; this process has not had its vectors in memory."""
    queries = Ragged(read_array(folder / "queries.npy"), read_array(folder / "query_offsets.npy"))
    asked = [np.asarray(queries[i]) for i in range(len(queries))]
    started = time.perf_counter()
    view = CodedTokens(folder / "late", np.zeros(texts, np.uint16))
    opened = time.perf_counter() - started
    allowed, order = np.ones(texts, np.bool_), np.arange(texts)

    def search(some: Sequence[NDArray[np.float32]], k: int) -> list[list[int]]:
        batch = Ragged.of(list(some), queries.dims)
        found = view.search(batch, k, allowed=allowed, neutral=True, how=LateSearch(), id_order=order)
        return [ranked.rows.tolist() for ranked in found]

    search(asked[:1], 10)
    first = _memory("VmRSS")
    times = measure(search, asked, 2)
    memory = {"first_mb": first, "all_mb": _memory("VmRSS"), "own_mb": _memory("RssAnon")}
    return {"open_ms": 1e3 * opened, **times, **memory, "found": search(asked, 10)}


def _memory(what: str) -> float:
    """Return a figure of /proc/self/status in MB, 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what)), 0.0)


if __name__ == "__main__":
    main()
