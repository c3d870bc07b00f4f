"""Bitext retrieval: find each sentence's translation among those of all the others, both ways, as LASER and MTEB do.

Sentences stand in files of pairs, ``sentence<TAB>translation``, one file for each language. Nothing is indexed: the two
sides of a file are compared whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, NotFoundError
from data.lines import fault, numbered_lines
from retriever.encoder import Encoder

SYSTEMS = ("dense", "dense/no-neutral")
BATCH = 1024
# Sentences that are compared with all the others at a time: 16 MB of similarities for a file of 4,096.
ROWS = 1024


def files_of(inputs: Sequence[Path]) -> list[Path]:
    """Return the files named, and for a folder its ``*.tsv`` and ``*.tsv.gz``.

    Raises:
        NotFoundError: a path that is not there, or a folder without such files.
    """
    found: list[Path] = []
    for path in inputs:
        own = sorted([*path.glob("*.tsv"), *path.glob("*.tsv.gz")]) if path.is_dir() else [path]
        if not own or not all(file.is_file() for file in own):
            raise NotFoundError(f"{path} is no file of pairs and no folder with *.tsv in it: give one of them")
        found += own
    return found


def read_pairs(path: Path) -> tuple[list[str], list[str]]:
    """Read ``sentence<TAB>translation`` lines.

    Raises:
        NotFoundError: no such file.
        InputError: a line without exactly one tab, a blank side, no pairs at all; with file and line.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for number, line in numbered_lines(path):
        columns = [column.strip() for column in line.rstrip("\r\n").split("\t")]
        if len(columns) != 2 or not all(columns):
            raise fault(path, number, f"a sentence, a tab and its translation are needed, got {line[:80].strip()!r}")
        for side, text in zip(sides, columns, strict=True):
            side.append(text)
    if not sides[0]:
        raise InputError(f"{path} holds no pairs")
    return sides


def evaluate_bitext(
    inputs: Sequence[Path], encoder: Encoder, on_file: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Measure an encoder's sentence vectors on files of pairs.

    Both sides are encoded as queries, for neither is a passage that answers the other. They are compared as they are
    (``dense/no-neutral``) and language-neutral (``dense``): each side loses its mean and is brought back to unit length
    again, which is what `index.centroids` does to a collection of two equal languages, but for half the mean of
    both, which all vectors would keep.

    Args:
        inputs: files or folders, see :func:`files_of`.
        encoder: one that makes sentence vectors.
        on_file: told the name of every file that is done.

    Returns:
        ``{"encoder", "seconds", "pairs": {name: number}, "systems": {"dense": {"mean": {"forward", "backward",
        "accuracy", "F1"}, "files": {name: {...}}}, "dense/no-neutral": {...}}}``: ``forward`` is the share of sentences
        whose nearest translation (by cosine) is their own, ``backward`` that of translations, ``accuracy`` the mean of
        both, ``F1`` MTEB's (see :func:`f1`). The mean is over files.

    Raises:
        NotFoundError, InputError: files that are not there or cannot be read.
        InputError: an encoder without sentence vectors, or two files of the same name.
    """
    if "dense" not in encoder.dims:
        raise InputError("this encoder makes no sentence vectors, which bitext retrieval compares")
    named: dict[str, Path] = {}
    for path in files_of(inputs):
        name = path.name.removesuffix(".gz").removesuffix(".tsv")
        if name in named:
            raise InputError(f"{named[name]} and {path} have the same name: give them others, or one at a time")
        named[name] = path
    started = time.perf_counter()
    pairs: dict[str, int] = {}
    files: dict[str, dict[str, dict[str, float]]] = {system: {} for system in SYSTEMS}
    for name, path in named.items():
        sentences, translations = read_pairs(path)
        sides = [_vectors(encoder, side) for side in (sentences, translations)]
        pairs[name] = len(sentences)
        files["dense/no-neutral"][name] = _measured(*sides)
        files["dense"][name] = _measured(*map(_neutral, sides))
        if on_file:
            on_file(name)
    systems = {system: {"mean": _mean(own), "files": own} for system, own in files.items()}
    seconds = round(time.perf_counter() - started, 3)
    return {"encoder": encoder.fingerprint["model"], "seconds": seconds, "pairs": pairs, "systems": systems}


def _mean(files: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = next(iter(files.values()))
    return {name: float(np.mean([values[name] for values in files.values()])) for name in names}


def _vectors(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return unit vectors, (n, d)."""
    parts = [encoder.encode_queries(texts[start : start + BATCH]).dense for start in range(0, len(texts), BATCH)]
    return np.concatenate([part for part in parts if part is not None])


def _neutral(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the mean off and bring what is left to unit length."""
    vectors = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _measured(sentences: NDArray[np.float32], translations: NDArray[np.float32]) -> dict[str, float]:
    forward, backward = nearest(sentences, translations), nearest(translations, sentences)
    own = np.arange(len(sentences))
    shares = [float(np.mean(found == own)) for found in (forward, backward)]
    return {"forward": shares[0], "backward": shares[1], "accuracy": sum(shares) / 2, "F1": f1(forward)}


def nearest(asked: NDArray[np.float32], among: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each vector of (n, d) which one of (m, d) has the greatest product with it; of several the first."""
    starts = range(0, len(asked), ROWS)
    return np.concatenate([(asked[start : start + ROWS] @ among.T).argmax(axis=1) for start in starts])


def f1(found: NDArray[np.int64]) -> float:
    """Return MTEB's F1 of bitext mining: that of scikit-learn, weighted, where every sentence is a class of its own.

    A class i that c sentences were given to has a precision of 1 / c and a recall of 1 where its own is among them, so
    2 / (c + 1), and else 0.

    Args:
        found: (n,) for each sentence the translation that was found; its own is that of the same number.
    """
    counts = np.bincount(found, minlength=len(found))
    right = found == np.arange(len(found))
    return float(np.sum(2 / (counts[found[right]] + 1)) / len(found))
