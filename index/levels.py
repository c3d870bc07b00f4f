"""Levels: the second half of language-neutral ranking, see `index.centroids` for the first.

With the centroids gone, texts of some pairs of languages still score higher, or further apart, than others that mean as
much. What a passage of language l scores for a text in g when they have nothing to do with each other is measured on
documents of the collection, some of each language against some of each:

    level(g, l) = mean + standard deviation
    a score loses  (n_g / (n_g + kappa)) * (n_l / (n_l + kappa)) * (level(g, l) - mean over l of level(g, l))

where the last mean is weighted by the languages' shares, so that a collection of one language loses exactly 0. Only
how languages are ranked among each other changes, never the order within one. The same is done with the scores of
speakers and with those of nearest neighbours (T-norm, Auckenthaler et al. 2000; CSLS, Conneau et al. 2018), there by
each query; but what a query finds in a language is also a matter of what there is to find, and among passages on a
subject that one language alone writes about, MRR fell from .65 to .58 with CSLS, while with levels it rose to .66.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.cells import spread
from index.centroids import KAPPA
from index.ragged import Ragged
from index.ranking import Ranked, best
from index.vectors import VectorRows

# Texts that stand for queries, and passages, over all languages, at most.
TEXTS, PASSAGES = 128, 1024
# Of each language at most, and their vectors at most: a question is short.
MOST_TEXTS, MOST_PASSAGES = 16, 128
TEXT, PASSAGE = 16, 64
# Standard deviations in a level. XQuAD-R, late, eight subjects: mAP with all of them in each of eleven languages, MRR
# of the one right passage in some language, and mAP with two subjects in each language, for the documents may differ in
# these as well: without levels .561 .358 .589, with none .577 .381, with one .589 .398 .614, with two .595 .405 .600.
SPREAD = 1.0
# How deep a ranking is looked at for what the levels bring forward, at least. XQuAD-R, 400 queries, late, nDCG@10 with
# 50 .5692, 100 .5694, 500 .5697.
DEPTH = 50


@dataclass(frozen=True, slots=True)
class Levels:
    """What scores lose, for one view of one snapshot.

    Attributes:
        loss: language of a query -> (L,) float32, for each language code of a row; of a dense score, or of the mean
            over the tokens of a query.
        other: (L,) the same for a query in no language of the collection.
        codes: (rows,) the language of each row.
        id_order: (rows,) for ties, see `index.ranking`.
    """

    loss: Mapping[str, NDArray[np.float32]]
    other: NDArray[np.float32]
    codes: NDArray[np.int64]
    id_order: NDArray[np.int64]

    @classmethod
    def measure(cls, rows: VectorRows, score: Callable[[Ragged, Ragged], NDArray[np.float32]]) -> Levels | None:
        """Compare some documents of each language with some of each; None where all are in one.

        Which ones depends on their ids alone, whatever was added or deleted before.

        Args:
            rows: of the view.
            score: texts, passages -> (n, m) scores; not finite, or 0, where there is nothing in one of them.
        """
        counts = np.bincount(rows.codes[rows.live], minlength=len(rows.languages))
        known = [i for i, name in enumerate(rows.languages) if name and counts[i]]
        if len(known) < 2 or not rows.centroids.neutral:
            return None
        texts = _drawn(rows, known, min(MOST_TEXTS, max(2, TEXTS // len(known))))
        passages = _drawn(rows, known, min(MOST_PASSAGES, max(8, PASSAGES // len(known))))
        scores = score(_cut(rows.read(texts, neutral=True), TEXT), _cut(rows.read(passages, neutral=True), PASSAGE))
        usable = np.isfinite(scores) & (scores != 0) & (texts[:, None] != passages)
        levels = np.full((len(known), len(known)), np.nan)
        for i, g in enumerate(known):
            for j, x in enumerate(known):
                block = np.ix_(rows.codes[texts] == g, rows.codes[passages] == x)
                levels[i, j] = _level(scores[block], usable[block])
        return cls(*_losses(levels, [rows.languages[i] for i in known], counts[known], known, len(counts)),
                   rows.codes, rows.id_order)  # fmt: skip

    def lower(self, ranked: Ranked, language: str, tokens: int, k: int) -> Ranked:
        """Return the ``k`` best after every score has lost what its language does, for each of a query's tokens."""
        loss = self.loss.get(language, self.other)[self.codes[ranked.rows]]
        return best(ranked.rows, ranked.scores - np.float32(tokens) * loss, k, id_order=self.id_order)


def _drawn(rows: VectorRows, known: Sequence[int], most: int) -> NDArray[np.int64]:
    """Return some live rows of each language, sorted."""
    chosen = []
    for code in known:
        own = np.flatnonzero(rows.live & (rows.codes == code))
        own = own[np.argsort(rows.id_order[own])]
        chosen.append(own[spread(len(own), most)])
    return np.sort(np.concatenate(chosen))


def _cut(texts: Ragged, most: int) -> Ragged:
    """Return the first vectors of each text."""
    kept = np.minimum(np.diff(texts.offsets), most)
    return Ragged.of([texts[i][:n] for i, n in enumerate(kept)], texts.dims)


def _level(scores: NDArray[np.float32], usable: NDArray[np.bool_]) -> float:
    """Return the mean over the texts of the level of their scores, NaN where none has two passages."""
    rows = [row[some].astype(np.float64) for row, some in zip(scores, usable, strict=True) if some.sum() > 1]
    return float(np.mean([row.mean() + SPREAD * row.std() for row in rows])) if rows else np.nan


def _losses(
    levels: NDArray[np.float64], names: Sequence[str], counts: NDArray[np.int64], known: Sequence[int], codes: int
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Make of levels, (K, K) of the known languages, what each language code loses."""
    weights = counts / (counts + KAPPA)
    shares = counts / counts.sum()
    elsewhere = np.where(np.eye(len(names), dtype=np.bool_), np.nan, levels)
    measured = np.isfinite(elsewhere)
    means = np.where(measured, elsewhere, 0).sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    other = np.where(measured.any(axis=0), means, np.nan)

    def lost(row: NDArray[np.float64], weight: float) -> NDArray[np.float32]:
        some = np.isfinite(row)
        out = np.zeros(codes, np.float32)
        if some.any():
            mean = np.average(row[some], weights=shares[some])
            out[known] = np.where(some, weight * weights * (np.where(some, row, 0) - mean), 0)
        return out

    return {name: lost(levels[i], weights[i]) for i, name in enumerate(names)}, lost(other, 1.0)
