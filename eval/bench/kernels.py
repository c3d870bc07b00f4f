"""MaxSim of a query against passages, side by side: PyTorch, NumKong, NumPy and Polyseek's kernels, each on one core.

    python -m eval.bench.kernels DATASET [--vectors FILE.npz] [--quick]

DATASET is a BEIR folder, encoded as for ``eval.bench.late``, whose file of vectors may be given. Every system has the
passages in the form that it likes best beforehand: padded for PyTorch, packed for NumKong, in codes for Polyseek.
"error" is the largest difference from scores made in float64, in parts of the number of the query's tokens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numkong
import numpy as np
import torch
from numpy.typing import NDArray

from eval.bench import results
from eval.bench.late import arguments, vectors
from index import kernels
from index.coded import EVERYWHERE, CodedQuery, CodedTokens
from index.coding import BITS, Coding, write_coded
from index.maxsim import maxsim
from index.ragged import Ragged

PASSAGES, ASKED, PASSES = 2000, 50, 3

Score = Callable[[NDArray[np.float32]], NDArray[np.floating]]
# Name, parameters, bytes a token, and what gives the scores of all passages for one query's tokens (T, d).
System = tuple[str, dict[str, Any], float, Score]


def main() -> None:
    """Run the benchmark."""
    given = arguments(__doc__).parse_args()
    with np.load(vectors(given)) as kept:
        everything, queries = Ragged(kept["values"], kept["offsets"]), Ragged(kept["queries"], kept["query_offsets"])
    texts = everything.take(np.linspace(0, len(everything) - 1, min(PASSAGES, len(everything))).astype(np.int64))
    asked = queries.take(np.arange(min(ASKED, len(queries))))
    rows = run(Ragged(texts.values.astype(np.float32), texts.offsets), asked, 1 if given.quick else PASSES)
    print(results.write("kernels", rows, given.to))


def run(texts: Ragged, queries: Ragged, passes: int) -> list[dict[str, Any]]:
    """Measure every kernel."""
    torch.set_num_threads(1)
    wanted = maxsim(queries, texts, dtype=np.float64)
    rows = []
    for system, parameters, size, score in _systems(texts):
        score(queries[0])
        best = np.inf
        for _ in range(passes):
            started = time.perf_counter()
            found = np.stack([score(queries[i]) for i in range(len(queries))])
            best = min(best, time.perf_counter() - started)
        error = np.abs(found - wanted) / np.diff(queries.offsets)[:, None]
        pairs = len(texts.values) * len(queries.values)
        metrics = {
            "us_per_passage": 1e6 * best / len(texts) / len(queries),
            "ns_per_pair": 1e9 * best / pairs,
            "bytes_per_token": size,
            "error": float(error.max()),
        }
        rows.append({"system": system, "parameters": parameters, "metrics": metrics})
        print(results.table(rows[-1:]), flush=True)
    return rows


def _systems(texts: Ragged) -> list[System]:
    vectors, dims = [texts[i] for i in range(len(texts))], texts.dims
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(v) for v in vectors], batch_first=True)
    filled = torch.arange(padded.shape[1]) < torch.tensor(np.diff(texts.offsets))[:, None]
    pad = padded.numel() / len(texts.values) * 4

    def pytorch(query: NDArray[np.float32]) -> NDArray[np.floating]:
        similar = torch.tensor(query) @ padded.transpose(1, 2)
        return np.asarray(similar.masked_fill_(~filled[:, None], -2).amax(2).sum(1))

    def numpy(query: NDArray[np.float32]) -> NDArray[np.floating]:
        return np.asarray(maxsim(Ragged(query, np.array([0, len(query)], np.int64)), texts)[0])

    systems: list[System] = [
        ("PyTorch", {"type": "f32, padded"}, pad, pytorch),
        ("NumPy", {"type": "f32"}, 4.0 * dims, numpy),
    ]
    systems += [_numkong(vectors, "f32"), _numkong(vectors, "f16")]
    return systems + [_polyseek(texts, bits) for bits in BITS]


def _numkong(vectors: list[NDArray[np.floating]], kind: Literal["f32", "f16"]) -> System:
    taken = {"f32": np.float32, "f16": np.float16}[kind]
    packed = [numkong.maxsim_pack(np.ascontiguousarray(v, taken), dtype=kind) for v in vectors]

    def score(query: NDArray[np.float32]) -> NDArray[np.floating]:
        own = numkong.maxsim_pack(np.ascontiguousarray(query, taken), dtype=kind)
        # It sums angular distances, 1 - cosine.
        return len(query) - np.array([numkong.maxsim_packed(own, text) for text in packed])

    # It packs vectors as they are, and bytes of them beside.
    return "NumKong", {"type": kind}, vectors[0].shape[1] * ({"f32": 4, "f16": 2}[kind] + 1), score


def _polyseek(texts: Ragged, bits: int) -> System:
    everything = np.zeros(len(texts), np.uint16)
    with tempfile.TemporaryDirectory() as name:  # what is mapped stays readable
        coding = Coding(bits, {"": np.zeros(texts.dims, np.float32)})
        write_coded(Path(name), [(texts, everything, [""], np.arange(len(texts)))], [""], coding)
        view = CodedTokens(Path(name), everything)
    rows = np.arange(len(texts))

    def score(query: NDArray[np.float32]) -> NDArray[np.floating]:
        ready = CodedQuery.of(query, view, neutral=True)
        out = np.empty(len(rows), np.float32)
        kernels.maxsim(ready.blocks, ready.bias, view.coded, True, EVERYWHERE, rows, out)
        return out

    return "polyseek-late", {"bits": bits}, bits * texts.dims / 8 + 4, score


if __name__ == "__main__":
    main()
