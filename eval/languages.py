"""Rankings seen by language: who is found by whom, and whom a system prefers.

Of a ranking a number is kept for each pair of languages, so memory does not grow with its depth. Not here: the measures
themselves (:mod:`eval.measures`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
from scipy.special import chdtrc

from data.records import Query
from eval.measures import Measure, Qrels, average_precision, score

UNKNOWN = "und"
# Hits that a user looks at: what bias and PEER are about.
LOOKED_AT = 10

Sums = dict[tuple[str, str], list[float]]
Matrix = dict[str, dict[str, float]]


@dataclass
class Languages:
    """Sums over rankings, by the language of the query and that of the document.

    Attributes:
        language_of: document id -> language code, "" where it is unknown.
        measure: what the matrix holds.
    """

    language_of: Mapping[str, str]
    measure: Measure
    _values: Sums = field(default_factory=lambda: defaultdict(list))
    _limited: Sums = field(default_factory=lambda: defaultdict(list))
    _top: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _relevant: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _peer: list[float] = field(default_factory=list)
    _numbers: dict[str, int] = field(init=False)
    _number_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Number the languages, for a thousand hits are parted by numbers sooner than by names."""
        spoken = sorted({code or UNKNOWN for code in self.language_of.values()} | {UNKNOWN})
        self._numbers = {code: number for number, code in enumerate(spoken)}
        self._number_of = {document: self._numbers[code or UNKNOWN] for document, code in self.language_of.items()}

    def add(self, queries: Sequence[Query], qrels: Qrels, rankings: Mapping[str, Sequence[str]]) -> None:
        """Count the rankings of some queries.

        Args:
            queries: with ids and languages; those without judgements are left out.
            qrels: query id -> document id -> relevance.
            rankings: query id -> document ids, best first.
        """
        asked = {query.id: query.lang or UNKNOWN for query in queries if query.id in qrels}
        answers: dict[str, dict[str, Mapping[str, int]]] = defaultdict(dict)
        found: dict[str, dict[str, list[str]]] = defaultdict(dict)
        for query, language in asked.items():
            ranking, judged = rankings.get(query, ()), self._judged(qrels[query])
            numbers = map(self._number_of.get, ranking, repeat(self._numbers[UNKNOWN]))
            spoken = np.fromiter(numbers, np.int64, len(ranking))
            for other, grades in judged.items():
                part = np.flatnonzero(spoken == self._numbers[other])[: self.measure.cutoff].tolist()
                answers[other][query], found[other][query] = grades, [ranking[i] for i in part]
                self._relevant[language, other] += sum(grade > 0 for grade in grades.values())
            for document in ranking[:LOOKED_AT]:
                self._top[language, self._spoken(document)] += 1
            self._peer.append(peer(qrels[query], ranking[:LOOKED_AT], self.language_of))
            for other, value in _limit(judged, ranking).items():
                self._limited[language, other].append(value)
        for other, judged_there in answers.items():
            for query, values in score([self.measure], judged_there, found[other]).items():
                self._values[asked[query], other].append(values[self.measure.name])

    def result(self) -> dict[str, Any]:
        """Return what `polyseek eval --json` prints as ``languages`` of a system.

        Returns:
            ``matrix``: query language -> document language -> mean of the measure, among documents of that language
            alone; ``monolingual``, ``crosslingual``: the mean of its diagonal and of the rest, and ``gap`` between
            them (None where there is no diagonal or no rest; unknown languages, ``und``, are in neither).
            ``limit_one``: the same matrix and mean of average precision among all documents, where the right answers
            in other languages are left out: LAReQA's variant with one target language. ``shares``: document language
            -> its share among the first 10 hits (``top``) and among the relevant ones. ``own``: the same of the query's
            own language. ``bias``: half the sum of differences between these two shares, for each query language, then
            the mean: 0 where what is found is as mixed as what is right, 1 where they have nothing in common.
            ``PEER@10``: see :func:`peer`.
        """
        matrix, limited = _means(self._values), _means(self._limited)
        pairs = {(a, b): v for a, values in matrix.items() for b, v in values.items() if UNKNOWN not in (a, b)}
        near = [value for (asked, spoken), value in pairs.items() if asked == spoken]
        far = [value for (asked, spoken), value in pairs.items() if asked != spoken]
        ones = [value for values in limited.values() for value in values.values()]
        gap = float(np.mean(near) - np.mean(far)) if near and far else None
        return {
            "measure": self.measure.name,
            "matrix": matrix,
            "monolingual": _mean(near),
            "crosslingual": _mean(far),
            "gap": gap,
            "limit_one": {"matrix": limited, "mean": _mean(ones)},
            "shares": self._shares(),
            "own": self._own(),
            "bias": self._bias(),
            f"PEER@{LOOKED_AT}": _mean(self._peer),
        }

    def _spoken(self, document: str) -> str:
        return self.language_of.get(document) or UNKNOWN

    def _judged(self, judged: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Part judgements by the language of the documents; languages without relevant ones are left out."""
        parts: dict[str, dict[str, int]] = defaultdict(dict)
        for document, grade in judged.items():
            parts[self._spoken(document)][document] = grade
        return {spoken: grades for spoken, grades in parts.items() if max(grades.values()) > 0}

    def _shares(self) -> dict[str, dict[str, float]]:
        top, relevant = (_summed(counts) for counts in (self._top, self._relevant))
        return {
            spoken: {"top": _share(top, spoken), "relevant": _share(relevant, spoken)}
            for spoken in sorted(top.keys() | relevant.keys())
        }

    def _own(self) -> dict[str, float]:
        shares = {}
        for name, counts in (("top", self._top), ("relevant", self._relevant)):
            own = sum(count for (asked, spoken), count in counts.items() if asked == spoken != UNKNOWN)
            shares[name] = own / max(sum(counts.values()), 1)
        return shares

    def _bias(self) -> float | None:
        distances = []
        for language in sorted({asked for asked, _ in self._relevant}):
            top, relevant = (
                {spoken: count for (asked, spoken), count in counts.items() if asked == language}
                for counts in (self._top, self._relevant)
            )
            if top:
                differences = (abs(_share(top, x) - _share(relevant, x)) for x in top.keys() | relevant.keys())
                distances.append(sum(differences) / 2)
        return _mean(distances)


def peer(judged: Mapping[str, int], ranking: Sequence[str], language_of: Mapping[str, str]) -> float:
    """Return the Probability of Equal Expected Rank of one ranking (Yang, Jänich, Mayfield and Lawrie, SIGIR 2024).

    For each grade above 0 it is the p-value of a Kruskal-Wallis test that the documents of that grade have the same
    expected rank in every language; the mean over the grades is taken, all with the same weight. 1 is fair. Relevant
    documents that the ranking lacks share the mean of the ranks behind the last one of their grade. Where one
    language alone has relevant documents, or none is found, it is 1.

    As in the authors' `peer_measure`, H is computed of the ranks in the list as they are, not of their order within a
    grade. It differs in two things: there the number of documents stands in the place of that last rank, by a slip, so
    that a document that was not found may count as better than one that was; and weights are given, and are not shared
    out anew where a query lacks a grade.

    Args:
        judged: document id -> relevance.
        ranking: document ids, best first, cut to what is looked at.
        language_of: document id -> language code.
    """
    ranks = {document: rank for rank, document in enumerate(ranking, 1)}
    values = []
    for grade in {grade for grade in judged.values() if grade > 0}:
        groups: dict[str, list[float]] = defaultdict(list)
        for document, own in judged.items():
            if own == grade:
                groups[language_of.get(document) or UNKNOWN].append(ranks.get(document, np.nan))
        values.append(_equal_ranks(list(groups.values())))
    return float(np.mean(values)) if values else 1.0


def _equal_ranks(groups: Sequence[Sequence[float]]) -> float:
    """Return the p-value of the Kruskal-Wallis test for groups of ranks; what was not found is not a number."""
    ranks = np.concatenate([np.asarray(group, np.float64) for group in groups])
    lost = np.isnan(ranks)
    if len(groups) < 2 or lost.all():
        return 1.0
    ranks[lost] = np.nanmax(ranks) + (lost.sum() + 1) / 2
    mean, ends = ranks.mean(), np.cumsum([len(group) for group in groups])
    means = [part.mean() for part in np.split(ranks, ends[:-1])]
    between = sum(len(group) * (own - mean) ** 2 for group, own in zip(groups, means, strict=True))
    total = float(np.square(ranks - mean).sum())
    if not total:
        return 1.0
    return float(chdtrc(len(groups) - 1, (len(ranks) - 1) * between / total))


def _limit(judged: Mapping[str, Mapping[str, int]], ranking: Sequence[str]) -> dict[str, float]:
    """Return the average precision of the answers in each language, those in the others taken out of the list."""
    right = {d for grades in judged.values() for d, grade in grades.items() if grade > 0}
    places = {d: rank for rank, d in enumerate(ranking, 1) if d in right}
    ranks = {spoken: sorted(places[d] for d in grades if d in places) for spoken, grades in judged.items()}
    everything = sorted(rank for own in ranks.values() for rank in own)
    return {
        spoken: average_precision(
            [rank - bisect_left(everything, rank) + before for before, rank in enumerate(own)],
            sum(grade > 0 for grade in judged[spoken].values()),
        )
        for spoken, own in ranks.items()
    }


def _means(sums: Sums) -> Matrix:
    matrix: Matrix = {}
    for asked, spoken in sorted(sums):
        matrix.setdefault(asked, {})[spoken] = float(np.mean(sums[asked, spoken]))
    return matrix


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None


def _summed(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for (_, spoken), count in counts.items():
        total[spoken] += count
    return total


def _share(counts: Mapping[str, int], language: str) -> float:
    return counts.get(language, 0) / max(sum(counts.values()), 1)
