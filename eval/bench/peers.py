"""One of the peers of `eval.bench.late`, in an environment of its own; prints one line of JSON for every setting.

python -m eval.bench.peers SYSTEM VECTORS.npz FOLDER PASSES
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from eval.bench.timing import Search, measure

Vectors = Sequence[torch.Tensor]


def fastplaid(texts: Vectors, folder: str) -> Callable[[int | None], Search]:
    """Build a FastPlaid index with its defaults."""
    from fast_plaid import search as fast

    index = fast.FastPlaid(index=folder, device="cpu")
    index.create(documents_embeddings=texts)

    def setting(probes: int | None) -> Search:
        def search(queries: Vectors, k: int) -> list[list[int]]:
            found = index.search(queries, top_k=k, n_ivf_probe=probes or 8, show_progress=False)
            return [[row for row, _ in hits] for hits in found]

        return search

    return setting


def xtr_warp(texts: Vectors, folder: str) -> Callable[[int | None], Search]:
    """Build an XTR-WARP index with its defaults."""
    from xtr_warp.search import XTRWarp

    index = XTRWarp(folder)
    index.create(texts, device="cpu")
    index.load("cpu")

    def setting(probes: int | None) -> Search:
        def search(queries: Vectors, k: int) -> list[list[int]]:
            threads = 1 if len(queries) == 1 else torch.get_num_threads()
            found = index.search(queries, top_k=k, num_threads=threads, nprobe=probes, show_progress=False)
            return [[row for row, _ in hits] for hits in found]

        return search

    return setting


SYSTEMS: dict[str, tuple[Callable[[Vectors, str], Callable[[int | None], Search]], list[int | None]]] = {
    "fastplaid": (fastplaid, [None]),
    "xtr-warp": (xtr_warp, [None, 32]),
}


def main(system: str, file: str, folder: str, passes: int) -> None:
    """Build once, measure every setting, and tell."""
    with np.load(file) as kept:
        values, offsets = torch.from_numpy(kept["values"].astype(np.float32)), kept["offsets"]
        queries, starts = torch.from_numpy(kept["queries"]), kept["query_offsets"]
    texts = [values[a:b] for a, b in pairwise(offsets)]
    asked = [queries[a:b] for a, b in pairwise(starts)]
    make, settings = SYSTEMS[system]
    started = time.perf_counter()
    index = make(texts, folder)
    build = time.perf_counter() - started
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / len(values)
    for probes in settings:
        search = index(probes)
        told = {
            "system": system,
            "parameters": {"probes": probes or "default"},
            "metrics": {"build_s": build, "bytes_per_token": size, **measure(search, asked, passes)},
            "found": search(asked, 100),
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
