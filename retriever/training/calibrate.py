"""Learn what ships with the untrained model: the late-interaction projection and the centroid of every language.

    python -m retriever.training.calibrate PARALLEL.jsonl.gz data/models/multilingual-e5-small

The text is parallel sentences, ``{"en", "text", "lang", "source"}`` a line. Of every language up to 200 sentences are
drawn, as many from each source. The projection is the principal component analysis of their token vectors *after* the
mean of each language was taken off: without that the first components tell languages apart, which nobody searches for
(XQuAD-R mAP .459 instead of .482, prompt tokens included).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.records import normalize_language
from index.ragged import Ragged
from index.segment import Vectors
from index.storage import write_array, write_json
from retriever.bundled import unpack
from retriever.encoder import Encoder
from retriever.training.projection import principal

DIMS = 128
SENTENCES = 200
LENGTHS = range(20, 401)  # characters of the English side: no labels, no walls of text


def sample(path: Path, *, seed: int = 0) -> list[tuple[str, str]]:
    """Draw (language, text) pairs, the same ones whenever the file and the seed are the same."""
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if len(row["en"]) in LENGTHS:
                texts[normalize_language(row["lang"])][row["source"]].append(row["text"])
                texts["en"][row["source"]].append(row["en"])
    rng = random.Random(seed)
    drawn = []
    for language in sorted(texts):
        sources = texts[language]
        for source in sorted(sources):
            candidates = sorted(set(sources[source]))
            chosen = rng.sample(candidates, min(SENTENCES // len(sources), len(candidates)))
            drawn += [(language, text) for text in chosen]
    return drawn


def projection(tokens: Ragged, languages: NDArray[np.str_], dims: int = DIMS) -> NDArray[np.float32]:
    """Return the first principal directions of token vectors, each language centred, (dims, d)."""
    owner = np.repeat(languages, np.diff(tokens.offsets))
    values = tokens.values.astype(np.float64)
    for language in np.unique(owner):
        values[owner == language] -= values[owner == language].mean(axis=0)
    return principal(values, np.empty((0, values.shape[1])), dims)


def centroids(vectors: Ragged, languages: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return the mean vector of each language in alphabetical order, (L, d)."""
    owner = np.repeat(languages, np.diff(vectors.offsets))
    return np.stack([vectors.values[owner == x].mean(axis=0) for x in np.unique(languages)]).astype(np.float32)


def calibrate(path: Path, folder: Path) -> None:
    """Encode the sample with the bundled backbone and write projection and centroids."""
    drawn = sample(path)
    languages = np.array([language for language, _ in drawn])
    with tempfile.TemporaryDirectory() as scratch:
        unpack(Path(scratch), None)
        found = encode(Encoder.load(scratch), [text for _, text in drawn])
    if found.dense is None or found.late is None:
        raise ValueError("the bundled model gives both kinds of vectors")
    matrix = projection(found.late, languages)
    projected = found.late.values @ matrix.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_array(folder / "projection.npy", matrix)
    write_centroids(folder, found.dense, Ragged(projected, found.late.offsets), languages)


def write_centroids(folder: Path, dense: NDArray[np.float32], late: Ragged, languages: NDArray[np.str_]) -> None:
    """Write the centroids of both kinds of vectors, of n texts whose languages are given."""
    each = Ragged(dense, np.arange(len(dense) + 1, dtype=np.int64))
    write_array(folder / "centroids.dense.npy", centroids(each, languages))
    write_array(folder / "centroids.late.npy", centroids(late, languages))
    write_json(folder / "centroids.json", {"languages": np.unique(languages).tolist()})


def encode(encoder: Encoder, texts: list[str]) -> Vectors:
    """Encode texts with a bar."""
    with tqdm(unit="token") as bar:

        def on_progress(done: int) -> None:
            bar.update(done)

        return encoder.encode_documents(texts, on_progress)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parallel", type=Path, help="parallel sentences, *.jsonl.gz")
    parser.add_argument("folder", type=Path, help="where projection and centroids go")
    arguments = parser.parse_args()
    calibrate(arguments.parallel, arguments.folder)


if __name__ == "__main__":
    main()
