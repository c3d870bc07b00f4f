"""Language-neutral ranking: one centroid per language and view, and what is removed from a vector of that language.

A multilingual encoder puts every language into a cone of its own, so that a wrong passage in the query's language
lies closer than the right one in another. Only the *difference* between languages biases a ranking, so a vector of
language l loses

    offset_l = mu_l - alpha * mean,      mean = sum_l p_l mu_l,      alpha = sum_l p_l ** 2

where p_l is the share of language l among the documents. alpha is Simpson's concentration index: the probability that
two documents drawn at random share their language. In a collection of one language alpha is 1, the mean is that
language's own centroid, the offset is exactly 0 and every query in that language scores as it would without; a
query in another one is moved towards the collection's. With many languages alpha goes to 0 and the centroids go nearly
whole. `docs/architecture.md` has the measurements.

mu_l of a language with few documents is shrunk towards a prior. The prior takes from the centroids that ship with the
model how languages differ, and from the collection itself where its subject lies:

    prior_l = M + trust * (s_l - S),      mu_l = (n_l m_l + kappa * prior_l) / (n_l + kappa)

with m_l the mean of the language's n_l documents here, M the mean of the collection, s_l the shipped centroid and S
the shipped centroids weighted as the collection's languages are.

Sums are float64 over float16 values. Those are multiples of 2 ** -24 and a component of a unit vector is at most 1, so
a sum of up to 2 ** 29 of them fits the 53 bits of a float64 and is exact: adds and deletes in any order give the same
bits as a fresh build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
# How many documents the prior is worth. XQuAD-R, dense, n other documents in each language, MRR for kappa 0, 2, 10, 50,
# infinity: n = 1 .300 .928 .940 .938 .935, n = 10 .848 .857 .864 .861 .851, n = 100 .689 .689 .690 .690 .655.
KAPPA = 10.0
# How much of a shipped difference between languages holds for other text than it was measured on. Queries of ten
# languages in a collection of the eleventh, XQuAD-R, mean MRR by this: 0 .652, .25 .670, .5 .673, .75 .670, 1 .661.
TRUST = 0.5


@dataclass(frozen=True, slots=True)
class Prior:
    """The centroids that ship with a model for one view.

    Attributes:
        languages: normalised codes.
        means: (L, d) float32, one centroid per language.
    """

    languages: tuple[str, ...]
    means: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check that every language has its centroid."""
        if self.means.ndim != 2 or len(self.means) != len(self.languages):
            raise ValueError(f"{len(self.languages)} languages but centroids of shape {self.means.shape}")


@dataclass(frozen=True, slots=True)
class LanguageSums:
    """Exact sums of the vectors of each language; they add and subtract.

    Attributes:
        sums: language -> (d,) float64.
        vectors: language -> how many vectors were summed (tokens, in the late view).
        documents: language -> how many documents they came from.
    """

    sums: Mapping[str, NDArray[np.float64]]
    vectors: Mapping[str, int]
    documents: Mapping[str, int]

    def plus(self, other: LanguageSums, sign: int = 1) -> LanguageSums:
        """Return the sums over both (``sign=1``) or over this without the other (``sign=-1``)."""
        languages = sorted({*self.sums, *other.sums})
        zero = np.zeros(1)

        def number(a: Mapping[str, int], b: Mapping[str, int], language: str) -> int:
            return a.get(language, 0) + sign * b.get(language, 0)

        return LanguageSums(
            {x: self.sums.get(x, zero) + sign * other.sums.get(x, zero) for x in languages},
            {x: number(self.vectors, other.vectors, x) for x in languages},
            {x: number(self.documents, other.documents, x) for x in languages},
        )


NO_SUMS = LanguageSums({}, {}, {})


