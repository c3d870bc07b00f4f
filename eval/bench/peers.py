"""One of the peers of `eval.bench.late`, in an environment of its own; prints one line of JSON.

python peers.py SYSTEM VECTORS.npz FOLDER PASSES
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 32
Vectors = Sequence[torch.Tensor]
Search = Callable[[Vectors, int], list[list[int]]]


def fastplaid(texts: Vectors, folder: str, probes: int | None) -> tuple[Search, dict[str, Any]]:
    """Build a FastPlaid index with its defaults."""
    from fast_plaid import search as fast

    index = fast.FastPlaid(index=folder, device="cpu")
    index.create(documents_embeddings=texts)

    def search(queries: Vectors, k: int) -> list[list[int]]:
        found = index.search(queries, top_k=k, n_ivf_probe=probes, show_progress=False)
        return [[row for row, _ in hits] for hits in found]

    return search, {"n_ivf_probe": probes}


def xtr_warp(texts: Vectors, folder: str, probes: int | None) -> tuple[Search, dict[str, Any]]:
    """Build an XTR-WARP index with its defaults."""
    from xtr_warp.search import XTRWarp

    index = XTRWarp(folder)
    index.create(texts, device="cpu")
    index.load("cpu")

    def search(queries: Vectors, k: int) -> list[list[int]]:
        threads = 1 if len(queries) == 1 else torch.get_num_threads()
        found = index.search(queries, top_k=k, num_threads=threads, nprobe=probes, show_progress=False)
        return [[row for row, _ in hits] for hits in found]

    return search, {"nprobe": probes or "default"}


SYSTEMS = {
    "fastplaid": (fastplaid, 8),
    "fastplaid-32": (fastplaid, 32),
    "xtr-warp": (xtr_warp, None),
    "xtr-warp-32": (xtr_warp, 32),
}


def main(system: str, file: str, folder: str, passes: int) -> None:
    """Build, measure as `eval.bench.late.measure` does, and tell."""
    with np.load(file) as kept:
        values, offsets = torch.from_numpy(kept["values"].astype(np.float32)), kept["offsets"]
        queries, starts = torch.from_numpy(kept["queries"]), kept["query_offsets"]
    texts = [values[a:b] for a, b in pairwise(offsets)]
    asked = [queries[a:b] for a, b in pairwise(starts)]
    make, probes = SYSTEMS[system]
    started = time.perf_counter()
    search, parameters = make(texts, folder, probes)
    metrics = {"build_s": time.perf_counter() - started}
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    metrics["bytes_per_token"] = sum(path.stat().st_size for path in files) / len(values)
    search(asked[:BATCH], 10)
    single: list[list[float]] = []
    batched: list[float] = []
    # FastPlaid takes minutes for a pass; one is enough to see a factor of ten.
    for _ in range(1 if system.startswith("fastplaid") else passes):
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
    metrics |= {"ms_p50": 1e3 * np.percentile(best, 50), "ms_p95": 1e3 * np.percentile(best, 95)}
    metrics["qps"] = len(asked) / min(batched)
    found = search(asked, 100)
    print(json.dumps({"system": system, "parameters": parameters, "metrics": metrics, "found": found}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
