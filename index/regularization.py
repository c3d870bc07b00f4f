"""Score regularization across languages: a text and its translations are as right as each other (Diaz 2005).

What says the same in several languages is scored several times, each time with another error. So the score of a text
moves towards the mean of its own and those of its translations among the candidates:

    mean(d) = (score(d) + sum over t of w(d, t) * score(t)) / (1 + W),     W = sum over t of w(d, t)
    w(d, t) = (1 - alpha) * clip((cosine - FAR) / (NEAR - FAR), 0, 1)
    score(d) + min(1, W / ENOUGH) * (mean(d) - score(d))

A translation of d in language l is the candidate of l that lies nearest to d, if d lies nearest to it among those of
its own language. Neighbours in d's own language do not count: they are other texts on the subject, and SciFact's
nDCG@10 falls from .702 to .673 with them. Cosines are of vectors without the whole mean of their language: what is left
is what the text is about. alpha is that of `index.centroids`: in a collection mostly of one language few texts are
translated, and what is nearest in another one may be something else; in a collection of one language scores stay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from index.ranking import Scores

# Of centred vectors: two texts chosen at random have 0, translations of XQuAD-R's sentences .37 to .64 (the half in the
# middle), other sentences of the same article .35 where they are nearest (one of twenty).
FAR, NEAR = 0.3, 0.6
# So many translations settle it; one alone may be none. XQuAD-R, 260 questions on eight subjects, mAP of every sentence
# in each of eleven languages, and of one right sentence in one language; nDCG@10 of AfriQA's questions in English
# (fused by ranks): without .540 .353 .8167, at once .686 .487 .8062, from one on .682 .521 .8166, from two on .677
# .542 .8175.
ENOUGH = 2
# Weights are whole numbers of these: the last bits of a cosine, which depend on the order that vectors were added in,
# break no tie.
STEP = 1 / 256
# What is nearer by less is as near: a text that stands twice is the same translation twice.
TIED = 1e-5


def regularize(scores: Scores, vectors: NDArray[np.float32], languages: NDArray[np.int64], alpha: float) -> Scores:
    """Return the scores of candidates after each has moved towards the mean with its translations.

    Args:
        scores: (n,), any unit, higher is better.
        vectors: (n, d) unit vectors without the mean of their language; zeros where nothing is left.
        languages: (n,) codes, negative for unknown: such texts are nobody's translation.
        alpha: the collection's concentration of languages, from 0 (very many) to 1 (one).
    """
    known, codes = np.unique(languages, return_inverse=True)
    cosines = vectors @ vectors.T
    nearest = np.empty((len(scores), len(known)), np.int64)  # of each language
    for code in range(len(known)):
        own = np.flatnonzero(codes == code)
        nearest[:, code] = own[cosines[:, own].argmax(axis=1)]
    best = np.take_along_axis(cosines, nearest, axis=1)
    mutual = best >= best[nearest, codes[:, None]] - TIED
    usable = mutual & (codes[:, None] != np.arange(len(known))) & (known >= 0) & (languages >= 0)[:, None]
    near = np.clip((best - FAR) / (NEAR - FAR), 0, 1)
    weights = (1 - alpha) * np.where(usable, np.round(near / STEP) * STEP, 0).astype(np.float64)
    total = weights.sum(axis=1)
    means = (scores + (weights * scores[nearest]).sum(axis=1)) / (1 + total)
    return np.asarray(scores + np.minimum(1, total / ENOUGH) * (means - scores), np.float32)
