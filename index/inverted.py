"""What finds candidates in the dense view of a large segment: a FAISS inverted file. They are then compared exactly.

    dense.inverted.faiss   cells and, in each, the vectors as bytes (IndexIVFScalarQuantizer, inner product)
    dense.frame.npy        (L, d) float32, the offset of each of the segment's languages when that was written

Vectors stand in it as language-neutral ranking saw them on that day: without the offset of their language, at unit
length. It is of use as long as they lie near enough to where they did.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.ragged import Ragged
from index.ranking import Rows
from index.storage import read_array, write_array

# Cells for n vectors: CELLS * sqrt(n), learned from SAMPLE vectors each in so many rounds.
CELLS, SAMPLE, ROUNDS = 4.0, 40, 6
SEED = 20240607
# Cells that are looked into, and, where many texts are wanted, texts in them for each that is. XQuAD-R (13,014 vectors,
# 456 cells, neutral), recall@10 by cells: 16 .970, 32 .983, 64 .994; recall@1000 by texts: 2 .837, 4 .959, 8 .998.
PROBES, DEPTH = 64, 32
# Vectors read at a time: 25 MB with 384 dims.
CHUNK = 1 << 14
NAME = "dense.inverted.faiss"


def write_inverted(
    folder: Path,
    vectors: Ragged,
    codes: NDArray[np.integer],
    languages: Sequence[str],
    offsets: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write the files. In memory are all vectors as bytes, and those that the cells are learned from.

    Args:
        folder: an existing folder.
        vectors: one a text, (n, d); those of zeros are left out.
        codes: (n,) the position of each text's language in ``languages``.
        languages: those that occur.
        offsets: what a vector of each loses.
    """
    frame = np.stack([offsets[name] for name in languages]).astype(np.float32)

    def neutral(rows: Rows) -> NDArray[np.float32]:
        values: NDArray[np.float32] = vectors.values[rows].astype(np.float32) - frame[codes[rows]]
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        return values

    filled = np.flatnonzero(np.any(vectors.values, axis=1))
    total, dims = len(filled), vectors.dims
    count = max(1, min(total, int(CELLS * total**0.5)))
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dims), dims, count, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.seed, index.cp.spherical = ROUNDS, SEED, True
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = SAMPLE, 1
    drawn = np.sort(np.random.default_rng(SEED).choice(filled, min(total, count * SAMPLE), replace=False))
    index.train(neutral(drawn) if total else np.eye(1, dims, dtype=np.float32))
    for start in range(0, total, CHUNK):
        rows = filled[start : start + CHUNK]
        index.add_with_ids(neutral(rows), rows)
    with (folder / NAME).open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
        file.flush()
        os.fsync(file.fileno())
    write_array(folder / "dense.frame.npy", frame)


class InvertedFile:
    """The inverted file of a segment with n texts, mapped. Safe to share between threads."""

    def __init__(self, folder: Path, languages: Sequence[str], texts: int) -> None:
        """Map the files; ``languages`` are those of the frame, ``texts`` is n."""
        self._texts = texts
        self.languages = languages
        self.frame = read_array(folder / "dense.frame.npy")
        index: Any = faiss.read_index(str(folder / NAME), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0  # FAISS would start 32 threads for every search
        self._index = index

    def __len__(self) -> int:
        """Return how many of the texts have a vector."""
        return int(self._index.ntotal)

    def search(self, queries: NDArray[np.float32], most: int, allowed: NDArray[np.bool_] | None) -> list[Rows]:
        """Return up to ``most`` texts for each query that are likely to be nearest to it.

        Args:
            queries: (q, d) unit vectors as they are compared.
            most: texts for each; as many as are allowed, if there are fewer.
            allowed: (n,) which texts may be found, None for all.
        """
        possible = len(self) if allowed is None else min(len(self), int(np.count_nonzero(allowed)))
        most = min(most, possible)
        if most == 0 or len(queries) == 0:
            return [np.empty(0, np.int64)] * len(queries)
        selector = None
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore[call-arg,arg-type]
        cells = self._index.nlist
        # A filter leaves fewer texts in every cell, so more cells are looked into, until as many texts are compared.
        probes = int(max(PROBES, DEPTH * most * cells / len(self)) * len(self) / possible)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=min(probes, cells), sel=selector)  # type: ignore[call-arg]
            found = self._index.search(queries, most, params=parameters)[1]
            if probes >= cells or np.all(found[:, -1] >= 0):
                return [rows[(rows >= 0) & (rows < self._texts)] for rows in found]
            probes *= 4