def sum_by_language(
    values: NDArray[np.floating], offsets: NDArray[np.int64], codes: NDArray[np.integer], languages: Sequence[str]
) -> LanguageSums:
    """Sum the vectors of each language.

    Args:
        values: (T, d) vectors of n texts.
        offsets: (n + 1,) where each text begins.
        codes: (n,) position of each text's language in ``languages``.
        languages: normalised codes, "" for unknown.
    """
    sums = np.zeros((len(languages), values.shape[1]))
    counts = np.zeros(len(languages), np.int64)
    chunk = 4096  # texts at a time: about 50 MB of token vectors at 45 tokens and 128 dims
    for start in range(0, len(codes), chunk):
        stop = min(start + chunk, len(codes))
        part = np.asarray(values[offsets[start] : offsets[stop]])
        owner = np.repeat(codes[start:stop], np.diff(offsets[start : stop + 1]))
        for code in np.unique(owner):
            chosen = part[owner == code]
            sums[code] += chosen.sum(axis=0, dtype=np.float64)
            counts[code] += len(chosen)
    documents = np.bincount(codes, minlength=len(languages))
    present = [i for i in range(len(languages)) if documents[i]]
    return LanguageSums(
        {languages[i]: sums[i] for i in present},
        {languages[i]: int(counts[i]) for i in present},
        {languages[i]: int(documents[i]) for i in present},
    )


def concentration(documents: Mapping[str, int]) -> float:
    """Return Simpson's index of a collection's languages: 1 for one language, 1 / n for n equal ones.

    Args:
        documents: language -> how many; "" (unknown) does not count.
    """
    # Sorted, so that the last bit does not depend on the order of adds and deletes.
    counts = np.array(sorted(n for language, n in documents.items() if language and n > 0), np.float64)
    return float(np.sum((counts / counts.sum()) ** 2)) if len(counts) else 1.0


class Centroids:
    """What is removed from the vectors of each language, for one view of one snapshot."""

    def __init__(self, sums: LanguageSums, prior: Prior | None, dims: int) -> None:
        """Compute every language's offset.

        Args:
            sums: over the live documents; the language "" (unknown) counts towards the mean only.
            prior: the shipped centroids, or None for a model without: small languages then shrink to the mean.
            dims: d, for a collection without documents.
        """
        self._shipped: dict[str, NDArray[np.float64]] = {}
        if prior:
            self._shipped = dict(zip(prior.languages, prior.means.astype(np.float64), strict=True))
        total = sum(sums.vectors.values())
        self._center = sum(sums.sums.values(), np.zeros(dims)) / max(total, 1)
        known = sorted(x for x in sums.sums if x and sums.documents[x] > 0)
        documents = np.array([sums.documents[x] for x in known], np.float64)
        shares = documents / documents.sum() if len(known) else documents
        self._anchor = self._shipped_mean(known, shares)
        weights = documents / (documents + KAPPA)
        self._means = {
            x: w * (sums.sums[x] / max(sums.vectors[x], 1)) + (1 - w) * self._prior(x)
            for x, w in zip(known, weights, strict=True)
        }
        self.alpha = concentration(sums.documents)
        self._mean = sum((p * self._means[x] for x, p in zip(known, shares, strict=True)), np.zeros(dims))
        if not known:
            self._mean = self._center

    @property
    def neutral(self) -> bool:
        """Whether there is anything to remove from documents: False in a collection of one language."""
        return self.alpha < 1.0

    def offset(self, language: str) -> Vector:
        """Return what a vector of ``language`` loses, (d,) float32; "" is a text of unknown language."""
        return (self._mean_of(language) - self.alpha * self._mean).astype(np.float32)

    def mean(self, language: str) -> Vector:
        """Return mu_l, (d,) float32; the mean of all languages for an unknown one."""
        return self._mean_of(language).astype(np.float32)

    def _mean_of(self, language: str) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = self._mean
        if language in self._means:
            mean = self._means[language]
        elif language in self._shipped:
            mean = self._prior(language)
        return mean

    def _shipped_mean(self, languages: Sequence[str], shares: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return S over the languages that ship, or None where none of them does."""
        pairs = [(p, self._shipped[x]) for x, p in zip(languages, shares, strict=True) if x in self._shipped]
        if not pairs:
            return None
        weights, means = zip(*pairs, strict=True)
        return np.array(np.average(means, axis=0, weights=weights), np.float64)

    def _prior(self, language: str) -> NDArray[np.float64]:
        """Return prior_l, or M for a language that does not ship."""
        if self._anchor is None or language not in self._shipped:
            return self._center
        return self._center + TRUST * (self._shipped[language] - self._anchor)
